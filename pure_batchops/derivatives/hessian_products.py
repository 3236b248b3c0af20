"""Products with the Hessian of a function, in four modes."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.func import grad, jacrev, vjp

from pure_batchops import tracing
from pure_batchops.derivatives.finite_difference import finite_difference
from pure_batchops.derivatives.forward_mode import jvp_alone
from pure_batchops.derivatives.plain_autograd import plain_unless_traced, pull_of_members, recorded_pull, recording
from pure_batchops.trees import leaves, rebuilt
from pure_batchops.types import LinearMap, Params, Tree


def hessian_of(function: Callable[[Params], Tensor], params: Params) -> LinearMap:
    """V ↦ ∇²f(params) v, reverse over reverse."""
    return _recorded(function, params, _transformed)


def _recorded(function: Callable[[Params], Tensor], params: Params, otherwise: Callable[..., LinearMap]) -> LinearMap:
    """By plain autograd, which records the gradient once for all v; `otherwise(function, params)` where it may not serve."""
    recorded = recording(function, params)
    if recorded is None:
        return otherwise(function, params)
    tracing.log("hessian: plain autograd")
    value, inputs, members = recorded
    with torch.enable_grad():
        gradient = recorded_pull([value], inputs, [torch.ones_like(value)], record=True)
    return plain_unless_traced(
        lambda v: rebuilt(params, pull_of_members(gradient, inputs, leaves(v), members)),
        partial(otherwise, function, params),
    )


def _transformed(function: Callable[[Params], Tensor], params: Params) -> LinearMap:
    tracing.log("hessian: torch.func")
    _, pullback = vjp(grad(function), params)
    return lambda v: pullback(v)[0]


def _forward_over_reverse(function: Callable[[Params], Tensor], params: Params) -> LinearMap:
    gradient = jacrev(function)  # jvp(grad(…)) fails on mse_loss: "ZeroTensors are immutable"
    return lambda v: jvp_alone(gradient, (params,), (v,))[1]


def _reverse_over_forward(function: Callable[[Params], Tensor], params: Params) -> LinearMap:
    """V ↦ ∇(∇f·v). By plain autograd that is the pullback of the gradient, which reverse over reverse takes."""
    return _recorded(function, params, _gradient_of_slope)


def _gradient_of_slope(function: Callable[[Params], Tensor], params: Params) -> LinearMap:
    def slope(p: Params, v: Tree) -> Any:  # ∇ℓ(θ)·v
        return sum((g * d).sum() for g, d in zip(leaves(grad(function)(p)), leaves(v), strict=True))

    return lambda v: grad(slope)(params, v)


MODES = {
    "reverse_over_reverse": hessian_of,
    "forward_over_reverse": _forward_over_reverse,
    "reverse_over_forward": _reverse_over_forward,
    "finite_difference": finite_difference,
}
