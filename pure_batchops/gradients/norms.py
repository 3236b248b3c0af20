"""The norms of the gradients of the samples of a batch."""

from collections.abc import Callable

import torch
from torch import Tensor

from pure_batchops import checks, tracing
from pure_batchops.budget import HELD
from pure_batchops.gradients.routes import gradients_of_samples
from pure_batchops.trees import parameter_leaves
from pure_batchops.types import Batch, Buffers, Params, SampleLosses


def gradient_norms(loss: SampleLosses, *, sample_chunk_size: int | None = None) -> Callable[[Params, Buffers, Batch], Tensor]:
    """The norm of the gradient of each sample's loss, ‖∇ℓᵢ‖ for i = 1 … n.

    Gradients with at most 2²² numbers are formed. Of larger ones, those of linear, convolutional and embedding layers are
    never formed; where this is not possible, a chunk of samples has its gradients formed at a time.

    Args:
        loss: `(params, buffers, batch) -> (n,)`; samples must not depend on each other.
        sample_chunk_size: how many gradients are formed at once; layers are then not used. By default layers are used where
            possible, and otherwise as many as have 2²² numbers. The norms do not depend on it.

    Returns:
        `norms(params, buffers, batch) -> (n,)`, not negative, in at least single precision. It is a pure function, which may
        be differentiated (the derivative of a norm that is zero is zero) and vmapped.

    Raises:
        TypeError: if loss is no function, or sample_chunk_size no whole number.
        ValueError: if sample_chunk_size is not positive. The function raises it for a loss that returns no `(n,)` or mixes
            samples. Where no number can be read (under vmap and torch.compile), norms of samples that depend on others are
            NaN instead.

    Examples:
        The gradient of ½ (w − xᵢ)² is w − xᵢ:

        >>> loss = lambda params, buffers, x: (params["w"] - x).square() / 2
        >>> gradient_norms(loss)({"w": torch.tensor(3.0)}, {}, torch.tensor([1.0, 2.0, 5.0]))
        tensor([2., 1., 2.])
    """
    checks.loss(loss)
    if sample_chunk_size is not None:
        sample_chunk_size = checks.whole("sample_chunk_size", sample_chunk_size)

    def norms(params: Params, buffers: Buffers, batch: Batch) -> Tensor:
        tracing.refuse_inference_mode()
        parameter_leaves(params)
        squares = gradients_of_samples(loss, params, buffers, batch, HELD, sample_chunk_size).squared_norms()
        is_zero = squares == 0  # the square root has no derivative there
        return torch.where(is_zero, 0, torch.where(is_zero, 1, squares).sqrt())

    return norms
