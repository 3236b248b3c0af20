"""The inverse by conjugate gradients."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from pure_batchops import checks, tracing
from pure_batchops.solvers.rows import LinAlgError, RowMap, dots, finite, only, operation_on_rows, plus, rows_of, width
from pure_batchops.types import Batch, Buffers, Operation, Params, Vector
from pure_batchops.vectors import vector_form


class Solution(NamedTuple):
    """What conjugate gradients found, for one right-hand side `()` or for K of them `(K,)`.

    Attributes:
        solution: x, in the form of v.
        residual_norms: ‖v − (m + λI) x‖, by one more product, not by the recursion.
        steps: the products that each took.
        converged: whether ‖v − (m + λI) x‖ ≤ tolerance · ‖v‖.
        negative_curvature: whether a direction p with pᵀ(m + λI)p ≤ 0 was met, where the method ends.
    """

    solution: Vector
    residual_norms: Tensor
    steps: Tensor
    converged: Tensor
    negative_curvature: Tensor


class _State(NamedTuple):
    x: Tensor
    residual: Tensor
    direction: Tensor
    descent: Tensor  # residual · preconditioned residual
    active: Tensor
    steps: Tensor
    negative: Tensor


def conjugate_gradient(
    op: Operation,
    regularization: float | Tensor,
    *,
    tolerance: float = 1e-5,
    max_steps: int = 100,
    preconditioner: Operation | None = None,
) -> Operation:
    """The inverse (m(batch) + λI)⁻¹ by conjugate gradients, for all K right-hand sides at once, each stopping by itself.

    Args:
        op: any symmetric operation, on a batch or, as `averaged(op)`, on batches, which are read once for each step.
        regularization: λ ≥ 0 such that m + λI is positive definite; or a 0-dim tensor, which may be vmapped.
        tolerance: a right-hand side is solved when ‖v − (m + λI) x‖ ≤ tolerance · ‖v‖.
        max_steps: the most products for each. Under torch.compile, and under vmap, all are taken.
        preconditioner: an operation on the same batch, near (m + λI)⁻¹, as `nystroem(op, regularization)` is.

    Returns:
        `op(params, buffers, batch, v) -> x`, symmetric and positive definite to within the tolerance. Under vmap and
        torch.compile, where no number can be read, a right-hand side that raises LinAlgError elsewhere is NaN.

    Raises:
        TypeError: if op or preconditioner is no function, or an option is no number.
        ValueError: if regularization is negative, tolerance not between 0 and 1, or max_steps not positive. The operation
            raises it for a v that is not finite.
        torch.linalg.LinAlgError: by the operation, if the tolerance is not reached or negative curvature is met;
            `conjugate_gradient_solution` returns what was found.

    Examples:
        >>> from pure_batchops import hessian
        >>> op = hessian(lambda params, buffers, x: (params * x).square().sum(1) / 2)
        >>> inverse = conjugate_gradient(op, 1.0)
        >>> inverse(torch.zeros(2), {}, torch.tensor([[1.0, 2.0]]), torch.tensor([4.0, 10.0]))
        tensor([2., 2.])

    References:
        Hestenes and Stiefel (1952), Methods of conjugate gradients for solving linear systems.
    """
    solve_at = _solver(op, regularization, tolerance, max_steps, preconditioner)

    def at(params: Params, buffers: Buffers, batch: Batch) -> RowMap:
        return partial(_only_converged, solve_at(params, buffers, batch), float(tolerance), int(max_steps))

    return operation_on_rows(at)


def conjugate_gradient_solution(
    op: Operation,
    regularization: float | Tensor,
    *,
    tolerance: float = 1e-5,
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
        `solution(params, buffers, batch, v) -> Solution`, which is not refused when it is not converged.

    Raises:
        TypeError: as `conjugate_gradient`.
        ValueError: as `conjugate_gradient`.

    Examples:
        >>> from pure_batchops import hessian
        >>> solve = conjugate_gradient_solution(hessian(lambda params, buffers, x: -(params * x) ** 2), 1.0)
        >>> solve(torch.zeros(1), {}, torch.tensor([1.0]), torch.tensor([1.0])).negative_curvature
        tensor(True)
    """
    solve_at = _solver(op, regularization, tolerance, max_steps, preconditioner)

    def solution(params: Params, buffers: Buffers, batch: Batch, v: Vector) -> Solution:
        form, _ = vector_form(params, v), width(params)
        rows = form.rows()
        found = solve_at(params, buffers, batch)(finite(rows))
        told = found[1:] if form.vectors is not None else (field[0] for field in found[1:])
        return Solution(form.of_rows(found.solution.to(rows.dtype)), *told)

    return solution


