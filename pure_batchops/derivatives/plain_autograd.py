"""The same derivatives by plain autograd, at half the cost of torch.func's where models are small.

It serves where nothing else looks on: no transform of torch.func, no compiler, no autograd of the caller. Elsewhere, there
is no recording, and the transforms of torch.func, which nest, are taken.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad

from pure_batchops.tracing import is_traced_by_vmap_alone, is_untraced, requires_grad
from pure_batchops.trees import leaves, rebuilt
from pure_batchops.types import LinearMap, Params, Tree


class Recording(NamedTuple):
    """The value of a function, recorded by autograd, and the leaves that it was computed from."""

    value: Tree
    inputs: list[Tensor]


def recording(function: Callable[[Params], Tree], params: Params) -> Recording | None:
    """The function at params, recorded; None where something else looks on."""
    if not is_untraced(params):
        return None
    inputs = [leaf.detach().requires_grad_() for leaf in leaves(params)]
    with torch.enable_grad():
        value = function(rebuilt(params, inputs))
    outputs = leaves(value)
    if not all(isinstance(leaf, Tensor) and leaf.is_floating_point() for leaf in outputs):
        return None
    return None if has_others(outputs, inputs) else Recording(value, inputs)


def recording_along(function: Callable[[Params], Tree], params: Params, v: Tree) -> tuple[Recording, list[Tensor]] | None:
    """The function at params, recorded, and its derivative along v by forward mode, in the same pass.

    Forward mode goes on inside of torch.no_grad, where reverse mode stops: it is for functions that are known to
    be right in it.

    Returns:
        The recording and the leaves of J v; None where something else looks on, or forward mode has a gap.
    """
    if not is_untraced(params) or requires_grad(v):
        return None
    inputs = [leaf.detach().requires_grad_() for leaf in leaves(params)]
    with torch.enable_grad(), forward_ad.dual_level():
        duals = [forward_ad.make_dual(leaf, along.detach()) for leaf, along in zip(inputs, leaves(v), strict=True)]
        try:
            value = function(rebuilt(params, duals))
        except RuntimeError:  # one of the function's own will come again in reverse mode
            return None
        outputs = leaves(value)
        if not all(isinstance(leaf, Tensor) and leaf.is_floating_point() for leaf in outputs):
            return None
        parts = [forward_ad.unpack_dual(leaf) for leaf in outputs]
        along = [torch.zeros_like(leaf) if tangent is None else tangent.detach() for leaf, tangent in parts]
    primals = [leaf for leaf, _ in parts]
    return None if has_others(primals, inputs) else (Recording(rebuilt(value, primals), inputs), along)


def recorded_pull(outputs: list[Tensor], inputs: list[Tensor], u: list[Any], *, record: bool = False) -> list[Any]:
    """Jᵀ u for the Jacobian J of outputs by inputs, recorded in turn if it is to be differentiated."""
    pairs = [(output, leaf) for output, leaf in zip(outputs, u, strict=True) if output.requires_grad]
    if not pairs:
        return [torch.zeros_like(leaf) for leaf in inputs]
    found = torch.autograd.grad(
        [output for output, _ in pairs],
        inputs,
        [leaf for _, leaf in pairs],
        retain_graph=True,
        create_graph=record,
        allow_unused=True,
    )
    return [torch.zeros_like(leaf) if part is None else part for part, leaf in zip(found, inputs, strict=True)]


def alone_or(recorded: LinearMap, transformed: Callable[[], LinearMap]) -> LinearMap:
    """The recorded map; where a vector is watched by more than vmap, the map by torch.func, which is then made."""

    def multiply(v: Tree) -> Tree:
        return recorded(v) if is_traced_by_vmap_alone(v) else transformed()(v)

    return multiply


def has_others(outputs: list[Tensor], inputs: list[Tensor]) -> bool:
    """Whether outputs depend on other leaves of autograd than inputs: what the caller may want to differentiate by."""
    if not torch.is_grad_enabled():
        return False
    own = {id(leaf) for leaf in inputs}
    if any(leaf.requires_grad and leaf.grad_fn is None and id(leaf) not in own for leaf in outputs):
        return True
    nodes = [leaf.grad_fn for leaf in outputs if leaf.grad_fn is not None]
    seen = set(nodes)
    while nodes:
        node = nodes.pop()
        if hasattr(node, "variable") and id(node.variable) not in own:
            return True
        new = {following for following, _ in node.next_functions if following is not None} - seen
        seen |= new
        nodes += new
    return False
