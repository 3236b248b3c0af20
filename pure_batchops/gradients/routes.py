"""The choice of the route to the gradients of samples. The package's page says how it is made."""

from functools import partial

from pure_batchops import checks, tracing
from pure_batchops.budget import HELD
from pure_batchops.derivatives.jacobian import jacobian
from pure_batchops.gradients.by_chunks import squared_norms_by_chunks
from pure_batchops.gradients.by_vmap import gradients_by_vmap
from pure_batchops.gradients.maps import SampleGradients, of_layers
from pure_batchops.gradients.mixing import verified
from pure_batchops.gradients.one_pass import gradients_by_one_pass
from pure_batchops.gradients.taps import LayerGradients
from pure_batchops.losses.checked import checked_losses
from pure_batchops.traits import traits_of
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
    losses = partial(checked_losses(loss), buffers=buffers, batch=batch)
    if held > 0 and sample_chunk_size is None:
        independent, row_by_row = traits_of(loss).independent, traits_of(loss).row_by_row
        is_declared = independent or row_by_row
        layers = gradients_by_one_pass(loss, params, buffers, batch, held) if is_declared else _undeclared()
        if layers is not None:
            return _logged(of_layers(layers, 1.0, params), "by one pass", layers)
        in_batch = None if independent else losses(params)
        layers = gradients_by_vmap(loss, params, buffers, batch, in_batch, held)
        trust = None if layers is None else verified(layers.losses, in_batch, layers.unseen_uses)
        if layers is not None and trust is not None:
            return _logged(of_layers(layers, trust, params), "by vmap", layers)
    tracing.log("gradients of samples: unformed")
    values, push, pull = jacobian(losses, params)
    norms = partial(squared_norms_by_chunks, loss, params, buffers, batch, values, sample_chunk_size)
    return SampleGradients(values, push, pull, norms)


def _undeclared() -> LayerGradients | None:
    return tracing.refused("one pass", "the loss does not declare that its samples are independent")


def _logged(gradients: SampleGradients, way: str, layers: LayerGradients) -> SampleGradients:
    tracing.log("gradients of samples: %s, %s", gradients.route, way)
    if layers.records:
        tracing.log("weights by layer: leaves %s", sorted(layers.records))
    return gradients


def gradient_route(loss: SampleLosses, params: Params, buffers: Buffers, batch: Batch, *, held: int = HELD) -> str:
    """The route that the gradients of samples take: which of the three ways `gauss_newton(loss, held=held)` works.

    The route depends on the loss, on the shapes, and on what traces the call. Logging at debug level says why: see
    `pure_batchops.gradients`.

    Args:
        loss: `(params, buffers, batch) -> (n,)`.
        params: as for the loss.
        buffers: as for the loss.
        batch: as for the loss.
        held: the most numbers of gradients of samples to hold, as for `gauss_newton`.

    Returns:
        `"held"`: the gradients are formed, n × D numbers. `"by layer"`: those of weights are kept as inputs of layers and
        gradients at their outputs. `"unformed"`: products are derivatives of the losses of the whole batch.

    Raises:
        TypeError: if loss is no function, or held no whole number.
        ValueError: if held is negative, or the loss returns no `(n,)`.

    Examples:
        >>> import torch
        >>> loss = lambda params, buffers, x: params["w"] * x
        >>> params, x = {"w": torch.tensor(3.0)}, torch.tensor([1.0, 2.0])
        >>> gradient_route(loss, params, {}, x), gradient_route(loss, params, {}, x, held=1)
        ('held', 'unformed')
    """
    checks.loss(loss)
    held = checks.whole("held", held, least=0)
    return gradients_of_samples(loss, params, buffers, batch, held).route
