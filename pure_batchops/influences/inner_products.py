"""The inner products of rows with the gradients of single samples."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from pure_batchops.budget import fitting
from pure_batchops.gradients.maps import SampleGradients
from pure_batchops.gradients.routes import gradients_of_samples
from pure_batchops.trees import device_of, move
from pure_batchops.types import Batch, Buffers, Params, SampleLosses
from pure_batchops.vectors import unflatten


def gradients_of_batches(
    loss: SampleLosses, params: Params, buffers: Buffers, batches: Iterable[Batch]
) -> Iterator[SampleGradients]:
    """The gradients of the samples of each batch, one batch at a time."""
    for batch in batches:
        yield gradients_of_samples(loss, params, buffers, move(batch, device_of(params)))


def inner_products(gradients: SampleGradients, params: Params, rows: Tensor) -> Tensor:
    """The inner product of each of K rows with each of n gradients, `(K, D) -> (K, n)`."""
    if gradients.on_rows is not None:
        return gradients.on_rows.push(rows)
    chunk_size = fitting(rows.shape[1], gradients.numbers_at_once)
    return torch.vmap(lambda row: gradients.push(unflatten(params, row)), chunk_size=chunk_size)(rows)
