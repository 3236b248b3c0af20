"""Eigenvalues at the ends of the spectrum, with their vectors."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from pure_batchops import checks
from pure_batchops.estimators.arpack import arpack
from pure_batchops.estimators.lanczos import directions, lanczos, ritz
from pure_batchops.estimators.linear_operator import scipy_linalg
from pure_batchops.estimators.rows import RowMap, row_map
from pure_batchops.types import Batch, Buffers, Operation, Params


class Eigenpairs(NamedTuple):
    """Numbers and vectors with A u = θ u, or nearly so.

    Attributes:
        values: θ, `(k,)`, from the end that was asked for inwards; of both ends, from the largest down.
        vectors: u, `(k, D)`, orthonormal rows, flat in the order of params.
        residuals: ‖A u − θ u‖, `(k,)`, from a product with u: no eigenvalue is farther from θ than this.
    """

    values: Tensor
    vectors: Tensor
    residuals: Tensor


def eigenpairs(
    op: Operation,
    k: int,
    *,
    which: str = "largest",
    method: str = "lanczos",
    steps: int | None = None,
    seed: int = 0,
) -> Callable[[Params, Buffers, Batch], Eigenpairs]:
    """The k eigenpairs of a symmetric matrix at an end of its spectrum, A uᵢ = θᵢ uᵢ, ‖uᵢ‖ = 1.

    `"lanczos"` takes a fixed number of steps, so that it vmaps and compiles; how good its pairs are is in their residuals,
    and more steps make them better. It sees a repeated eigenvalue once until its space is used up. `"scipy"` restarts
    until it has converged, by `scipy.sparse.linalg.eigsh`. Ends are algebraic: the smallest is the most negative.

    Args:
        op: any symmetric operation, on a batch or, as `averaged(op)`, on batches that can be read again.
        k: the number of pairs.
        which: `"largest"`, `"smallest"`, or `"both"`: half of them from each end, the largest one more if k is odd.
        method: `"lanczos"` or `"scipy"`.
        steps: the number of products before the residuals, by default 2k + 50, and never more than D, which are all pairs
            exactly; all of these vectors are held. For `"scipy"` the number of vectors that it holds, by default its own.
        seed: of the start, which is a function of the seed alone, the same for every member of an ensemble.

    Returns:
        `pairs(params, buffers, batch) -> Eigenpairs`, in the precision of params, at least single. The sign of a vector is
        that which makes its product with the start positive.

    Raises:
        TypeError: if op is no operation, or k, steps or seed is no whole number.
        ValueError: if which or method is unknown, k is not positive, or steps are fewer than k. The function that is
            returned raises it if k is larger than D, or if scipy meets torch.vmap or torch.compile.
        ModuleNotFoundError: if method is `"scipy"` and it is not there.
        ArpackNoConvergence: of scipy's, from the function that is returned, if it stops before it has converged, which it
            does for eigenvalues near zero beside large ones.

    Examples:
        >>> from pure_batchops import hessian
        >>> op = hessian(lambda params, buffers, x: (params * x).square().sum(1))
        >>> point = torch.zeros(3), {}, torch.tensor([[1.0, 2.0, 3.0]])
        >>> values, vectors, residuals = eigenpairs(op, 2)(*point)
        >>> values.round(), vectors.round().abs()
        (tensor([18.,  8.]), tensor([[0., 0., 1.],
                [0., 1., 0.]]))

    References:
        Parlett (1998), The Symmetric Eigenvalue Problem.
    """
    checks.operation("op", op)
    number, noise = checks.whole("k", k), checks.whole("seed", seed, 0)
    checks.option("which", which, ("largest", "smallest", "both"))
    checks.option("method", method, ("lanczos", "scipy"))
    most = None if steps is None else checks.whole("steps", steps, number)
    if method == "scipy":
        scipy_linalg()

    def pairs(params: Params, buffers: Buffers, batch: Batch) -> Eigenpairs:
        matrix = row_map(op, params, buffers, batch)
        if number > matrix.size:
            msg = f"k must be at most {matrix.size}, the numbers that params hold, got {number}"
            raise ValueError(msg)
        start = directions(matrix, 1, noise)[0]
        if method == "lanczos":
            values, vectors = _krylov(matrix, number, which, most or 2 * number + 50, start, noise)
        else:
            values, vectors = arpack(matrix, number, which, most, start)
            index = _ends(len(values), number, which)
            values, vectors = values[index], vectors[index]
        vectors = torch.where(vectors @ start < 0, -1, 1)[:, None] * vectors
        return Eigenpairs(values, vectors, (matrix.multiply(vectors) - values[:, None] * vectors).norm(dim=1))

    return pairs


def _krylov(matrix: RowMap, k: int, which: str, steps: int, start: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """The Ritz pairs at the ends, of one run of Lanczos."""
    found = lanczos(matrix, start[None], min(steps, matrix.size), seed)
    (values,), (columns,) = ritz(found)
    index = _ends(len(values), k, which)
    return values[index], columns[:, index].mT @ found.basis[0]


def _ends(count: int, k: int, which: str) -> list[int]:
    """The places of the ends among that many values in ascending order."""
    top = {"largest": k, "smallest": 0, "both": k - k // 2}[which]
    first, last = list(range(count - 1, count - 1 - top, -1)), list(range(k - top))
    return first + last[::-1] if which == "both" else first + last
