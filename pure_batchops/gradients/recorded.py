"""The losses of a batch recorded by plain autograd, with the calls of known layers inside."""

from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pure_batchops import tracing
from pure_batchops.gradients.calls import FunctionCalls, holds_tensor, parameter_use
from pure_batchops.gradients.layer import LayerKind, Options
from pure_batchops.losses.checked import checked_losses
from pure_batchops.torch_privates import version
from pure_batchops.trees import leaves, rebuilt, tree_flatten
from pure_batchops.types import Batch, Buffers, Params, SampleLosses


class RecordedLayer(NamedTuple):
    """One call of a known layer, with the numbers of the leaves that are its weight and its bias.

    `node` is where autograd made the output, and `behind` are the nodes that made the tensors of its arguments. They stay as
    they are if the loss changes the tensors in place later.
    """

    kind: LayerKind
    options: Options
    weight: int
    bias: int | None
    x: Tensor
    output: Tensor
    node: Any
    behind: list[Any]
    versions: tuple[int, int]


class Recorded(NamedTuple):
    """The losses, the leaves of params that they come from, the layers inside, and what speaks against the one pass."""

    losses: Tensor
    inputs: list[Tensor]
    calls: list[RecordedLayer]
    reasons: list[str]


def recorded_losses(loss: SampleLosses, params: Params, buffers: Buffers, batch: Batch) -> Recorded | None:
    """The losses of the batch, recorded; None where plain autograd may not serve."""
    if not tracing.is_untraced(params):
        return tracing.refused("one pass", "something else traces the products")
    inputs = [leaf.detach().requires_grad_() for leaf in leaves(params)]  # fresh objects, so that their ids are unique
    calls: list[RecordedLayer] = []
    reasons: list[str] = []
    handle = partial(_recorded, {id(leaf): number for number, leaf in enumerate(inputs)}, calls, reasons)
    with torch.enable_grad(), FunctionCalls(handle):
        losses = checked_losses(loss)(rebuilt(params, inputs), buffers, batch)
    unseen = _leaves_behind(losses, calls)
    if torch.is_grad_enabled() and not unseen <= {id(leaf) for leaf in inputs}:
        return tracing.refused("one pass", "the caller differentiates by something that the loss reads")
    reasons += _reasons(calls, losses, len(inputs))
    reasons += ["a use of a parameter was not seen"] * any(id(leaf) in unseen for leaf in inputs)
    return Recorded(losses, inputs, calls, reasons)


def _recorded(
    numbers: dict[int, int],
    calls: list[RecordedLayer],
    reasons: list[str],
    function: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    """The output of a call. The call is added to `calls`, or a reason against it to `reasons`."""
    output = function(*args, **kwargs)
    use = parameter_use(numbers, function, args, kwargs)
    if use is None:
        return output
    if use.call is not None and not use.call.has_rows:
        reasons.append("a layer has no axis of samples")
    if (use.weight is None and use.bias is None and not use.others) or not holds_tensor(output):
        return output
    if use.kind is None or use.call is None or use.weight is None or use.others:
        reasons.append(f"{getattr(function, '__name__', function)} uses a parameter, not as the weight of a known layer")
        return output
    if not output.requires_grad:  # the loss stops gradients here
        return output
    x, versions = use.call.x, (version(use.call.x), version(output))
    given = [part for part in tree_flatten((args, kwargs))[0] if isinstance(part, Tensor) and id(part) not in numbers]
    behind = [_node(part) for part in given if part.requires_grad]
    calls.append(RecordedLayer(use.kind, use.call.options, use.weight, use.bias, x, output, output.grad_fn, behind, versions))
    return output if x.requires_grad else output.clone()  # the first layer's output is often changed in place


def _reasons(calls: list[RecordedLayer], losses: Tensor, leaves: int) -> list[str]:
    """What speaks against the pass as a whole: each row must belong to one sample, as it was when the layer saw it."""
    weights, biases = {call.weight for call in calls}, {call.bias for call in calls}
    found = {
        "a parameter is not used": not (weights | biases).issuperset(range(leaves)),
        "a parameter is both a weight and a bias": bool(weights & biases),
        "the losses depend on no layer": not losses.requires_grad,
        "a layer has other rows than one for each sample": not all(_has_rows(call, len(losses)) for call in calls),
        "a tensor was changed in place": any(call.versions != (version(call.x), version(call.output)) for call in calls),
    }
    return [reason for reason, holds in found.items() if holds]


def _has_rows(call: RecordedLayer, n: int) -> bool:
    return call.x.dim() > 0 and call.output.dim() > 1 and len(call.x) == len(call.output) == n


def _leaves_behind(losses: Tensor, calls: list[RecordedLayer]) -> set[int]:
    """The ids of the leaves of autograd that the losses reach on a way other than as weight or bias of a recorded layer."""
    seen = {call.node for call in calls}
    nodes = {node for call in calls for node in call.behind} | ({_node(losses)} if losses.requires_grad else set())
    nodes -= seen
    found = set()
    while nodes:
        node = nodes.pop()
        seen.add(node)
        if hasattr(node, "variable"):
            found.add(id(node.variable))
        nodes |= {following for following, _ in node.next_functions} - seen - {None}
    return found


def _node(tensor: Tensor) -> Any:
    """Where autograd made a tensor; for a leaf, where its gradient goes."""
    with torch.enable_grad():
        node: Any = tensor.view_as(tensor).grad_fn
    return node.next_functions[0][0]