def _solver(
    op: Operation, regularization: float | Tensor, tolerance: float, max_steps: int, preconditioner: Operation | None
) -> Callable[[Params, Buffers, Batch], Callable[[Tensor], Solution]]:
    checks.operation("op", op)
    checks.operation("preconditioner", preconditioner or op)
    damping = checks.not_negative("regularization", regularization)
    share, most = checks.fraction("tolerance", tolerance), checks.whole("max_steps", max_steps)

    def at(params: Params, buffers: Buffers, batch: Batch) -> Callable[[Tensor], Solution]:
        multiply = rows_of(op, params, buffers, batch)
        near = rows_of(preconditioner, params, buffers, batch) if preconditioner is not None else _as_it_is
        return partial(_solved, partial(_damped, multiply, damping), near, share, most)

    return at


def _damped(multiply: RowMap, damping: float | Tensor, rows: Tensor) -> Tensor:
    return plus(multiply(rows), damping, rows)


def _as_it_is(rows: Tensor) -> Tensor:
    return rows


def _only_converged(solve: Callable[[Tensor], Solution], tolerance: float, max_steps: int, rows: Tensor) -> Tensor:
    found = solve(rows)
    shares = found.residual_norms / dots(rows, rows).sqrt()
    return only(found.converged, found.solution, partial(_not_solved, found, shares, tolerance, max_steps))


def _solved(multiply: RowMap, near: RowMap, tolerance: float, max_steps: int, rows: Tensor) -> Solution:
    goals = tolerance * dots(rows, rows).sqrt()
    start = near(rows)
    nothing = torch.zeros_like(goals)
    state = _State(
        torch.zeros_like(rows), rows, start, dots(rows, start), goals > 0, nothing.to(torch.int64), nothing.to(torch.bool)
    )
    for _ in range(max_steps):
        if tracing.readable(state.active.any()) is False:
            break
        state = _step(state, multiply, near, goals / 2)  # the recursion drifts away from the residual that is left
    residual = rows - multiply(state.x)
    norms = dots(residual, residual).sqrt()
    return Solution(state.x, norms, state.steps, norms <= goals, state.negative)


def _step(state: _State, multiply: RowMap, near: RowMap, goals: Tensor) -> _State:
    image = _of_active(multiply, state)
    curvature = dots(state.direction, image)
    active = state.active & (curvature > 0)
    length = torch.where(active, state.descent / torch.where(active, curvature, 1), 0)
    residual = torch.addcmul(state.residual, length[:, None], image, value=-1)
    square = dots(residual, residual)
    left = active & ~(square.sqrt() <= goals)
    preconditioned = near(residual)
    descent = square if preconditioned is residual else dots(residual, preconditioned)
    turn = torch.where(left, descent / torch.where(left, state.descent, 1), 0)
    return _State(
        torch.addcmul(state.x, length[:, None], state.direction),
        residual,
        torch.addcmul(preconditioned, turn[:, None], state.direction),
        descent,
        left,
        state.steps + state.active,
        state.negative | (state.active & (curvature <= 0)),
    )


def _of_active(multiply: RowMap, state: _State) -> Tensor:
    """The products of the directions still needed, where that can be known; zero for the others."""
    if tracing.readable(state.active.all()) is not False:
        return multiply(state.direction)
    return torch.zeros_like(state.direction).index_put((state.active,), multiply(state.direction[state.active]))


def _not_solved(found: Solution, shares: Tensor, tolerance: float, max_steps: int, good: Tensor) -> Exception:
    bad, of = int((~good).sum()), f"of {len(good)} right-hand sides"
    if found.negative_curvature.any():
        return LinAlgError(
            f"m + regularization * I must be positive definite for conjugate_gradient, got a direction of no or negative "
            f"curvature for {int(found.negative_curvature.sum())} {of}; raise regularization above the most negative "
            "eigenvalue's size, or take gauss_newton or generalized_gauss_newton instead of hessian"
        )
    return LinAlgError(
        f"conjugate_gradient must reach residuals of {tolerance:.3g} of v's norm, got up to "
        f"{float(shares[~good].max()):.3g} for {bad} {of} in {int(found.steps.max())} of at most {max_steps} "
        "steps; raise max_steps, tolerance (single precision ends near 1e-7 times the condition number) or "
        "regularization, or give a preconditioner; conjugate_gradient_solution returns what was found"
    )
