"""The inverse of the dense matrix."""

from functools import partial

import torch
from torch import Tensor

from pure_batchops import checks
from pure_batchops.operations.dense import dense
from pure_batchops.rows import RowFunction
from pure_batchops.solvers.inverse import LinAlgError, lengths, operation_on_rows
from pure_batchops.tracing import raise_or_nan
from pure_batchops.types import Batch, Buffers, Operation, Params


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
        torch.linalg.LinAlgError: by the operation, if m + λI is singular to working precision.

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
        factors, pivots, _ = torch.linalg.lu_factor_ex(matrix)
        tolerance = torch.finfo(matrix.dtype).eps ** 0.5

        return partial(_solved, matrix, factors, pivots, tolerance)

    return operation_on_rows(at)


def _solved(matrix: Tensor, factors: Tensor, pivots: Tensor, tolerance: float, rows: Tensor) -> Tensor:
    solution = torch.linalg.lu_solve(factors, pivots, rows.mT).mT
    residual = rows - solution @ matrix.mT
    return raise_or_nan(lengths(residual) <= tolerance * lengths(rows), solution, _singular)


def _singular(good: Tensor) -> Exception:
    return LinAlgError(
        f"m + regularization * I must be invertible, got a matrix that is singular to working precision: "
        f"{int((~good).sum())} of {len(good)} right-hand sides have no accurate solution; raise regularization, or use params "
        "in float64"
    )
