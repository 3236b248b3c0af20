"""The method of Lanczos: in a growing space, a symmetric matrix becomes tridiagonal."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pure_batchops import tracing
from pure_batchops.noise import uniform
from pure_batchops.rows import RowMap
from pure_batchops.solvers.inverse import lengths, scales

Stop = Callable[[list[Tensor], list[Tensor]], bool]
"""`(α, β) -> whether to stop`, from the diagonal and the off-diagonal of T so far."""


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


def lanczos(matrix: RowMap, starts: Tensor, steps: int, seed: int | Tensor, stop: Stop | None = None) -> Tridiagonal:
    """The tridiagonal matrices T of a symmetric matrix in the spaces span(s, A s, A² s, …) of its starts.

    Each new row is made orthogonal to all rows before it, twice. Where a space is used up (its start has a part in few
    eigenspaces only), β is zero, and a random row that is orthogonal to the basis goes on: m = D steps give all eigenvalues,
    each as often as it occurs.

    Args:
        matrix: a symmetric matrix.
        starts: `(S, D)`, none of them zero.
        steps: m, at most D.
        seed: of the random rows, which are a function of seed and place.
        stop: whether to stop before all steps are taken.

    Returns:
        What `Tridiagonal` says.

    References:
        Parlett (1998), The Symmetric Eigenvalue Problem, chapters 6 and 13.
    """
    count, row = len(starts), _unit(starts)
    basis = [row[:, None]]
    diagonal: Any = []  # C3
    beside: Any = []
    for step in range(1, steps + 1):
        image = matrix.multiply(row)
        diagonal.append((image * row).sum(1))
        if step == steps:
            break
        row, length = _next(image, basis, partial(directions, matrix, count, seed, start=step * count))
        if stop is not None and stop(diagonal, [*beside, length]):
            break
        basis = _grown(basis, row[:, None])
        beside.append(length)
    return tridiagonal(diagonal, beside, torch.cat(basis, 1))


def tridiagonal(diagonal: list[Tensor], beside: list[Tensor], basis: Tensor) -> Tridiagonal:
    """The matrix T from its columns, each `(S,)`."""
    alpha = torch.stack(diagonal, 1)
    return Tridiagonal(alpha, torch.stack(beside, 1) if beside else alpha[:, :0], basis)


def ritz(matrix: Tridiagonal) -> tuple[Tensor, Tensor]:
    """The eigenvalues of T, ascending, `(S, m)`, and its eigenvectors as columns, `(S, m, m)`."""
    scale = scales(torch.cat([matrix.diagonal, matrix.beside], 1))
    off = torch.diag_embed(matrix.beside / scale, 1)
    values, vectors = torch.linalg.eigh(torch.diag_embed(matrix.diagonal / scale) + off + off.mT)
    return values * scale, vectors


def directions(matrix: RowMap, rows: int, seed: int | Tensor, *, start: int = 0) -> Tensor:
    """Random rows `start`, `start + 1`, … of a table without end, `(rows, D)`, a function of seed and place."""
    like = matrix.like
    return (uniform(seed, (rows, matrix.size), like, start=start * matrix.size) - 0.5).to(like.dtype)


def _grown(blocks: list[Tensor], block: Tensor) -> list[Tensor]:
    """The blocks of a basis and one more. Two blocks of one size are joined, so each row is copied log₂ m times, and not m."""
    if blocks and blocks[-1].shape[1] == block.shape[1]:
        return _grown(blocks[:-1], torch.cat([blocks[-1], block], 1))
    return [*blocks, block]


def _next(image: Tensor, basis: list[Tensor], noise: Callable[[], Tensor]) -> tuple[Tensor, Tensor]:
    """The part of the image that is new, as a unit row, and its length β; noise and zero if nothing is new."""
    size = lengths(image)
    left = _orthogonal(_orthogonal(image / torch.where(size > 0, size, 1)[:, None], basis), basis)
    length = left.norm(dim=1)
    used_up = length <= 10 * torch.finfo(image.dtype).eps * image.shape[1] ** 0.5
    if tracing.readable(used_up.any()) is False:
        return left / length[:, None], length * size
    other = _unit(_orthogonal(_unit(_orthogonal(noise(), basis)), basis))
    row = torch.where(used_up[:, None], other, left / torch.where(used_up, 1, length)[:, None])
    return row, torch.where(used_up, 0, length * size)


def _orthogonal(rows: Tensor, basis: list[Tensor]) -> Tensor:
    for block in basis:
        rows = rows - torch.einsum("smd,sm->sd", block, torch.einsum("smd,sd->sm", block, rows))
    return rows


def _unit(rows: Tensor) -> Tensor:
    return rows / rows.norm(dim=1, keepdim=True)
