"""The Ritz pairs at the ends of a spectrum, by the method of Lanczos, until they have converged."""

from functools import partial

import torch
from torch import Tensor

from pure_batchops import tracing
from pure_batchops.estimators.lanczos import Tridiagonal, directions, lanczos, ritz, tridiagonal
from pure_batchops.rows import RowMap

STEPS_BETWEEN_CHECKS = 4
"""A check for convergence costs an eigendecomposition of T, so it is not made at every step."""

STEPS_FOR_A_SECOND_LOOK = 8
"""The steps, from another start, that look for eigenvalues that the first start did not show."""


def krylov(
    matrix: RowMap, k: int, which: str, steps: int, start: Tensor, seed: int | Tensor, tolerance: float
) -> tuple[Tensor, Tensor]:
    """The Ritz pairs at the ends.

    Lanczos stops when the wanted pairs have converged, where numbers can be read. From one start it sees each eigenvalue once.
    A second, short run on the rest of the space therefore looks for repeated ones; if it finds any, all steps are taken.

    Args:
        matrix: a symmetric matrix.
        k: the number of pairs.
        which: `"largest"`, `"smallest"` or `"both"`.
        steps: the most steps of one run. D steps or more give all pairs exactly, so all D are taken.
        start: `(D,)`.
        seed: of random rows.
        tolerance: the largest residual, relative to ‖A‖.

    Returns:
        The eigenvalues, `(k,)`, and unit eigenvectors as rows, `(k, D)`.
    """
    if steps >= matrix.size:
        return _ends_of(lanczos(matrix, start[None], matrix.size, seed), k, which)
    run = lanczos(matrix, start[None], steps, seed, partial(_is_converged, k, which, tolerance))
    values, vectors = _ends_of(run, k, which)
    if run.diagonal.shape[1] == steps or not _has_others(matrix, values, vectors, which, seed, tolerance):
        return values, vectors
    return _ends_of(lanczos(matrix, start[None], steps, seed), k, which)


def ends(count: int, k: int, which: str) -> list[int]:
    """The places of the ends among that many values in ascending order."""
    first = list(range(count - 1, count - 1 - _from_the_top(k, which), -1))
    last = list(range(k - _from_the_top(k, which)))
    return first + last[::-1] if which == "both" else first + last


def _from_the_top(k: int, which: str) -> int:
    return {"largest": k, "smallest": 0, "both": k - k // 2}[which]


def _ends_of(matrix: Tridiagonal, k: int, which: str) -> tuple[Tensor, Tensor]:
    (values,), (columns,) = ritz(matrix)
    places = ends(len(values), k, which)
    return values[places], columns[:, places].mT @ matrix.basis[0]


def _is_converged(k: int, which: str, tolerance: float, diagonal: list[Tensor], beside: list[Tensor]) -> bool:
    """Whether the wanted Ritz pairs have residuals |β_m s_mi| ≤ tolerance · ‖T‖, where s are the eigenvectors of T."""
    steps = len(diagonal)
    # Where a space is used up (β = 0), the residuals are zero, and say nothing about what the space does not see.
    if steps % STEPS_BETWEEN_CHECKS or steps < k or tracing.readable(torch.stack(beside).min() > 0) is not True:
        return False
    values, vectors = ritz(tridiagonal(diagonal, beside[:-1], beside[-1]))
    residuals = beside[-1] * vectors[0, -1, ends(steps, k, which)].abs()
    return bool((residuals <= tolerance * values.abs().max()).all())


def _has_others(matrix: RowMap, values: Tensor, vectors: Tensor, which: str, seed: int | Tensor, tolerance: float) -> bool:
    """Whether the space orthogonal to the vectors has eigenvalues farther out than these values."""
    k, steps = len(values), min(STEPS_FOR_A_SECOND_LOOK, matrix.size - len(values))
    rest = matrix._replace(multiply=partial(_deflated, matrix, vectors))
    start = _without(vectors, directions(matrix, 1, seed, start=matrix.size))
    (others,), _ = ritz(lanczos(rest, start, steps, seed))
    slack, top = tolerance * values.abs().max(), _from_the_top(k, which)
    above = top > 0 and bool(others[-1] > values[:top].min() + slack)
    below = top < k and bool(others[0] < values[top:].max() - slack)
    return above or below


def _deflated(matrix: RowMap, vectors: Tensor, rows: Tensor) -> Tensor:
    return _without(vectors, matrix.multiply(_without(vectors, rows)))


def _without(vectors: Tensor, rows: Tensor) -> Tensor:
    return rows - (rows @ vectors.mT) @ vectors
