"""Lanczos: a symmetric matrix, seen from a growing space, is tridiagonal."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from pure_batchops import tracing
from pure_batchops.estimators.rows import RowMap
from pure_batchops.noise import uniform


class Tridiagonal(NamedTuple):
    """T = Q A Qᵀ for each of S starts, after m steps.

    Attributes:
        diagonal: α, `(S, m)`.
        beside: β, `(S, m − 1)`, not negative; zero where the space of a start was used up and another one began.
        basis: Q, `(S, m, D)`, orthonormal rows, the first along the start.
    """

    diagonal: Tensor
    beside: Tensor
    basis: Tensor


def lanczos(matrix: RowMap, starts: Tensor, steps: int, seed: int) -> Tridiagonal:
    """The tridiagonal matrices T of a symmetric matrix in the spaces span(s, A s, A² s, …) of its starts.

    Each new row is made orthogonal to all before it, twice. Where a space is used up (its start has a part in few
    eigenspaces only), β is zero and a random row orthogonal to the basis goes on: m = D steps give all eigenvalues, each
    as often as it occurs.

    Args:
        matrix: a symmetric matrix.
        starts: `(S, D)`, none of them zero.
        steps: m, at most D.
        seed: of the random rows, which are a function of seed and place.

    Returns:
        What `Tridiagonal` says.

    References:
        Parlett (1998), The Symmetric Eigenvalue Problem, chapters 6 and 13.
    """
    count, row = len(starts), _unit(starts)
    basis, diagonal, beside = [row[:, None]], [], []
    for step in range(1, steps + 1):
        image = matrix.multiply(row)
        diagonal.append((image * row).sum(1))
        if step < steps:
            row, length = _next(image, basis, partial(directions, matrix, count, seed, start=step * count))
            basis = _grown(basis, row[:, None])
            beside.append(length)
    return Tridiagonal(torch.stack(diagonal, 1), torch.stack(beside, 1) if beside else starts[:, :0], torch.cat(basis, 1))


def ritz(found: Tridiagonal) -> tuple[Tensor, Tensor]:
    """The eigenvalues of T, ascending, `(S, m)`, and its eigenvectors as columns, `(S, m, m)`."""
    off = torch.diag_embed(found.beside, 1)
    values, vectors = torch.linalg.eigh(torch.diag_embed(found.diagonal) + off + off.mT)
    return values, vectors


def directions(matrix: RowMap, rows: int, seed: int, *, start: int = 0) -> Tensor:
    """Random rows `start`, `start + 1`, … of a table without end, `(rows, D)`, a function of seed and place."""
    like = matrix.like
    return (uniform(seed, (rows, matrix.size), like, start=start * matrix.size) - 0.5).to(like.dtype)


def _grown(blocks: list[Tensor], block: Tensor) -> list[Tensor]:
    """The blocks of a basis and one more; two of a size become one, so a row is copied log₂ m times, and not m."""
    if blocks and blocks[-1].shape[1] == block.shape[1]:
        return _grown(blocks[:-1], torch.cat([blocks[-1], block], 1))
    return [*blocks, block]


def _next(image: Tensor, basis: list[Tensor], noise: Callable[[], Tensor]) -> tuple[Tensor, Tensor]:
    """What is new in the image, as a unit row, and its length β; an image that has nothing new gives noise and zero."""
    left = _orthogonal(_orthogonal(image, basis), basis)
    length = left.norm(dim=1)
    rounding = 10 * torch.finfo(image.dtype).eps * image.shape[1] ** 0.5
    used_up = length <= rounding * image.norm(dim=1)
    if tracing.readable(used_up.any()) is False:
        return left / length[:, None], length
    other = _unit(_orthogonal(_unit(_orthogonal(noise(), basis)), basis))
    row = torch.where(used_up[:, None], other, left / torch.where(used_up, 1, length)[:, None])
    return row, torch.where(used_up, 0, length)


def _orthogonal(rows: Tensor, basis: list[Tensor]) -> Tensor:
    for block in basis:
        rows = rows - torch.einsum("smd,sm->sd", block, torch.einsum("smd,sd->sm", block, rows))
    return rows


def _unit(rows: Tensor) -> Tensor:
    return rows / rows.norm(dim=1, keepdim=True)
