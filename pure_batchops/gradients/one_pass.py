"""The gradients of samples from one pass of plain autograd over the batch.

Sample i of the gradient of the summed loss, at the output of a call where a parameter enters, is the gradient of ℓᵢ alone, if
no other loss depends on sample i of that output. The calls that follow show it (`sample_axis`). Otherwise a second backward
pass does, of Σ rᵢ ℓᵢ with random rᵢ: sample i must become rᵢ times as large.
No pass takes the gradient of a weight.
"""

from typing import Any

import torch
from torch import Tensor

from pure_batchops import tracing
from pure_batchops.gradients.layer import LayerRecord, bias_gradients, wide
from pure_batchops.gradients.made_of_params import gradients_of_leaves
from pure_batchops.gradients.recorded import Recorded
from pure_batchops.gradients.sums import factors
from pure_batchops.gradients.taps import LayerGradients, like_input
from pure_batchops.gradients.uses import Followed
from pure_batchops.members import Members, underneath
from pure_batchops.sample_axis.axis import first


def gradients_by_one_pass(recorded: Recorded, held: int) -> LayerGradients | None:
    """The gradients of all samples: formed if they have at most `held` numbers, else those of weights by layer.

    Returns:
        What `LayerGradients` says; None if a parameter enters in no known way, or a row belongs to several samples.
    """
    losses, calls, reasons = recorded.losses, recorded.calls, recorded.reasons
    if reasons:
        return tracing.refused("one pass", reasons[0])
    deltas = _pulled(losses, calls, torch.ones_like(losses), recorded.members)
    if deltas is None:
        return None
    if recorded.mixed:
        tracing.refused("samples apart by calls", recorded.mixed)
    if recorded.mixed and not _rows_are_samples(losses, calls, deltas, recorded.members):
        return tracing.refused("one pass", "a row of a layer's output does not belong to one sample alone")
    with torch.no_grad():
        records, formed = _records(calls, deltas)
    return gradients_of_leaves(records, formed, recorded.inputs, losses.detach(), held // recorded.members.total)


def _pulled(losses: Tensor, calls: list[Followed], r: Tensor, members: Members) -> list[Tensor] | None:
    """The gradients of Σ rᵢ ℓᵢ at outputs of calls, samples first; None if autograd refuses what the loss changed in place."""
    edges: list[Any] = [call.edge for call in calls]
    try:
        beneath, weights = underneath(losses, members), underneath(r, members)
        found: Any = torch.autograd.grad(beneath, edges, weights, retain_graph=True, allow_unused=True)
    except RuntimeError as error:  # a slower way raises the errors of the loss
        return tracing.refused("one pass", str(error))
    return [
        _samples_first(call.zeros() if part is None else call.shown(part), call)
        for part, call in zip(found, calls, strict=True)
    ]


def _samples_first(tensor: Tensor, call: Followed) -> Tensor:
    """All samples along axis 0. A batch of one sample is a sample as it is."""
    if call.where is None or call.where.n == 1:
        return tensor.unsqueeze(0)
    return first(tensor, call.where)


def _rows_are_samples(losses: Tensor, calls: list[Followed], deltas: list[Tensor], members: Members) -> bool:
    """Whether row i of each δ is the gradient of ℓᵢ: with probability one if Σ rᵢ ℓᵢ has the rows rᵢ δᵢ."""
    r = factors(losses)
    for delta, other in zip(deltas, _pulled(losses, calls, r, members) or [], strict=True):
        tolerance = torch.finfo(delta.dtype).eps ** 0.7
        rows = wide(delta).flatten(1)
        gap = wide(other).flatten(1) - wide(r)[:, None] * rows
        if not bool(underneath(gap.norm(dim=1).max() <= tolerance * rows.norm(dim=1).max(), members).all()):
            return False
    return True


def _records(
    calls: list[Followed], deltas: list[Tensor]
) -> tuple[list[tuple[Tensor, LayerRecord]], list[tuple[Tensor, Tensor]]]:
    """The records of weights, and the gradients of biases, of each call."""
    records, formed = [], []
    for call, delta in zip(calls, deltas, strict=True):
        x = delta.new_empty(len(delta), 0) if call.x is None else _samples_first(call.x.detach(), call)
        record = LayerRecord(call.kind, call.options, x, like_input(delta, x))
        if call.weight is not None:
            records.append((call.weight, record))
        if call.bias is not None:
            formed.append((call.bias, bias_gradients(record, call.bias)))
    return records, formed
