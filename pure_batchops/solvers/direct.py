"""The inverse of the dense matrix."""

from functools import partial

import torch
from torch import Tensor

from pure_batchops import checks
from pure_batchops.operations.dense import dense
from pure_batchops.solvers.rows import LinAlgError, RowMap, dots, only, operation_on_rows
from pure_batchops.types import Batch, Buffers, Operation, Params


def direct(op: Operation, regularization: float | Tensor) -> Operation:
    """The inverse (m(batch) + λI)⁻¹ of the dense matrix, for small D: D products, D² numbers, D³ operations.

    Args:
        op: any operation, on a batch or, as `averaged(op)`, on batches.
        regularization: λ ≥ 0; or a 0-dim tensor, which may be vmapped.

    Returns:
        `op(params, buffers, batch, v) -> x`, symmetric if op is; also of an indefinite matrix. Under vmap and torch.compile,
        where no number can be read, what raises LinAlgError elsewhere is NaN.

    Raises:
        TypeError: if op is no function, or regularization is no number.
        ValueError: if regularization is negative. The operation raises it for a v that is not finite.
        torch.linalg.LinAlgError: by the operation, if m + λI is singular to working precision.

    Examples:
        >>> from pure_batchops import hessian
        >>> op = hessian(lambda params, buffers, x: (params * x).square().sum(1) / 2)
        >>> direct(op, 1.0)(torch.zeros(2), {}, torch.tensor([[1.0, 2.0]]), torch.tensor([4.0, 10.0]))
        tensor([2., 2.])
    """
    checks.operation("op", op)
    damping = checks.not_negative("regularization", regularization)

    def at(params: Params, buffers: Buffers, batch: Batch) -> RowMap:
        matrix = dense(op)(params, buffers, batch)
        matrix = matrix.to(torch.promote_types(matrix.dtype, torch.float32))
        matrix = matrix + damping * torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
        factors, pivots, _ = torch.linalg.lu_factor_ex(matrix)
        tolerance = torch.finfo(matrix.dtype).eps ** 0.5

        return partial(_solved, matrix, factors, pivots, tolerance)

    return operation_on_rows(at)


def _solved(matrix: Tensor, factors: Tensor, pivots: Tensor, tolerance: float, rows: Tensor) -> Tensor:
    found = torch.linalg.lu_solve(factors, pivots, rows.mT).mT
    residual = rows - found @ matrix.mT
    return only(dots(residual, residual) <= tolerance**2 * dots(rows, rows), found, _singular)


def _singular(good: Tensor) -> Exception:
    return LinAlgError(
        f"m + regularization * I must be invertible, got one singular to working precision, for {int((~good).sum())} of "
        f"{len(good)} right-hand sides; raise regularization, or take parameters in float64"
    )
