"""The same derivatives by plain autograd, at half the cost of torch.func where models are small.

Used only when no compiler, no forward mode, no autograd of the caller and no transform of torch.func but vmap over params is
active. Otherwise we use torch.func, whose transforms nest. Of an ensemble all members are recorded at once, see `members`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad

from pure_batchops import torch_privates, tracing, vmap_privates
from pure_batchops.derivatives.forward_mode import ONE_AT_A_TIME
from pure_batchops.kernels.first_order import first_order
from pure_batchops.members import Members, above, underneath
from pure_batchops.trees import leaves, rebuilt
from pure_batchops.types import LinearMap, Params, Tree


class Recording(NamedTuple):
    """The value of a function, recorded by autograd, and the leaves it comes from: underneath vmap, of all members."""

    value: Tree
    inputs: list[Tensor]
    members: Members = Members()


def recording(function: Callable[[Params], Tree], params: Params) -> Recording | None:
    """The function at params, recorded; None where plain autograd may not serve."""
    members = tracing.untraced_members(params)
    if members is None:
        return tracing.refused("plain autograd", "something else traces the call")
    inputs = [vmap_privates.new_leaf(underneath(leaf, members)) for leaf in leaves(params)]
    with torch.enable_grad():
        value = function(rebuilt(params, [above(leaf, members) for leaf in inputs]))
        reason = _reason(leaves(value))
        outputs = [] if reason else [underneath(leaf, members) for leaf in leaves(value)]
    if any(map(torch_privates.is_wrapped, outputs)):
        reason = "the function reads something that a vmap outside maps"
    reason = reason or _reason_of_others(outputs, inputs)
    return tracing.refused("plain autograd", reason) if reason else Recording(rebuilt(value, outputs), inputs, members)


def recording_along(function: Callable[[Params], Tree], params: Params, v: Tree) -> tuple[Recording, list[Tensor]] | None:
    """The function at params, recorded, and its derivative along v by forward mode, in the same pass.

    Forward mode has rules of its own, which may be wrong: `forward_mode.refuted` verifies its result.

    Returns:
        The recording and the leaves of J v; None where plain autograd may not serve, or forward mode fails.
    """
    if not tracing.is_untraced(params) or tracing.requires_grad(v):
        return tracing.refused("forward mode", "something else traces the call")
    if not ONE_AT_A_TIME.acquire(blocking=False):  # waiting could be for a thread that waits for this one
        return tracing.refused("forward mode", "another thread is in it")
    try:
        return _recording_along(function, params, v)
    finally:
        ONE_AT_A_TIME.release()


def _recording_along(function: Callable[[Params], Tree], params: Params, v: Tree) -> tuple[Recording, list[Tensor]] | None:
    inputs = [vmap_privates.new_leaf(leaf) for leaf in leaves(params)]
    with torch.enable_grad(), first_order(), forward_ad.dual_level():
        duals = [forward_ad.make_dual(leaf, along.detach()) for leaf, along in zip(inputs, leaves(v), strict=True)]
        try:
            value = function(rebuilt(params, duals))
        except Exception as error:  # forward mode has gaps; reverse mode raises the function's own errors again
            return tracing.refused("forward mode", str(error))
        outputs = leaves(value)
        reason = _reason(outputs)
        if reason:
            return tracing.refused("forward mode", reason)
        parts = [forward_ad.unpack_dual(leaf) for leaf in outputs]
        along = [torch.zeros_like(leaf) if tangent is None else tangent.detach() for leaf, tangent in parts]
    primals = [leaf for leaf, _ in parts]
    reason = _reason_of_others(primals, inputs)
    return tracing.refused("forward mode", reason) if reason else (Recording(rebuilt(value, primals), inputs), along)


def recorded_pull(outputs: list[Tensor], inputs: list[Tensor], u: list[Any], *, record: bool = False) -> list[Any]:
    """Jᵀ u, J the Jacobian of outputs by inputs; itself recorded if it is to be differentiated."""
    pairs = [(output, leaf) for output, leaf in zip(outputs, u, strict=True) if output.requires_grad]
    if not pairs:
        return [torch.zeros_like(leaf) for leaf in inputs]
    gradients = torch.autograd.grad(
        [output for output, _ in pairs],
        inputs,
        [leaf for _, leaf in pairs],
        retain_graph=True,
        create_graph=record,
        allow_unused=True,
    )
    return [torch.zeros_like(leaf) if part is None else part for part, leaf in zip(gradients, inputs, strict=True)]


def pull_of_members(outputs: list[Tensor], inputs: list[Tensor], u: list[Tensor], members: Members) -> list[Tensor]:
    """Jᵀ u of recorded outputs, for u and a result as vmap shows them."""
    pulled = recorded_pull(outputs, inputs, [underneath(leaf, members) for leaf in u])
    return [above(leaf, members) for leaf in pulled]


def plain_unless_traced(recorded: LinearMap, transformed: Callable[[], LinearMap]) -> LinearMap:
    """The recorded map, unless v is traced by anything but vmap. In that case `transformed` builds the map of torch.func."""

    def multiply(v: Tree) -> Tree:
        return recorded(v) if tracing.is_traced_by_vmap_alone(v) else transformed()(v)

    return multiply


def depends_on_other_leaves(outputs: list[Tensor], inputs: list[Tensor]) -> bool:
    """Whether outputs depend on leaves of autograd other than inputs: the caller may want to differentiate by those."""
    if not torch.is_grad_enabled():
        return False
    own = {id(leaf) for leaf in inputs}
    if any(leaf.requires_grad and leaf.grad_fn is None and id(leaf) not in own for leaf in outputs):
        return True
    nodes = [leaf.grad_fn for leaf in outputs if leaf.grad_fn is not None]
    seen = set(nodes)
    while nodes:
        node = nodes.pop()
        following = node.next_functions
        variable = None if following else getattr(node, "variable", None)  # of a leaf; to ask each node is slow
        if variable is not None and id(variable) not in own:
            return True
        for other, _ in following:
            if other is not None and other not in seen:
                seen.add(other)
                nodes.append(other)
    return False


def _reason(outputs: list[Any]) -> str:
    are_numbers = all(isinstance(leaf, Tensor) and leaf.is_floating_point() for leaf in outputs)
    return "" if are_numbers else "an output is no floating-point tensor"


def _reason_of_others(outputs: list[Tensor], inputs: list[Tensor]) -> str:
    others = depends_on_other_leaves(outputs, inputs)
    return "the caller differentiates by something that the function reads" if others else ""
