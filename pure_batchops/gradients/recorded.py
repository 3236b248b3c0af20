"""The losses of a batch recorded by plain autograd, with the entries of parameters inside."""

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from pure_batchops import tracing, vmap_privates
from pure_batchops.batches import has_samples
from pure_batchops.gradients.calls import FunctionCalls
from pure_batchops.gradients.followed import follow
from pure_batchops.gradients.tracked import CONSTANT, MADE_OF_PARAMS, Tracked, depth
from pure_batchops.gradients.uses import Followed, node_of
from pure_batchops.kernels.first_order import first_order
from pure_batchops.losses.checked import checked_losses
from pure_batchops.members import Members, above, underneath
from pure_batchops.sample_axis.axis import SampleAxis
from pure_batchops.torch_privates import unwrapped, version
from pure_batchops.traits import traits_of
from pure_batchops.trees import leaves, rebuilt
from pure_batchops.types import Batch, Buffers, Params, SampleLosses


class Recorded(NamedTuple):
    """The losses and what they come from.

    Attributes:
        losses: the losses, `(n,)`.
        inputs: the leaves of params.
        calls: the entries, in order.
        reasons: what speaks against the one pass.
        mixed: why the calls do not prove that gradients keep samples apart; empty if they do.
        read_apart: whether the calls show that values do not mix samples either.
        members: of params. Tensors are as vmap shows them.
    """

    losses: Tensor
    inputs: list[Tensor]
    calls: list[Followed]
    reasons: list[str]
    mixed: str
    read_apart: bool
    members: Members


def recorded_losses(loss: SampleLosses, params: Params, buffers: Buffers, batch: Batch) -> Recorded | None:
    """The losses of the batch, recorded; None where plain autograd may not serve."""
    members = tracing.untraced_members(params)
    if members is None:
        return tracing.refused("one pass", "something else traces the products")
    inputs = [vmap_privates.new_leaf(underneath(leaf, members)) for leaf in leaves(params)]
    shown = [above(leaf, members) for leaf in inputs]  # fresh objects, so that their ids are unique
    tracked = _tracked(shown, buffers, batch, traits_of(loss).batch_dim)
    calls: list[Followed] = []
    reasons: list[str] = []
    with torch.enable_grad(), first_order("reverse"), FunctionCalls(partial(follow, tracked, calls, reasons)):
        losses = checked_losses(loss)(rebuilt(params, shown), buffers, batch)
    unseen = _leaves_behind(losses, calls)
    if torch.is_grad_enabled() and not unseen <= {id(leaf) for leaf in inputs}:
        return tracing.refused("one pass", "the caller differentiates by something that the loss reads")
    reasons += _reasons(calls, losses)
    reasons += ["a use of a parameter was not seen"] * any(id(leaf) in unseen for leaf in inputs)
    n = len(losses)
    in_place = tracked.samples(losses) == SampleAxis(0, 1, n, 1) and tracked.n == n
    mixed = [] if n == 1 else tracked.mixed + ["the losses hold the samples in no known place"] * (not in_place)
    read_apart = n == 1 or not (mixed or tracked.read)
    return Recorded(losses, shown, calls, reasons, next(iter(mixed), ""), read_apart, members)


def _tracked(inputs: list[Tensor], buffers: Buffers, batch: Batch, axis: int) -> Tracked:
    """What is known before the loss runs: the parameters, and where the samples lie in the batch."""
    tensors = [leaf for leaf in leaves(batch) if isinstance(leaf, Tensor)]
    lengths = {leaf.shape[axis] for leaf in tensors if has_samples(leaf, axis)}
    n = lengths.pop() if len(lengths) == 1 else None
    tracked = Tracked({}, n, [], [], depth())
    tracked.put((leaf for leaf in leaves(buffers) if isinstance(leaf, Tensor)), CONSTANT)
    tracked.put(inputs, MADE_OF_PARAMS)
    if n is not None:
        for leaf in tensors:
            if has_samples(leaf, axis):
                tracked.put([leaf], SampleAxis(axis % leaf.dim(), 1, n, 1))
    return tracked


def _reasons(calls: list[Followed], losses: Tensor) -> list[str]:
    """What speaks against the pass as a whole: each entry must hold the samples, as it was when the call saw it."""
    n = len(losses)
    found = {
        "the losses depend on no layer": not tracing.is_recorded(losses),
        "a layer has other rows than one for each sample": any(call.where is None or call.where.n != n for call in calls),
        "a tensor was changed in place": any(
            call.x is not None and call.version != version(unwrapped(call.x)) for call in calls
        ),
        "an output was changed in place": any(
            isinstance(call.edge, Tensor) and call.edge.grad_fn is not call.node for call in calls
        ),
    }
    return [reason for reason, holds in found.items() if holds]


def _leaves_behind(losses: Tensor, calls: list[Followed]) -> set[int]:
    """The ids of the leaves of autograd that the losses reach on a way other than by an entry."""
    seen = {call.node for call in calls}
    nodes = {node for call in calls for node in call.behind} | ({node_of(losses)} if tracing.is_recorded(losses) else set())
    nodes -= seen
    found = set()
    while nodes:
        node = nodes.pop()
        seen.add(node)
        if hasattr(node, "variable"):
            found.add(id(node.variable))
        nodes |= {following for following, _ in node.next_functions} - seen - {None}
    return found
