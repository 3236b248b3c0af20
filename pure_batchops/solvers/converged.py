"""What conjugate gradients say where they do not reach their tolerance."""

from collections.abc import Callable
from functools import partial

from torch import Tensor

from pure_batchops.solvers.inverse import LinAlgError, lengths
from pure_batchops.solvers.steps import RowSolution
from pure_batchops.tracing import raise_or_nan


def converged_rows(solve: Callable[[Tensor], RowSolution], tolerance: float, max_steps: int, rows: Tensor) -> Tensor:
    """The solutions, if all are as good as they must be; otherwise an error, or NaN where no number can be read."""
    result = solve(rows)
    relative = result.residual_norms / lengths(rows)
    error = partial(_not_converged, result, relative, tolerance, max_steps)
    return raise_or_nan(result.converged, result.solution, error)


def _not_converged(result: RowSolution, relative: Tensor, tolerance: float, max_steps: int, good: Tensor) -> Exception:
    bad, total = int((~good).sum()), f"of {len(good)} right-hand sides"
    if result.bad_preconditioner.any():
        return LinAlgError(
            f"preconditioner must be positive definite for conjugate_gradient, got a product r -> P r with r·P r <= 0 for "
            f"{int(result.bad_preconditioner.sum())} {total}; take nystroem(op, regularization, rank=...), or none"
        )
    if (result.drift > tolerance / 2).any():
        return LinAlgError(
            f"op must give the same product each time for conjugate_gradient, got two products with one vector that are "
            f"{float(result.drift.max()):.3g} of v's norm apart; batches must be the same at every reading: no shuffling with "
            "drop_last, no random samples or augmentations; list(batches) keeps them"
        )
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
