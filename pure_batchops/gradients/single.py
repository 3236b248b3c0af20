"""Single samples: what a loss says about its samples, and the loss of one of them."""

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor

from pure_batchops.batches import sample_axis, split
from pure_batchops.trees import rebuilt
from pure_batchops.types import Batch, Buffers, Params, SampleLosses


def axis_of(loss: SampleLosses) -> int:
    """The axis of the samples in a batch of the loss, 0 unless declared."""
    return sample_axis(loss)


def is_independent(loss: SampleLosses) -> bool:
    """Whether it is known that no sample's loss depends on another sample."""
    return bool(getattr(loss, "independent", False))


def single_samples(
    loss: SampleLosses, params: Params, buffers: Buffers, batch: Batch, n: int
) -> tuple[Callable[..., Tensor], list[Tensor]]:
    """The loss of one sample, and the samples.

    Returns:
        `loss_of_one(leaves of params, *sample) -> ()`, and the tensors of the batch that have n samples along their axis,
        with the samples along a new first axis. All samples share the rest of the batch.
    """
    alone, samples = split(batch, n, axis_of(loss))
    return partial(_loss_of_one, loss, params, buffers, alone), samples


def _loss_of_one(
    loss: SampleLosses, params: Params, buffers: Buffers, alone: Callable[..., Batch], leaves: Any, *sample: Tensor
) -> Tensor:
    return loss(rebuilt(params, leaves), buffers, alone(*sample)).sum()
