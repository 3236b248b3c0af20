"""The Jacobian of a function of params as two linear maps, J and Jᵀ, by reverse mode alone.

As u ↦ Jᵀu is linear, its own pullback is v ↦ Jv. Forward mode would have gaps (fused attention, LSTM, some losses),
is slow in eager mode for cross-entropy, and its zero tensors have no storage, which compiled code does not know.

The functions given are `partial`s: torch 2.5 cannot compile closures of a function that returns before they are called.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch.func import vjp

from pure_batchops import tracing
from pure_batchops.derivatives.plain_autograd import alone_or, recorded_pull, recording, recording_along
from pure_batchops.trees import leaves, map_leaves, rebuilt
from pure_batchops.types import LinearMap, Params, Tree


class Jacobian(NamedTuple):
    """The value of a function, v ↦ J v, and u ↦ Jᵀ u."""

    value: Tree
    push: LinearMap
    pull: LinearMap


def jacobian(function: Callable[[Params], Tree], params: Params) -> Jacobian:
    """The Jacobian of a function at params, never formed."""
    found = recording(function, params)
    if found is None:
        return _transformed(function, params)
    value, inputs = leaves(found.value), found.inputs
    start = [torch.ones_like(leaf).requires_grad_() for leaf in value]  # some derivatives are not linear at zero in torch
    with torch.enable_grad():
        pulled = recorded_pull(value, inputs, start, record=True)
    return Jacobian(
        rebuilt(found.value, [leaf.detach() for leaf in value]),
        alone_or(
            lambda v: rebuilt(found.value, recorded_pull(pulled, start, leaves(v))),
            lambda: _transformed(function, params).push,
        ),
        alone_or(
            lambda u: rebuilt(params, recorded_pull(value, inputs, leaves(u))), lambda: _transformed(function, params).pull
        ),
    )


def jacobian_along(function: Callable[[Params], Tree], params: Params, v: Tree) -> tuple[Tree, Tree, LinearMap] | None:
    """The value, J v by forward mode, and u ↦ Jᵀ u: cheaper than `jacobian` for a single v, not for several.

    Returns:
        The three; None where `recording_along` is.
    """
    found = recording_along(function, params, v)
    if found is None:
        return None
    (value, inputs), along = found
    outputs = leaves(value)

    def pull(u: Tree) -> Tree:
        return rebuilt(params, recorded_pull(outputs, inputs, leaves(u)))

    return rebuilt(value, [leaf.detach() for leaf in outputs]), rebuilt(value, along), pull


def _transformed(function: Callable[[Params], Tree], params: Params) -> Jacobian:
    value, pullback = vjp(function, params)

    def pull(u: Tree) -> Tree:
        # torch 2.5 cannot compile a pullback within another transform; anew, the compiler merges it with the first.
        return (vjp(function, params)[1] if tracing.compiling() else pullback)(u)[0]

    _, pushforward = vjp(pull, map_leaves(torch.ones_like, value))
    return Jacobian(value, lambda v: pushforward(v)[0], pull)
