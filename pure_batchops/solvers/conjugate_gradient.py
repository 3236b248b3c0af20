"""The inverse by conjugate gradients."""

from functools import partial

from torch import Tensor

from pure_batchops.rows import RowFunction
from pure_batchops.solvers.inverse import LinAlgError, dots, operation_on_rows
from pure_batchops.solvers.steps import RowSolution, Solve, solver
from pure_batchops.tracing import raise_or_nan
from pure_batchops.types import Batch, Buffers, Operation, Params


def conjugate_gradient(
    op: Operation,
    regularization: float | Tensor,
    *,
    tolerance: float | None = None,
    max_steps: int = 100,
    preconditioner: Operation | None = None,
) -> Operation:
    """The inverse (m(batch) + λI)⁻¹ by conjugate gradients, for all K right-hand sides at once; each stops by itself.

    Args:
        op: any symmetric operation, on a batch or, as `averaged(op)`, on batches. Each step reads all batches once.
        regularization: λ ≥ 0 such that m + λI is positive definite; or a 0-dim tensor, which may be vmapped.
        tolerance: a right-hand side is solved when ‖v − (m + λI) x‖ ≤ tolerance · ‖v‖. By default 1e-5, and in half
            precision, where products themselves are no more exact, four times the rounding of the dtype of params: 0.031
            for bfloat16, 0.0039 for float16.
        max_steps: the most products for each. Under torch.compile, and under vmap, all are taken.
        preconditioner: an operation on the same batch, near (m + λI)⁻¹, such as `nystroem(op, regularization)`.

    Returns:
        `op(params, buffers, batch, v) -> x`, symmetric and positive definite to within the tolerance. Under vmap and
        torch.compile, where no number can be read, rows that would have raised LinAlgError are NaN instead.

    Raises:
        TypeError: if op or preconditioner is not a function, or an option is not a number.
        ValueError: if regularization is negative, tolerance not between 0 and 1, or max_steps not positive. The operation
            raises it for a v that is not finite.
        torch.linalg.LinAlgError: by the operation, if the tolerance is not reached or negative curvature is met;
            `conjugate_gradient_solution` returns what was found.

    Examples:
        >>> import torch
        >>> from pure_batchops import hessian
        >>> op = hessian(lambda params, buffers, x: (params * x).square().sum(1) / 2)
        >>> inverse = conjugate_gradient(op, 1.0)
        >>> inverse(torch.zeros(2), {}, torch.tensor([[1.0, 2.0]]), torch.tensor([4.0, 10.0]))
        tensor([2., 2.])

    References:
        Hestenes and Stiefel (1952), Methods of conjugate gradients for solving linear systems.
    """
    solve_at = solver(op, regularization, tolerance, max_steps, preconditioner)

    def at(params: Params, buffers: Buffers, batch: Batch) -> RowFunction:
        return partial(_converged_rows, *solve_at(params, buffers, batch), max_steps)

    return operation_on_rows(at)


def _converged_rows(solve: Solve, tolerance: float, max_steps: int, rows: Tensor) -> Tensor:
    result = solve(rows)
    relative = result.residual_norms / dots(rows, rows).sqrt()
    error = partial(_not_converged, result, relative, tolerance, max_steps)
    return raise_or_nan(result.converged, result.solution, error)


def _not_converged(result: RowSolution, relative: Tensor, tolerance: float, max_steps: int, good: Tensor) -> Exception:
    bad, total = int((~good).sum()), f"of {len(good)} right-hand sides"
    if result.negative_curvature.any():
        return LinAlgError(
            f"m + regularization * I must be positive definite for conjugate_gradient, got a direction of no or negative "
            f"curvature for {int(result.negative_curvature.sum())} {total}; raise regularization above the size of the most "
            "negative eigenvalue, or use gauss_newton or generalized_gauss_newton instead of hessian"
        )
    return LinAlgError(
        f"conjugate_gradient must reach residuals of {tolerance:.3g} of v's norm, got up to "
        f"{float(relative[~good].max()):.3g} for {bad} {total} in {int(result.steps.max())} of at most {max_steps} "
        "steps; raise max_steps, tolerance or regularization, give a preconditioner, or use params of a higher precision "
        "(residuals end near the rounding of params times the condition number: 1e-7 times in float32, 1e-3 in float16, "
        "1e-2 in bfloat16); conjugate_gradient_solution returns what was found"
    )
