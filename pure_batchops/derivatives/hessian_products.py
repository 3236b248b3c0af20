"""Products with the Hessian of a function, in four modes."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.func import grad, jacrev, vjp

from pure_batchops import tracing
from pure_batchops.derivatives.forward_mode import jvp_alone
from pure_batchops.derivatives.plain_autograd import plain_unless_traced, recorded_pull, recording
from pure_batchops.trees import leaves, map_leaves, rebuilt
from pure_batchops.types import LinearMap, Params, Tree


def hessian_of(function: Callable[[Params], Tensor], params: Params) -> LinearMap:
    """V ↦ ∇²f(params) v, reverse over reverse."""
    recorded = recording(function, params)
    if recorded is None:
        return _transformed(function, params)
    tracing.log("hessian: plain autograd")
    value, inputs = recorded
    with torch.enable_grad():
        gradient = recorded_pull([value], inputs, [torch.ones_like(value)], record=True)
    return plain_unless_traced(
        lambda v: rebuilt(params, recorded_pull(gradient, inputs, leaves(v))), partial(_transformed, function, params)
    )


def _transformed(function: Callable[[Params], Tensor], params: Params) -> LinearMap:
    tracing.log("hessian: torch.func")
    _, pullback = vjp(grad(function), params)
    return lambda v: pullback(v)[0]


def _forward_over_reverse(function: Callable[[Params], Tensor], params: Params) -> LinearMap:
    gradient = jacrev(function)  # jvp(grad(…)) fails on mse_loss: "ZeroTensors are immutable"
    return lambda v: jvp_alone(gradient, (params,), (v,))[1]


def _reverse_over_forward(function: Callable[[Params], Tensor], params: Params) -> LinearMap:
    def slope(p: Params, v: Tree) -> Any:  # ∇ℓ(θ)·v
        return sum((g * d).sum() for g, d in zip(leaves(grad(function)(p)), leaves(v), strict=True))

    return lambda v: grad(slope)(params, v)


def _finite_difference(function: Callable[[Params], Tensor], params: Params) -> LinearMap:
    gradient = grad(function)
    epsilon = max(torch.finfo(leaf.dtype).eps for leaf in leaves(params))
    distance = epsilon ** (1 / 3) * (1 + _norm(params))

    def product(v: Tree) -> Tree:
        size = _norm(v)
        step = distance / torch.where(size > 0, size, 1)
        ahead, behind = (
            gradient(map_leaves(lambda p, d, sign=sign: p + (sign * step).to(p.dtype) * d, params, v)) for sign in (1, -1)
        )
        return map_leaves(lambda a, b: ((a - b) / (2 * step)).to(a.dtype), ahead, behind)

    return product


def _norm(tree: Tree) -> Tensor:
    """The Euclidean norm of a tree, in double precision: squares of half precision overflow."""
    first = leaves(tree)[0]
    squares = torch.stack([leaf.double().square().sum().to(first.device) for leaf in leaves(tree)])
    return squares.sum().sqrt()


MODES = {
    "reverse_over_reverse": hessian_of,
    "forward_over_reverse": _forward_over_reverse,
    "reverse_over_forward": _reverse_over_forward,
    "finite_difference": _finite_difference,
}
