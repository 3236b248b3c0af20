"""The choice of the route to the gradients of samples. The package's page says how it is made."""

from functools import partial

import torch

from pure_batchops import tracing
from pure_batchops.budget import HELD
from pure_batchops.derivatives.jacobian import jacobian
from pure_batchops.gradients.alone import sums_in_double
from pure_batchops.gradients.attempts import attempted
from pure_batchops.gradients.by_chunks import squared_norms_by_chunks
from pure_batchops.gradients.by_vmap import gradients_by_vmap
from pure_batchops.gradients.compiled import gradients_by_compiled_pass
from pure_batchops.gradients.maps import SampleGradients, of_layers
from pure_batchops.gradients.mixing import same_losses, verified
from pure_batchops.gradients.one_pass import gradients_by_one_pass
from pure_batchops.gradients.recorded import Recorded, recorded_losses
from pure_batchops.gradients.sums import Sum, factors, losses_of_parts, sum_of, sum_of_batch, sum_of_recorded, sum_of_rows
from pure_batchops.gradients.taps import LayerGradients
from pure_batchops.losses.checked import checked_losses
from pure_batchops.members import underneath
from pure_batchops.traits import traits_of
from pure_batchops.trees import leaves
from pure_batchops.types import Batch, Buffers, Params, SampleLosses


def gradients_of_samples(
    loss: SampleLosses,
    params: Params,
    buffers: Buffers,
    batch: Batch,
    held: int = HELD,
    sample_chunk_size: int | None = None,
) -> SampleGradients:
    """The gradients of the samples: held, by layer or unformed.

    At most `held` numbers of gradients are formed, 0 for none. With `sample_chunk_size` none is kept, and the norms form that
    many gradients at once.

    Returns:
        What `SampleGradients` says.

    Raises:
        ValueError: as `checked_losses`. The norms of unformed gradients raise it for a loss that mixes samples.
    """
    if held > 0 and sample_chunk_size is None:
        point = loss, params, buffers, batch
        recorded = recorded_losses(*point)
        found = None if recorded is None else _by_one_pass(recorded, *point, held)
        found = gradients_by_compiled_pass(*point, held) if tracing.compiling() else found
        found = _by_vmap(recorded, *point, held) if found is None else found
        if found is not None:
            return found
    tracing.log("gradients of samples: unformed")
    values, push, pull = jacobian(partial(checked_losses(loss), buffers=buffers, batch=batch), params)
    norms = partial(squared_norms_by_chunks, loss, params, buffers, batch, values, pull, sample_chunk_size)
    return SampleGradients(values, push, pull, norms)


def _by_one_pass(
    recorded: Recorded, loss: SampleLosses, params: Params, buffers: Buffers, batch: Batch, held: int
) -> SampleGradients | None:
    known, losses = traits_of(loss), recorded.losses.detach()
    layers = gradients_by_one_pass(recorded, held)
    if layers is None:
        return None
    if not known.independent and len(losses) > 1 and not _same_in_parts(recorded, loss, params, buffers, batch):
        return tracing.refused("one pass", "samples depend on each other")
    return _logged(of_layers(layers, 1.0, params), "by one pass", layers)


def _same_in_parts(recorded: Recorded, loss: SampleLosses, params: Params, buffers: Buffers, batch: Batch) -> bool:
    """Whether a part of the batch has the losses that it has in the batch.

    The gradients are those of the losses that the batch gave, even if they mix samples. In other batches they are not. Where
    the calls show that no value mixes samples, only the size of the batch can still matter, and two samples tell.

    Returns:
        Whether it has.
    """
    losses = recorded.losses.detach()
    size = min(2, len(losses) - 1) if recorded.read_apart else None
    parts, _ = attempted(losses_of_parts, loss, params, buffers, batch, len(losses), size)
    alone = None if parts is None else torch.cat(parts)
    expected = losses if size is None else losses[:size]
    return (
        alone is not None
        and alone.shape == expected.shape
        and bool(underneath(same_losses(alone, expected), recorded.members).all())
    )


def _by_vmap(
    recorded: Recorded | None, loss: SampleLosses, params: Params, buffers: Buffers, batch: Batch, held: int
) -> SampleGradients | None:
    in_batch = None
    if not traits_of(loss).independent:
        in_batch = None if recorded is None else sum_of_recorded(recorded)
        in_batch = sum_of_batch(loss, params, buffers, batch) if in_batch is None else in_batch
    layers = gradients_by_vmap(loss, params, buffers, batch, None if in_batch is None else in_batch.losses, held)
    if layers is None:
        return None
    sums = None
    if in_batch is not None:
        sums = _sum_of_layers(layers, params), in_batch
    trust = verified(sums, partial(sums_in_double, loss, params, buffers, batch), layers.unseen_uses)
    return None if trust is None else _logged(of_layers(layers, trust, params), "by vmap", layers)


def _sum_of_layers(layers: LayerGradients, params: Params) -> Sum:
    gradients, losses = of_layers(layers, 1.0, params), layers.losses
    if gradients.rows is not None:
        return sum_of_rows(list(gradients.rows()), losses)
    return sum_of(losses, leaves(gradients.pull(factors(losses))))


def _logged(gradients: SampleGradients, way: str, layers: LayerGradients) -> SampleGradients:
    tracing.log("gradients of samples: %s, %s", gradients.route, way)
    if layers.records:
        tracing.log("weights by layer: leaves %s", sorted(layers.records))
    return gradients
