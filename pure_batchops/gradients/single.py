"""Single samples: what a loss says about its samples, and the loss of one of them."""

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor

from pure_batchops.batches import split
from pure_batchops.losses.checked import checked_losses
from pure_batchops.losses.evaluated import evaluated
from pure_batchops.traits import traits_of
from pure_batchops.trees import leaves, rebuilt
from pure_batchops.types import Batch, Buffers, Params, SampleLosses


def number_of_samples(loss: SampleLosses, params: Params, buffers: Buffers, batch: Batch) -> int:
    """n, from the batch if all its tensors agree along the axis of the samples, else from the losses."""
    axis = traits_of(loss).batch_dim
    tensors = [part for part in leaves(batch) if isinstance(part, Tensor) and -part.dim() <= axis < part.dim()]
    lengths = [tensor.shape[axis] for tensor in tensors]
    # A set of lengths would fix the size under torch.compile, which then compiles again for each size.
    agree = len(lengths) > 0 and all(length == lengths[0] > 0 for length in lengths)  # the loss refuses an empty batch
    return lengths[0] if agree else len(checked_losses(loss)(params, buffers, batch))


def single_samples(
    loss: SampleLosses, params: Params, buffers: Buffers, batch: Batch, n: int
) -> tuple[Callable[..., Tensor], list[Tensor]]:
    """The loss of one sample, and the samples.

    Returns:
        `loss_of_one(leaves of params, *sample) -> ()`, and the tensors of the batch that have n samples along their axis,
        with the samples along a new first axis. All samples share the rest of the batch.
    """
    alone, samples = split(batch, n, traits_of(loss).batch_dim)
    return partial(_loss_of_one, loss, params, buffers, alone), samples


def _loss_of_one(
    loss: SampleLosses, params: Params, buffers: Buffers, alone: Callable[..., Batch], flat: Any, *sample: Tensor
) -> Tensor:
    value = evaluated(loss, rebuilt(params, flat), buffers, alone(*sample))
    if value.numel() != 1:
        msg = f"loss must return one number for one sample alone, got the shape {tuple(value.shape)}"
        raise ValueError(msg)
    return value.reshape(())
