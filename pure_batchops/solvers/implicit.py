"""The derivatives of a solution, from the equation that it solves and not from the steps that found it.

Let x̂ be what was found, taken as a constant. Then x̂ + S(v − (m + λI) x̂), where S(r) = (m + λI)⁻¹ r, is the solution as a
function of params, buffers, batch, λ and v. Its value is x̂, since r is zero up to the tolerance; its derivatives are right to
any order. `_Correction` is S: a function with the value zero whose derivatives are solutions of the same equation.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from pure_batchops import torch_privates, tracing
from pure_batchops.solvers.equation import Equation, multiplied, tensors_of, with_tensors

Solver = Callable[[Equation, Tensor], Tensor]
"""`(equation, rows) -> x`, which may be differentiated."""

Rebuilt = Callable[[Sequence[Tensor]], Equation]
"""`tensors -> equation`."""


def corrections_for(equation: Equation, rows: Tensor, *, closed_over: bool) -> int:
    """How many corrections a solution needs: none where nobody differentiates.

    Args:
        equation: what is solved.
        rows: the right-hand sides.
        closed_over: whether op closes over a tensor that reverse mode records. Plain autograd may differentiate it twice.

    Returns:
        Their number.

    Raises:
        RuntimeError: if nested transforms differentiate a tensor that op closes over.
    """
    levels = tracing.differentiating_levels()
    if not closed_over:
        recorded = torch.is_grad_enabled() and any(map(tracing.is_recorded, [rows, *tensors_of(equation)]))
        return int(levels > 0 or torch_privates.in_forward_mode() or recorded)
    if levels > 1:
        msg = (
            "op must not close over a tensor that nested transforms of torch.func differentiate through conjugate gradients, "
            "got one; hand it over in params, buffers or batch, or as regularization"
        )
        raise RuntimeError(msg)
    return 2 - levels


def without_derivative(equation: Equation, found: Tensor, rows: Tensor) -> Tensor:
    """The solution, whose derivatives are NaN: for the compiler, which cannot trace `_Correction`."""
    residual = rows - multiplied(equation, found)
    return found + (residual - residual.detach()).square().sqrt()


def differentiable(equation: Equation, found: Tensor, rows: Tensor, solver: Solver, corrections: int) -> Tensor:
    """The solution that was found, as a function of what the equation holds, and of rows.

    Args:
        equation: what is solved.
        found: x̂, a constant.
        rows: v, the right-hand sides.
        solver: solves the equation again, for its derivatives.
        corrections: how many; each gains one order of the derivatives by tensors that op closes over.

    Returns:
        x, with the value of x̂.
    """
    tensors, rebuilt = tensors_of(equation), partial(with_tensors, equation)  # a tuple would be taken apart
    for _ in range(corrections):
        residual = rows - multiplied(equation, found)
        found = found + _Correction.apply(residual, rebuilt, solver, *tensors)  # type: ignore[no-untyped-call]
    return found


class _Correction(torch.autograd.Function):
    """(residual, rebuilt, solver, *tensors of the equation) ↦ S(residual), with the value zero."""

    generate_vmap_rule = True

    @staticmethod
    def forward(residual: Tensor, _rebuilt: Rebuilt, _solver: Solver, *_tensors: Tensor) -> Tensor:
        return torch.zeros_like(residual)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, ctx.rebuilt, ctx.solver, *tensors = inputs
        ctx.save_for_backward(output, *tensors)
        ctx.save_for_forward(output, *tensors)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Any, ...]:
        correction, *tensors = ctx.saved_tensors
        equation = ctx.rebuilt(tensors)
        dual = ctx.solver(equation, cotangent)  # m is symmetric
        wanted = [place for place, needed in enumerate(ctx.needs_input_grad[3:]) if needed]
        slopes: list[Any] = [None] * len(tensors)
        if wanted:
            found = torch.func.vjp(_of_places(equation, correction, wanted), *(tensors[place] for place in wanted))[1](-dual)
            for place, slope in zip(wanted, found, strict=True):
                slopes[place] = slope
        return dual, None, None, *slopes

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor | None, _rebuilt: None, _solver: None, *tangents: Tensor | None) -> Tensor:
        _refuse_forward_over_forward()
        correction, *tensors = ctx.saved_tensors
        equation = ctx.rebuilt(tensors)
        wanted = [place for place, moved in enumerate(tangents) if moved is not None]
        change = torch.zeros_like(correction) if tangent is None else tangent
        if wanted:
            pull = torch.func.vjp(_of_places(equation, correction, wanted), *(tensors[place] for place in wanted))[1]
            push = torch.func.vjp(pull, torch.zeros_like(correction))[1]  # forward mode, by reverse mode twice
            (moved,) = push(tuple(tangents[place] for place in wanted))
            change = change - moved
        return ctx.solver(equation, change)


def _refuse_forward_over_forward() -> None:
    # torch drops the outer tangents of a custom function: the derivative would be zero.
    if tracing.differentiating_levels("Jvp") > 1:
        msg = (
            "a solution of conjugate gradients must be differentiated by forward mode once, got forward mode inside forward "
            "mode; take one of the two by reverse mode, such as jacfwd(jacrev(...))"
        )
        raise RuntimeError(msg)


def _of_places(equation: Equation, rows: Tensor, places: Sequence[int]) -> Callable[..., Tensor]:
    """(m + λI) rows, as a function of some of the tensors of the equation."""
    tensors = tensors_of(equation)

    def product(*replaced: Tensor) -> Tensor:
        others = dict(zip(places, replaced, strict=True))
        return multiplied(with_tensors(equation, [others.get(i, tensor) for i, tensor in enumerate(tensors)]), rows)

    return product
