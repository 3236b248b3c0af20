"""The gradients of all samples of a batch, formed."""

from collections.abc import Callable

from torch import Tensor

from pure_batchops import checks, tracing
from pure_batchops.budget import UNBOUNDED
from pure_batchops.gradients.by_chunks import rows_by_chunks
from pure_batchops.gradients.routes import gradients_of_samples
from pure_batchops.trees import leaves, parameter_leaves, rebuilt
from pure_batchops.types import Batch, Buffers, Params, SampleLosses, Tree


def sample_gradients(loss: SampleLosses) -> Callable[[Params, Buffers, Batch], Tree]:
    """The gradient of each sample's loss, ∇ℓᵢ for i = 1 … n, with no mean over samples.

    It holds n × D numbers, for n samples and D parameters. The norms alone need far less: see `gradient_norms`.

    Args:
        loss: `(params, buffers, batch) -> (n,)`; samples must not depend on each other.

    Returns:
        `gradients(params, buffers, batch) -> tree`, a tree like params with a leading axis n on every leaf: one gradient for
        each sample, in the order of the losses. It is a pure function, which may be differentiated and vmapped.

    Raises:
        TypeError: if loss is no function.
        ValueError: the function raises it for a loss that returns no `(n,)` or mixes samples. Where no number can be read
            (under vmap and torch.compile), gradients of samples that depend on others are NaN instead.

    Examples:
        The gradient of ½ (w − xᵢ)² is w − xᵢ:

        >>> import torch
        >>> loss = lambda params, buffers, x: (params["w"] - x).square() / 2
        >>> sample_gradients(loss)({"w": torch.tensor(3.0)}, {}, torch.tensor([1.0, 2.0, 5.0]))
        {'w': tensor([ 2.,  1., -2.])}
    """
    checks.loss(loss)

    def gradients(params: Params, buffers: Buffers, batch: Batch) -> Tree:
        rows = formed_rows(loss, params, buffers, batch)
        return rebuilt(params, [row.reshape(-1, *leaf.shape) for row, leaf in zip(rows, leaves(params), strict=True)])

    return gradients


def formed_rows(loss: SampleLosses, params: Params, buffers: Buffers, batch: Batch) -> tuple[Tensor, ...]:
    """The gradients of all samples, leaf by leaf.

    Returns:
        For each leaf of params a tensor `(n, numbers of the leaf)`.

    Raises:
        ValueError: if samples depend on each other, or the loss cannot take one sample alone.
    """
    tracing.refuse_inference_mode()
    parameter_leaves(params)
    gradients = gradients_of_samples(loss, params, buffers, batch, UNBOUNDED)
    if gradients.rows is None:
        return rows_by_chunks(loss, params, buffers, batch, gradients.losses, gradients.pull)
    return gradients.rows()
