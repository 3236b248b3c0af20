"""Losses with checked results: one number for each sample, or their mean."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from pure_batchops.losses.evaluated import evaluated
from pure_batchops.points import saw_points
from pure_batchops.types import Batch, Buffers, Params, SampleLosses


def checked_losses(loss: SampleLosses) -> Callable[..., Tensor]:
    """The loss, with a check that it returns one number for each of n > 0 samples."""

    def losses(params: Params, buffers: Buffers, batch: Batch) -> Tensor:
        values = evaluated(loss, params, buffers, batch)
        _check_dimensions(values, (1,), "the losses of the samples, of shape (n,)")
        return values

    return losses


def mean_loss(loss: SampleLosses) -> Callable[..., Tensor]:
    """The mean of the losses of the samples, a 0-dim tensor. The loss may also return that mean itself."""

    def mean(params: Params, buffers: Buffers, batch: Batch) -> Tensor:
        values = evaluated(loss, params, buffers, batch)
        _check_dimensions(values, (0, 1), "a tensor of shape (n,) or ()")
        saw_points(len(values) if values.dim() == 1 else None, batch)
        return values.mean()

    return mean


def _check_dimensions(values: Any, dimensions: tuple[int, ...], expected: str) -> None:
    if not isinstance(values, Tensor) or values.dim() not in dimensions:
        seen = f"the shape {tuple(values.shape)}" if isinstance(values, Tensor) else type(values).__name__
        msg = f"loss must return {expected}, got {seen}"
        raise ValueError(msg)
    if values.numel() == 0:
        msg = "loss must return the loss of at least one sample, got an empty tensor; is the batch empty?"
        raise ValueError(msg)
