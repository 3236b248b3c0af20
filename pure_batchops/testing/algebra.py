"""The laws of a matrix that is a mean over samples: linear, symmetric, semi-definite, the mean over any split."""

from functools import reduce

import torch
from torch import Tensor

from pure_batchops.batches import has_samples, part
from pure_batchops.testing.agreement import Tolerance, agree
from pure_batchops.testing.case import Case, combined, product, vector
from pure_batchops.testing.parts import cut, repeated
from pure_batchops.trees import leaves, map_leaves, rebuilt
from pure_batchops.types import Tree

_FEW = 5
"""Points that are repeated often."""

_STEPS = 24
"""Of Lanczos: the whole spectrum of a matrix of this size, the two ends of a larger one's."""


def linear(case: Case) -> bool:
    """The product must be linear in v: m(2u − 3w) = 2 m u − 3 m w, m 0 = 0, and m(1000 u) = 1000 m u."""
    u, w = vector(case, 1), vector(case, 2)
    image = product(case, u)
    agree(product(case, combined(2, u, -3, w)), combined(2, image, -3, product(case, w)), case.tolerance)
    zeros = map_leaves(torch.zeros_like, u)
    agree(product(case, zeros), zeros, Tolerance(), "for v = 0")
    size = 30.0 if any(leaf.dtype == torch.float16 for leaf in leaves(u)) else 1000.0  # float16 ends at 65504
    large = product(case, map_leaves(lambda leaf: size * leaf, u))
    agree(map_leaves(lambda leaf: leaf / size, large), image, case.tolerance, f"for {size:g} u, divided by it")
    return True


def symmetric(case: Case) -> bool:
    """The matrix must be symmetric: u · m w = w · m u."""
    drawn = [vector(case, salt) for salt in range(1, 5)]
    products = [product(case, v) for v in drawn]
    table = torch.stack([torch.stack([_dot(v, mw) for mw in products]) for v in drawn])
    agree(_as_params(table, case), _as_params(table.mT, case), case.tolerance, "in the table of vᵢ · m vⱼ")
    return True


def semi_definite(case: Case) -> bool:
    """The matrix must be positive semi-definite: v · m v ≥ 0 for every v."""
    if not case.semi_definite:
        return False
    basis: list[Tensor] = []
    images: list[Tensor] = []
    v = _column(vector(case, 1))
    for _ in range(min(_STEPS, len(v))):  # Lanczos, each v made orthogonal to all before
        size = v.norm()
        for _ in range(2):
            v = reduce(lambda rest, q: rest - (q @ rest) * q, basis, v)
        if v.norm() <= 1e-8 * size:
            break
        basis.append(v / v.norm())
        v = _column(product(case, _tree(case, basis[-1])))
        images.append(v)
    matrix = torch.stack(basis) @ torch.stack(images).mT
    spectrum = torch.linalg.eigvalsh((matrix + matrix.mT) / 2)
    scale = spectrum.abs().max()
    allowed = case.tolerance.allowed(scale, scale.item(), leaves(case.params)[0].dtype).item()
    if not spectrum[0] >= -allowed:
        msg = (
            f"got v · m v = {spectrum[0].item():.9g} for a v of length one, where the largest is {spectrum[-1].item():.9g} "
            f"({-allowed:.3g} is allowed)"
        )
        raise AssertionError(msg)
    return True


def split(case: Case) -> bool:
    """The product of a batch must be the mean over its parts, weighted by their points: m(batch) is a mean over samples."""
    tensors = [leaf for leaf in leaves(case.batch) if has_samples(leaf, case.batch_dim)]
    if not tensors or tensors[0].shape[case.batch_dim] < 2:
        return False
    v = vector(case, 1)
    parts = cut(case.batch, case.batch_dim, case.seed)
    n = sum(points for _, points in parts)
    products = [(product(case._replace(batch=piece), v), points / n) for piece, points in parts]
    zeros = map_leaves(torch.zeros_like, v)
    mean = reduce(lambda total, pair: combined(1, total, pair[1], pair[0]), products, zeros)
    sizes = ", ".join(str(points) for _, points in parts)
    image = product(case, v)
    agree(image, mean, case.tolerance, f"for parts of {sizes} points")
    _repeated(case, v, image, n)
    return True


def _repeated(case: Case, v: Tree, image: Tree, n: int) -> None:
    """Check that nothing changes if each point is repeated, also so often that they are many and a multiple of five."""
    few = min(n, _FEW)
    first = part(case.batch, 0, few, case.batch_dim, n)
    for batch, points, times in ((case.batch, n, 2), (first, few, 5 if few % 5 else 3)):
        expected = image if points == n else product(case._replace(batch=batch), v)
        longer = product(case._replace(batch=repeated(batch, case.batch_dim, times)), v)
        agree(longer, expected, case.tolerance, f"for {points} points, each {times} times in a row")


def _dot(one: Tree, other: Tree) -> Tensor:
    return _column(one) @ _column(other)


def _column(tree: Tree) -> Tensor:
    """A tree as one vector in double precision, in which the rounding of a law is none of the operation's."""
    return torch.cat([leaf.detach().cpu().double().flatten() for leaf in leaves(tree)])


def _tree(case: Case, column: Tensor) -> Tree:
    likes = leaves(case.params)
    pieces = column.split([like.numel() for like in likes])
    return rebuilt(case.params, [piece.reshape(like.shape).to(like) for piece, like in zip(pieces, likes, strict=True)])


def _as_params(table: Tensor, case: Case) -> Tensor:
    """Numbers in the dtype of params, whose tolerance is theirs."""
    return table.to(leaves(case.params)[0].dtype)
