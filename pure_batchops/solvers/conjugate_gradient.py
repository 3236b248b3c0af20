"""The inverse by conjugate gradients."""

from functools import partial

from torch import Tensor

from pure_batchops.rows import RowFunction
from pure_batchops.solvers.converged import converged_rows
from pure_batchops.solvers.inverse import operation_on_rows
from pure_batchops.solvers.solver import solver
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
        torch.compile, where no number can be read, rows that would have raised LinAlgError are NaN instead. Derivatives by v,
        params, buffers, batch and regularization, of any order, solve the same equation again; op must be symmetric. The
        preconditioner is a constant for them. Forward mode inside forward mode is refused; compiled, derivatives are NaN.

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
        return partial(converged_rows, *solve_at(params, buffers, batch), max_steps)

    return operation_on_rows(at)
