"""The gradients of single samples as rows, a chunk at a time."""

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from pure_batchops.batches import chunks, n_points
from pure_batchops.budget import fitting
from pure_batchops.gradients.mixing import refuse_mixed
from pure_batchops.gradients.sample import formed_rows
from pure_batchops.losses.checked import checked_losses
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
        ValueError: if samples depend on each other, or torch.vmap cannot map the loss over them.
    """
    axis = traits_of(loss).batch_dim
    loss, batch = without_shared(loss, params, buffers, batch, axis)
    chunk_size = chunk_size or fitting(width(params))
    losses = partial(_losses, loss, params, buffers)
    # A chunk cannot show that its samples depend on those of other chunks.
    in_batch = None if traits_of(loss).independent or n_points(batch, axis) <= chunk_size else losses(batch)
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
        yield rows if in_batch is None else refuse_mixed(rows, losses(chunk), in_batch[start - len(rows) : start])


def _losses(loss: SampleLosses, params: Params, buffers: Buffers, batch: Batch) -> Tensor:
    with torch.no_grad():
        return checked_losses(loss)(params, buffers, batch).detach()
