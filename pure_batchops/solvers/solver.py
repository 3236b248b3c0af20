"""Conjugate gradients with their options, as a solver of rows that may be differentiated."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from pure_batchops import checks, tracing
from pure_batchops.solvers.converged import converged_rows
from pure_batchops.solvers.equation import Equation, constant
from pure_batchops.solvers.implicit import corrections_for, differentiable, without_derivative
from pure_batchops.solvers.inverse import rows_of
from pure_batchops.solvers.steps import RowSolution, solved
from pure_batchops.types import Batch, Buffers, Operation, Params

TOLERANCE = 1e-5
"""The default tolerance of residuals, relative to v, in float32 and float64."""

ROUNDINGS = 4
"""The default tolerance in half precision, in units of the rounding of the dtype."""

Solve = Callable[[Tensor], RowSolution]
"""`(K, D) -> RowSolution`."""


class Options(NamedTuple):
    """What `conjugate_gradient` takes beside op and λ."""

    tolerance: float | None
    max_steps: int
    preconditioner: Operation | None


def solver(
    op: Operation,
    regularization: float | Tensor,
    tolerance: float | None,
    max_steps: int,
    preconditioner: Operation | None,
) -> Callable[[Params, Buffers, Batch], tuple[Solve, float]]:
    """The options of conjugate gradients, checked, as a solver of rows.

    Returns:
        `solver(params, buffers, batch) -> (solve, tolerance)`.
    """
    checks.operation("op", op)
    regularization = checks.not_negative("regularization", regularization)
    max_steps = checks.whole("max_steps", max_steps)
    if tolerance is not None:
        tolerance = checks.fraction("tolerance", tolerance)
    if preconditioner is not None:
        checks.operation("preconditioner", preconditioner)
    options = Options(tolerance, max_steps, preconditioner)

    def solve_at(params: Params, buffers: Buffers, batch: Batch) -> tuple[Solve, float]:
        return _ready(options, Equation(op, regularization, (params, buffers, batch)))

    return solve_at


def _ready(options: Options, equation: Equation) -> tuple[Solve, float]:
    """The solver of one equation, and its tolerance."""
    fixed = constant(equation)
    matrix = rows_of(fixed.op, *fixed.point)
    near = None if options.preconditioner is None else rows_of(options.preconditioner, *fixed.point).multiply
    goal = options.tolerance or max(TOLERANCE, ROUNDINGS * matrix.eps)
    solve = partial(solved, matrix.multiply, fixed.regularization, near, goal, options.max_steps)
    return partial(_tracked, options, equation, solve), goal


def _tracked(options: Options, equation: Equation, solve: Solve, rows: Tensor) -> RowSolution:
    """The solution, whose derivatives are those of the equation."""
    found = solve(rows.detach())
    if tracing.compiling():
        return RowSolution(without_derivative(equation, found.solution, rows), *found[1:])
    closed_over = torch.is_grad_enabled() and tracing.is_recorded(found.residual_norms)
    corrections = corrections_for(equation, rows, closed_over=closed_over)
    if corrections == 0:
        return found
    solution = differentiable(equation, found.solution, rows, partial(_again, options), corrections)
    return RowSolution(solution, found.residual_norms.detach(), *found[2:])


def _again(options: Options, equation: Equation, rows: Tensor) -> Tensor:
    solve, tolerance = _ready(options, equation)
    return converged_rows(solve, tolerance, options.max_steps, rows)
