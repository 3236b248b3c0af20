"""The steps of conjugate gradients, on rows: K right-hand sides at once, and each stops by itself."""

from typing import NamedTuple

import torch
from torch import Tensor

from pure_batchops import tracing
from pure_batchops.rows import RowFunction
from pure_batchops.solvers.inverse import dots, lengths, plus, scales


class RowSolution(NamedTuple):
    """What conjugate gradients found for K right-hand sides; see `Solution`.

    Attributes:
        solution: x, `(K, D)`.
        residual_norms: ‖v − (m + λI) x‖, `(K,)`, and so are the others.
        steps: the products.
        converged: whether the residual is small enough.
        negative_curvature: whether the matrix was seen not to be positive definite.
        bad_preconditioner: whether the preconditioner was.
        drift: how far two products with x are apart, relative to v. It is read where x is not good enough.
    """

    solution: Tensor
    residual_norms: Tensor
    steps: Tensor
    converged: Tensor
    negative_curvature: Tensor
    bad_preconditioner: Tensor
    drift: Tensor


class _State(NamedTuple):
    x: Tensor
    residual: Tensor
    direction: Tensor
    descent: Tensor  # residual · preconditioned residual
    active: Tensor
    steps: Tensor
    negative_curvature: Tensor
    bad_preconditioner: Tensor


def solved(
    product: RowFunction,
    regularization: float | Tensor,
    preconditioner: RowFunction | None,
    tolerance: float,
    max_steps: int,
    rows: Tensor,
) -> RowSolution:
    """What conjugate gradients find for (m + λI) x = v.

    The solution is a constant for everyone who differentiates. Only the residual norms tell whether the product closes over a
    tensor that somebody differentiates.

    Args:
        product: v ↦ m v.
        regularization: λ.
        preconditioner: v ↦ about (m + λI)⁻¹ v.
        tolerance: of the residual, relative to v.
        max_steps: the most products.
        rows: v, `(K, D)`.

    Returns:
        What `RowSolution` says.
    """

    def multiply(vectors: Tensor) -> Tensor:  # v → (m + λI) v
        return plus(product(vectors), regularization, vectors)

    def precondition(vectors: Tensor) -> Tensor:
        return vectors if preconditioner is None else preconditioner(vectors).detach()

    scale = scales(rows)
    rows = rows / scale
    goals = tolerance * dots(rows, rows).sqrt()
    state = _started(rows, precondition(rows), goals, regularization)
    for _ in range(max_steps):
        if tracing.readable(state.active.any()) is False:
            break
        # Aim at half the tolerance: the recursive residual drifts away from the true one.
        state = _stepped(state, lambda vectors: multiply(vectors).detach(), precondition, goals / 2)
    image = multiply(state.x)
    norms = lengths(rows - image)
    converged, drift = norms <= goals, torch.zeros_like(norms)
    if tracing.readable(converged.all()) is False:
        drift = lengths(multiply(state.x) - image).detach() / lengths(rows)
    facts = state.steps, converged, state.negative_curvature, state.bad_preconditioner, drift
    return RowSolution(state.x * scale, norms * scale[:, 0], *facts)


def _started(rows: Tensor, preconditioned: Tensor, goals: Tensor, regularization: float | Tensor) -> _State:
    x = torch.zeros_like(rows)
    if isinstance(regularization, Tensor):
        x = x * regularization  # NaN where λ is: no step is taken there
    count = torch.zeros_like(goals)
    descent = dots(rows, preconditioned)
    bad = (goals > 0) & ~(descent > 0)
    return _State(x, rows, preconditioned, descent, (goals > 0) & ~bad, count.to(torch.int64), count.to(torch.bool), bad)


def _stepped(state: _State, multiply: RowFunction, precondition: RowFunction, goals: Tensor) -> _State:
    image = _of_active(multiply, state)
    curvature = dots(state.direction, image)
    active = state.active & (curvature > 0)
    length = torch.where(active, state.descent / torch.where(active, curvature, 1), 0)
    residual = torch.addcmul(state.residual, length[:, None], image, value=-1)
    square = dots(residual, residual)
    left = active & ~(square.sqrt() <= goals)
    preconditioned = precondition(residual)
    descent = square if preconditioned is residual else dots(residual, preconditioned)
    bad = left & ~(descent > 0)
    left = left & ~bad
    turn = torch.where(left, descent / torch.where(left, state.descent, 1), 0)
    return _State(
        torch.addcmul(state.x, length[:, None], state.direction),
        residual,
        torch.addcmul(preconditioned, turn[:, None], state.direction),
        descent,
        left,
        state.steps + state.active,
        state.negative_curvature | (state.active & (curvature <= 0)),
        state.bad_preconditioner | bad,
    )


def _of_active(multiply: RowFunction, state: _State) -> Tensor:
    """The products of the directions still needed, where that can be known; zero for the others."""
    if tracing.readable(state.active.all()) is not False:
        return multiply(state.direction)
    return torch.zeros_like(state.direction).index_put((state.active,), multiply(state.direction[state.active]))
