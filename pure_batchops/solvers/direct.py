"""The inverse of the dense matrix."""

from functools import partial

import torch
from torch import Tensor

from pure_batchops import checks
from pure_batchops.noise import normal
from pure_batchops.operations.dense import dense
from pure_batchops.rows import RowFunction
from pure_batchops.solvers.inverse import LinAlgError, lengths, operation_on_rows, scales
from pure_batchops.tracing import raise_or_nan
from pure_batchops.types import Batch, Buffers, Operation, Params

PROBES = 8
"""The random rows that tell whether a matrix is singular."""


def direct(op: Operation, regularization: float | Tensor) -> Operation:
    """The inverse (m(batch) + λI)⁻¹ of the dense matrix, for small D: D products, D² numbers, D³ operations.

    Args:
        op: any operation, on a batch or, as `averaged(op)`, on batches.
        regularization: λ ≥ 0; or a 0-dim tensor, which may be vmapped.

    Returns:
        `op(params, buffers, batch, v) -> x`, symmetric if op is; also of an indefinite matrix. Under vmap and torch.compile,
        where no number can be read, rows that would have raised LinAlgError are NaN instead.

    Raises:
        TypeError: if op is not a function, or regularization is not a number.
        ValueError: if regularization is negative. The operation raises it for a v that is not finite.
        torch.linalg.LinAlgError: by the operation, if m + λI is singular to working precision, also for a v
            in its range.

    Examples:
        >>> from pure_batchops import hessian
        >>> op = hessian(lambda params, buffers, x: (params * x).square().sum(1) / 2)
        >>> direct(op, 1.0)(torch.zeros(2), {}, torch.tensor([[1.0, 2.0]]), torch.tensor([4.0, 10.0]))
        tensor([2., 2.])
    """
    checks.operation("op", op)
    regularization = checks.not_negative("regularization", regularization)

    def at(params: Params, buffers: Buffers, batch: Batch) -> RowFunction:
        matrix = dense(op)(params, buffers, batch)
        matrix = matrix.to(torch.promote_types(matrix.dtype, torch.float32))
        matrix = matrix + regularization * torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
        solve = partial(_solution, *_factors(matrix))
        condition = _condition(matrix.detach(), solve)
        return partial(_solved, matrix, solve, condition)

    return operation_on_rows(at)


def _factors(matrix: Tensor) -> tuple[Tensor, ...]:
    """P, L and U of the matrix over its largest number, and that number. torch's own `lu_solve` is wrong in nested vmap."""
    scale = scales(matrix.reshape(1, -1))[0]
    factors, pivots, _ = torch.linalg.lu_factor_ex(matrix / scale)
    return *torch.lu_unpack(factors, pivots), scale


def _solution(permutation: Tensor, lower: Tensor, upper: Tensor, scale: Tensor, rows: Tensor) -> Tensor:
    columns = permutation.mT @ rows.mT
    half = torch.linalg.solve_triangular(lower, columns, upper=False, unitriangular=True)
    return torch.linalg.solve_triangular(upper, half, upper=True).mT / scale


def _condition(matrix: Tensor, solve: RowFunction) -> Tensor:
    """About ‖A‖ ‖A⁻¹‖, the second from what random rows become: one may miss the worst direction, but not all."""
    rows = normal(0, (PROBES, len(matrix)), matrix)
    growth = (lengths(solve(rows).detach()) / lengths(rows)).max() if rows.numel() else rows.sum()
    return growth * lengths(matrix.reshape(1, -1))[0] * len(matrix) ** 0.5


def _solved(matrix: Tensor, solve: RowFunction, condition: Tensor, rows: Tensor) -> Tensor:
    solution = solve(rows)
    residual = rows - solution @ matrix.mT
    rounding = torch.finfo(matrix.dtype).eps
    good = (lengths(residual) <= rounding**0.5 * lengths(rows)) & (condition * rounding < 1)
    return raise_or_nan(good, solution, partial(_singular, condition))


def _singular(condition: Tensor, good: Tensor) -> Exception:
    return LinAlgError(
        f"m + regularization * I must be invertible, got a matrix that is singular to working precision (condition number "
        f"about {float(condition):.2g}): {int((~good).sum())} of {len(good)} right-hand sides have no accurate solution; "
        "raise regularization, or use params in float64"
    )
