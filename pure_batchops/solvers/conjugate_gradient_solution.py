"""What conjugate gradients find, with how good it is."""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from pure_batchops.rows import width
from pure_batchops.solvers.inverse import finite
from pure_batchops.solvers.solver import solver
from pure_batchops.types import Batch, Buffers, Operation, Params, Vector
from pure_batchops.vectors import vector_form


class Solution(NamedTuple):
    """What conjugate gradients found, for one right-hand side `()` or for K of them `(K,)`.

    Attributes:
        solution: x, in the form of v.
        residual_norms: ‖v − (m + λI) x‖, by one more product, not by the recursion.
        steps: the products that each took.
        converged: whether ‖v − (m + λI) x‖ ≤ tolerance · ‖v‖.
        negative_curvature: whether the method met a direction p with pᵀ(m + λI)p ≤ 0, where it ends.
    """

    solution: Vector
    residual_norms: Tensor
    steps: Tensor
    converged: Tensor
    negative_curvature: Tensor


def conjugate_gradient_solution(
    op: Operation,
    regularization: float | Tensor,
    *,
    tolerance: float | None = None,
    max_steps: int = 100,
    preconditioner: Operation | None = None,
) -> Callable[[Params, Buffers, Batch, Vector], Solution]:
    """What `conjugate_gradient` finds, with how good it is.

    Args:
        op: as for `conjugate_gradient`, and so the others.
        regularization: λ.
        tolerance: of the residual, relative to v.
        max_steps: the most products.
        preconditioner: an operation near the inverse.

    Returns:
        `solution(params, buffers, batch, v) -> Solution`, also if it has not converged.

    Raises:
        TypeError: as `conjugate_gradient`.
        ValueError: as `conjugate_gradient`.

    Examples:
        >>> import torch
        >>> from pure_batchops import hessian
        >>> solve = conjugate_gradient_solution(hessian(lambda params, buffers, x: -(params * x) ** 2), 1.0)
        >>> solve(torch.zeros(1), {}, torch.tensor([1.0]), torch.tensor([1.0])).negative_curvature
        tensor(True)
    """
    solve_at = solver(op, regularization, tolerance, max_steps, preconditioner)

    def solution(params: Params, buffers: Buffers, batch: Batch, v: Vector) -> Solution:
        width(params)
        form = vector_form(params, v)
        rows = form.rows()
        solve, _ = solve_at(params, buffers, batch)
        x, *facts = solve(finite(rows))
        return Solution(form.of_rows(x.to(rows.dtype)), *(fact[0] if form.vectors is None else fact for fact in facts[:4]))

    return solution
