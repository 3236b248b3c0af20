"""The gradients of samples under torch.compile, by layer, from one forward pass over the batch.

The loss is traced twice. First to find the calls of known layers; the compiler drops this run. Then with a zero (the "tap")
added to the output of each. The gradient by the tap is the gradient at that output. No gradient of a weight is formed.

No number can be read here, so that losses which are not known to keep samples apart are checked on the graph: row i of each
gradient at an output must become rᵢ times as large for Σ rᵢ ℓᵢ, and each half of the batch must give the same losses. If not,
the gradients are NaN.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.func import vjp

from pure_batchops.batches import part
from pure_batchops.gradients.layer import LayerRecord, bias_gradients, wide
from pure_batchops.gradients.maps import SampleGradients, of_layers
from pure_batchops.gradients.mixing import same_losses
from pure_batchops.gradients.sums import factors
from pure_batchops.gradients.taps import LayerGradients, like_input
from pure_batchops.gradients.traced_layers import TracedCall, first_run, tapped_losses, traced_losses
from pure_batchops.losses.checked import checked_losses
from pure_batchops.traits import traits_of
from pure_batchops.trees import leaves
from pure_batchops.types import Batch, Buffers, Params, SampleLosses


def gradients_by_compiled_pass(
    loss: SampleLosses, params: Params, buffers: Buffers, batch: Batch, held: int
) -> SampleGradients | None:
    """The gradients of all samples, with weights kept by layer.

    Returns:
        What `SampleGradients` says; None if all gradients have at most `held` numbers, a parameter is used outside of known
        layers, or a layer has other rows than one for each sample.
    """
    if torch.__version__ < "2.7":  # its compiler takes no context manager inside this mode
        return None
    flat, losses_of = leaves(params), partial(traced_losses, loss, params, buffers, batch)
    found: list[TracedCall] = []  # filled while the compiler traces the next line, and only then
    n, depends = first_run(losses_of, flat, found)
    numbers = {call.weight for call in found} | {call.bias for call in found if call.bias is not None}
    is_small = n * sum(leaf.numel() for leaf in flat) <= held
    if is_small or depends or len(numbers) < len(flat) or not all(_has_rows(call, n) for call in found):
        return None
    zeros = [torch.zeros_like(call.output) for call in found]
    losses, pull, inputs = vjp(partial(tapped_losses, losses_of, flat), zeros, has_aux=True)
    (deltas,) = pull(torch.ones_like(losses))
    trust: Tensor | float = 1.0
    if not traits_of(loss).independent and n > 1:
        trust = _trust(losses, deltas, pull, loss, params, buffers, batch)
    return of_layers(_layer_gradients(found, inputs, deltas, flat, losses), trust, params)


def _has_rows(call: TracedCall, n: int) -> bool:
    """Whether axis 0 of a layer's input can only be the axis of the samples, and not, by chance as long, one of positions."""
    if call.x.dim() == 0 or call.output.dim() < 2 or call.x.shape[0] != n or call.output.shape[0] != n:
        return False
    positions = call.output.shape[1:-1] if call.kind.bias_axis == -1 or not call.x.is_floating_point() else ()
    return not any(length == n for length in positions)


def _trust(losses: Tensor, deltas: Any, pull: Any, loss: Any, params: Any, buffers: Any, batch: Any) -> Tensor:
    """1 for each sample, `(n,)`, or NaN if a row of a layer does not belong to one sample, or its half gives another loss."""
    r = factors(losses)
    good = losses.new_ones((), dtype=torch.bool)
    for delta, other in zip(deltas, pull(r)[0], strict=True):
        rows = wide(delta).flatten(1)
        gaps = (wide(other).flatten(1) - wide(r)[:, None] * rows).norm(dim=1)
        good = good & ~(gaps.max() > torch.finfo(delta.dtype).eps ** 0.7 * rows.norm(dim=1).max())
    alone = torch.cat(_losses_of_halves(loss, params, buffers, batch, len(losses)))
    return torch.where(good & same_losses(alone, losses), 1.0, torch.nan)


def _layer_gradients(found: list[TracedCall], inputs: Any, deltas: Any, flat: list[Tensor], losses: Tensor) -> LayerGradients:
    records: dict[int, list[LayerRecord]] = {}
    gradients: dict[int, Tensor] = {}
    for call, row, delta in zip(found, inputs, deltas, strict=True):
        x = row.unsqueeze(1)  # each row is a sample with a batch axis of length one
        record = LayerRecord(call.kind, call.options, x, like_input(delta.unsqueeze(1), x))
        records.setdefault(call.weight, []).append(record)
        if call.bias is not None:
            part = bias_gradients(record, flat[call.bias])
            gradients[call.bias] = gradients[call.bias] + part if call.bias in gradients else part
    return LayerGradients(losses, records, gradients, None)


def _losses_of_halves(loss: SampleLosses, params: Params, buffers: Buffers, batch: Batch, n: int) -> list[Tensor]:
    """The losses of a batch of n > 1 samples, each half of which goes through the loss alone."""
    axis, half = traits_of(loss).batch_dim, n // 2
    with torch.no_grad():
        parts = [part(batch, start, size, axis, n) for start, size in ((0, half), (half, n - half))]
        return [checked_losses(loss)(params, buffers, each).detach() for each in parts]
