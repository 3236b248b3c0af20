"""Which route the gradients of samples take."""

from pure_batchops import checks
from pure_batchops.budget import HELD
from pure_batchops.gradients.routes import gradients_of_samples
from pure_batchops.types import Batch, Buffers, Params, SampleLosses


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
        >>> gradient_route(loss, params, {}, x), gradient_route(loss, params, {}, x, held=0)
        ('held', 'unformed')
    """
    checks.loss(loss)
    held = checks.whole("held", held, least=0)
    return gradients_of_samples(loss, params, buffers, batch, held).route
