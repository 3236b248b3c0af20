"""The Jacobian of a function of params as two linear maps, J and Jᵀ, by reverse mode alone; and products Jᵀ C J v.

The map u ↦ Jᵀ u is linear, so v ↦ J v is its own pullback. Forward mode has gaps (LSTM, some losses), is slow in eager mode
for cross-entropy, and makes zero tensors without storage, which compiled code cannot read. For one vector, eager forward mode
is the cheaper way all the same: `product_along` takes it for any function, and verifies what it gives.

The functions given are `partial`s (rule C1 of `tracing`).
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch.func import vjp

from pure_batchops import tracing
from pure_batchops.derivatives.forward_mode import refuted
from pure_batchops.derivatives.plain_autograd import (
    plain_unless_traced,
    pull_of_members,
    recorded_pull,
    recording,
    recording_along,
)
from pure_batchops.members import above
from pure_batchops.trees import leaves, map_leaves, rebuilt
from pure_batchops.types import LinearMap, Params, Tree
from pure_batchops.vmap_privates import new_leaf


class Jacobian(NamedTuple):
    """The value of a function, v ↦ J v, and u ↦ Jᵀ u."""

    value: Tree
    push: LinearMap
    pull: LinearMap


def jacobian(function: Callable[[Params], Tree], params: Params) -> Jacobian:
    """The Jacobian of a function at params, never formed."""
    recorded = recording(function, params)
    if recorded is None:
        return _transformed(function, params)
    tracing.log("jacobian: plain autograd")
    value, inputs, members = leaves(recorded.value), recorded.inputs, recorded.members
    ones = [new_leaf(torch.ones_like(leaf)) for leaf in value]  # in torch, some derivatives are not linear at zero
    with torch.enable_grad():
        pulled = recorded_pull(value, inputs, ones, record=True)
    return Jacobian(
        rebuilt(recorded.value, [above(leaf.detach(), members) for leaf in value]),
        plain_unless_traced(
            lambda v: rebuilt(recorded.value, pull_of_members(pulled, ones, leaves(v), members)),
            lambda: _transformed(function, params).push,
        ),
        plain_unless_traced(
            lambda u: rebuilt(params, pull_of_members(value, inputs, leaves(u), members)),
            lambda: _transformed(function, params).pull,
        ),
    )


def product_along(
    function: Callable[[Params], Tree], params: Params, v: Tree, curvature: Callable[[Tree], LinearMap]
) -> Tree | None:
    """Jᵀ C J v, C = `curvature(value)`, with J v by forward mode: cheaper than `jacobian` for a single v, not for several.

    Returns:
        The product; None where `recording_along` gives None, the caller differentiates by what the curvature reads, or forward
        mode and reverse mode disagree.
    """
    recorded_along = recording_along(function, params, v)
    if recorded_along is None:
        return None
    (value, inputs, _), along = recorded_along
    outputs, given = leaves(value), leaves(v)
    curved = leaves(curvature(rebuilt(value, [leaf.detach() for leaf in outputs]))(rebuilt(value, along)))
    if not tracing.is_traced_by_vmap_alone(curved):
        return tracing.refused("forward mode", "the caller differentiates by something that the curvature reads")
    product = recorded_pull(outputs, inputs, curved)
    reason = refuted(lambda u: recorded_pull(outputs, inputs, u), (given, along), (curved, product))
    if reason:
        return tracing.refused("forward mode", reason)
    tracing.log("jacobian: forward mode of plain autograd")
    return rebuilt(params, product)


def _transformed(function: Callable[[Params], Tree], params: Params) -> Jacobian:
    tracing.log("jacobian: torch.func")
    value, pullback = vjp(function, params)

    def pull(u: Tree) -> Tree:
        # torch 2.5 cannot compile a pullback inside another transform, so we recompute it; the compiler merges the two.
        return (vjp(function, params)[1] if tracing.compiling() else pullback)(u)[0]

    _, pushforward = vjp(pull, map_leaves(torch.ones_like, value))
    return Jacobian(value, lambda v: pushforward(v)[0], pull)
