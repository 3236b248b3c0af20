"""The gradients of samples from one pass of plain autograd over the batch, if all parameters sit in known layers.

Row i of the gradient of the summed loss at a layer's output is the gradient of ℓᵢ alone, if no other loss depends on row i of
the output. This is known of a chain of torch's modules. For any other loss a second backward pass shows it, of Σ rᵢ ℓᵢ with
random rᵢ: row i must become rᵢ times as large. No pass takes the gradient of a weight.
"""

from typing import Any

import torch
from torch import Tensor

from pure_batchops import tracing
from pure_batchops.gradients.layer import LayerRecord, bias_gradients, weight_gradients, wide
from pure_batchops.gradients.recorded import Recorded, RecordedLayer
from pure_batchops.gradients.sums import factors
from pure_batchops.gradients.taps import LayerGradients, like_input


def gradients_by_one_pass(recorded: Recorded, held: int, *, row_by_row: bool) -> LayerGradients | None:
    """The gradients of all samples: formed if they have at most `held` numbers, else those of weights by layer.

    Returns:
        What `LayerGradients` says; None if a parameter is used outside of known layers, or a row belongs to several samples.
    """
    losses, inputs, calls, reasons = recorded
    if reasons:
        return tracing.refused("one pass", reasons[0])
    outputs = [call.output for call in calls]
    deltas = _pulled(losses, outputs, torch.ones_like(losses))
    if deltas is None:
        return None
    if not row_by_row and not _rows_are_samples(losses, outputs, deltas):
        return tracing.refused("one pass", "a row of a layer's output does not belong to one sample alone")
    with torch.no_grad():
        return _layer_gradients(calls, deltas, [leaf.detach() for leaf in inputs], losses.detach(), held)


def _pulled(losses: Tensor, outputs: list[Tensor], r: Tensor) -> list[Tensor] | None:
    """The gradients of Σ rᵢ ℓᵢ at outputs of layers; None if autograd refuses what the loss changed in place."""
    try:
        found: Any = torch.autograd.grad(losses, outputs, r, retain_graph=True, allow_unused=True)
    except RuntimeError as error:  # a slower way raises the errors of the loss
        return tracing.refused("one pass", str(error))
    return [torch.zeros_like(output) if part is None else part for part, output in zip(found, outputs, strict=True)]


def _rows_are_samples(losses: Tensor, outputs: list[Tensor], deltas: list[Tensor]) -> bool:
    """Whether row i of each δ is the gradient of ℓᵢ: with probability one if Σ rᵢ ℓᵢ has the rows rᵢ δᵢ."""
    r = factors(losses)
    for delta, other in zip(deltas, _pulled(losses, outputs, r) or [], strict=True):
        tolerance = torch.finfo(delta.dtype).eps ** 0.7
        rows = wide(delta).flatten(1)
        gap = wide(other).flatten(1) - wide(r)[:, None] * rows
        if not bool(gap.norm(dim=1).max() <= tolerance * rows.norm(dim=1).max()):
            return False
    return True


def _layer_gradients(
    calls: list[RecordedLayer], deltas: list[Tensor], flat: list[Tensor], losses: Tensor, held: int
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
