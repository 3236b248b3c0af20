"""The gradients of single samples as rows, a chunk at a time."""

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from pure_batchops.batches import chunks, n_points
from pure_batchops.budget import fitting
from pure_batchops.gradients.attempts import of_part
from pure_batchops.gradients.mixing import refuse_mixed
from pure_batchops.gradients.sample import formed_rows
from pure_batchops.gradients.sums import Sums, doubled, sum_of_batch, sum_of_parts
from pure_batchops.losses.shared import without_shared
from pure_batchops.rows import width
from pure_batchops.traits import traits_of
from pure_batchops.types import Batch, Buffers, Params, SampleLosses


def gradient_rows(
    loss: SampleLosses, params: Params, buffers: Buffers, batch: Batch, chunk_size: int | None
) -> Iterator[Tensor]:
    """The gradients of the samples of a batch, a chunk at a time.

    Yields:
        Rows, `(chunk_size, D)`. The last chunk may be smaller.

    Raises:
        ValueError: if samples depend on each other, or the loss cannot take one sample alone.
    """
    axis = traits_of(loss).batch_dim
    loss, batch = without_shared(loss, params, buffers, batch, axis)
    chunk_size, n = chunk_size or fitting(width(params)), n_points(batch, axis)
    trust = None
    if n > chunk_size and not traits_of(loss).independent:
        trust = _trust(loss, params, buffers, batch, n, chunk_size)
    start = 0
    for chunk in chunks(batch, chunk_size, axis):
        rows = torch.cat(formed_rows(loss, params, buffers, chunk), 1)
        if len(rows) != n_points(chunk, axis):
            msg = (
                f"loss must return one number for each sample along axis {axis}, got {len(rows)} for {n_points(chunk, axis)}; "
                "if its samples lie along another axis, declare it with pure_batchops.declared(loss, batch_dim=...)"
            )
            raise ValueError(msg)
        start += len(rows)
        yield rows if trust is None else rows * trust[start - len(rows) : start, None]


def _trust(loss: SampleLosses, params: Params, buffers: Buffers, batch: Batch, n: int, size: int) -> Tensor | None:
    """Check that samples have the same losses and gradients in their chunk as in the batch: a chunk alone cannot show it.

    Returns:
        `(n,)`: 1, or NaN where no number can be read and they differ. None for a loss without n numbers, of which no chunk is
        right.
    """
    in_batch = sum_of_batch(loss, params, buffers, batch)
    if len(in_batch.losses) != n:
        return None
    parts = of_part("a part of its batch", sum_of_parts, loss, params, buffers, batch, n, size)
    again = partial(_in_double, loss, params, buffers, batch, n, size)
    return refuse_mixed(torch.ones_like(in_batch.losses), (parts, in_batch), again)


def _in_double(loss: SampleLosses, params: Params, buffers: Buffers, batch: Batch, n: int, size: int) -> Sums:
    point = doubled(params), doubled(buffers), doubled(batch)
    return sum_of_parts(loss, *point, n, size), sum_of_batch(loss, *point)
