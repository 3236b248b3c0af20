"""The gradients of samples from one pass of plain autograd over the batch, for a loss that keeps its samples apart.

For such a loss, row i of the gradient of the summed loss at a layer's output belongs to sample i alone, if row i of the output
does. This is known of a chain of torch's modules. For any other loss a second backward pass shows it, of Σ rᵢ ℓᵢ with random
rᵢ: row i must become rᵢ times as large. No pass takes the gradient of a weight.
"""

from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pure_batchops import tracing
from pure_batchops.derivatives.plain_autograd import depends_on_other_leaves
from pure_batchops.gradients.calls import FunctionCalls, holds_tensor, parameter_use
from pure_batchops.gradients.layer import LayerKind, LayerRecord, Options, bias_gradients, weight_gradients, wide
from pure_batchops.gradients.taps import LayerGradients, like_input
from pure_batchops.losses.checked import checked_losses
from pure_batchops.noise import uniform
from pure_batchops.torch_privates import version
from pure_batchops.traits import traits_of
from pure_batchops.trees import leaves, rebuilt
from pure_batchops.types import Batch, Buffers, Params, SampleLosses


class _Recorded(NamedTuple):
    kind: LayerKind
    options: Options
    weight: int
    bias: int | None
    x: Tensor
    output: Tensor
    versions: tuple[int, int]


def gradients_by_one_pass(
    loss: SampleLosses, params: Params, buffers: Buffers, batch: Batch, held: int
) -> LayerGradients | None:
    """The gradients of all samples: formed if they have at most `held` numbers, else those of weights by layer.

    Returns:
        What `LayerGradients` says; None if a parameter is used outside of known layers, or plain autograd may not serve.
    """
    if not tracing.is_untraced(params):
        return tracing.refused("one pass", "something else traces the products")
    flat = [leaf.detach() for leaf in leaves(params)]  # fresh objects, so that their ids are unique
    calls: list[_Recorded] = []
    reasons: list[str] = []
    handle = partial(_recorded, {id(leaf): number for number, leaf in enumerate(flat)}, calls, reasons)
    with torch.enable_grad(), FunctionCalls(handle):
        losses = checked_losses(loss)(rebuilt(params, flat), buffers, batch)
    reasons += _reasons(calls, losses, len(flat))
    if reasons:
        return tracing.refused("one pass", reasons[0])
    outputs = [call.output for call in calls]
    ones = torch.ones_like(losses)  # a sum would have no graph inside the caller's torch.no_grad
    deltas = torch.autograd.grad(losses, outputs, ones, retain_graph=not traits_of(loss).row_by_row)
    if not traits_of(loss).row_by_row and not _rows_are_samples(losses, outputs, deltas):
        return tracing.refused("one pass", "a row of a layer's output does not belong to one sample alone")
    with torch.no_grad():
        return _layer_gradients(calls, deltas, flat, losses.detach(), held)


def _rows_are_samples(losses: Tensor, outputs: list[Tensor], deltas: tuple[Tensor, ...]) -> bool:
    """Whether row i of each δ is the gradient of ℓᵢ: with probability one if Σ rᵢ ℓᵢ has the rows rᵢ δᵢ."""
    factors = 0.5 + uniform(0, (len(losses),), losses).to(losses.dtype)
    scaled = torch.autograd.grad(losses, outputs, factors)
    for delta, other in zip(deltas, scaled, strict=True):
        tolerance = torch.finfo(delta.dtype).eps ** 0.6
        rows = wide(delta).flatten(1)
        gap = wide(other).flatten(1) - wide(factors)[:, None] * rows
        if not bool(gap.norm(dim=1).max() <= tolerance * rows.norm(dim=1).max()):
            return False
    return True


def _recorded(
    numbers: dict[int, int],
    calls: list[_Recorded],
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
    is_first = not output.requires_grad
    output = output.detach().requires_grad_() if is_first else output
    versions = version(use.call.x), version(output)
    calls.append(_Recorded(use.kind, use.call.options, use.weight, use.bias, use.call.x, output, versions))
    return output.clone() if is_first else output  # a leaf of autograd cannot be changed in place


def _reasons(calls: list[_Recorded], losses: Tensor, leaves: int) -> list[str]:
    """What speaks against the pass as a whole: each row must belong to one sample, as it was when the layer saw it."""
    weights, biases = {call.weight for call in calls}, {call.bias for call in calls}
    first = [call.output for call in calls if call.output.is_leaf]
    found = {
        "a parameter is not used": not (weights | biases).issuperset(range(leaves)),
        "a parameter is both a weight and a bias": bool(weights & biases),
        "the losses depend on no layer": not losses.requires_grad,
        "a layer has other rows than one for each sample": not all(_has_rows(call, len(losses)) for call in calls),
        "a tensor was changed in place": any(call.versions != (version(call.x), version(call.output)) for call in calls),
    }
    reasons = [reason for reason, holds in found.items() if holds]
    if not reasons and depends_on_other_leaves([losses], first):
        return ["the caller differentiates by something that the loss reads"]
    return reasons


def _has_rows(call: _Recorded, n: int) -> bool:
    return call.x.dim() > 0 and call.output.dim() > 1 and len(call.x) == len(call.output) == n


def _layer_gradients(
    calls: list[_Recorded], deltas: tuple[Tensor, ...], flat: list[Tensor], losses: Tensor, held: int
) -> LayerGradients:
    records: dict[int, list[LayerRecord]] = {}
    gradients: dict[int, Tensor] = {}
    for call, delta in zip(calls, deltas, strict=True):
        x = call.x.detach().unsqueeze(1)  # each row is a sample with a batch axis of length one
        record = LayerRecord(call.kind, call.options, x, like_input(delta.unsqueeze(1), x))
        records.setdefault(call.weight, []).append(record)
        if call.bias is not None:
            part = bias_gradients(record, flat[call.bias])
            gradients[call.bias] = gradients[call.bias] + part if call.bias in gradients else part
    if len(losses) * sum(leaf.numel() for leaf in flat) <= held:
        for number, of_weight in records.items():
            first, *more = (weight_gradients(record, flat[number]) for record in of_weight)
            gradients[number] = sum(more, first)
        records = {}
    return LayerGradients(losses, records, gradients, None)
