"""The gradients of single samples where they are not held: a chunk at a time, for their squared norms or for their rows."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from pure_batchops.gradients.alone import alone_in_chunks, sums_in_double
from pure_batchops.gradients.mixing import refuse_mixed, refuse_mixed_losses
from pure_batchops.gradients.sums import Sum, factors, sum_of
from pure_batchops.traits import traits_of
from pure_batchops.trees import leaves
from pure_batchops.types import Batch, Buffers, LinearMap, Params, SampleLosses


def squared_norms_by_chunks(
    loss: SampleLosses,
    params: Params,
    buffers: Buffers,
    batch: Batch,
    losses: Tensor,
    pull: LinearMap,
    chunk_size: int | None = None,
) -> Tensor:
    """‖∇ℓᵢ‖² for each sample, from at most a chunk of gradients at once. `losses`, `pull` (u ↦ Jᵀ u): of the batch.

    Returns:
        A tensor of shape `(n,)`, in at least single precision.

    Raises:
        ValueError: if a sample has another loss or gradient alone than in its batch, or the loss cannot take one sample
            alone. Where no number can be read (under vmap and torch.compile) norms are NaN instead.
    """
    norms, alone = alone_in_chunks(loss, params, buffers, batch, len(losses), chunk_size, _squared_norms)
    return _checked(torch.cat(norms), alone, loss, params, buffers, batch, losses, pull)


def rows_by_chunks(
    loss: SampleLosses, params: Params, buffers: Buffers, batch: Batch, losses: Tensor, pull: LinearMap
) -> tuple[Tensor, ...]:
    """All gradients, formed.

    Returns:
        For each leaf of params a tensor `(n, numbers of the leaf)`.

    Raises:
        ValueError: as `squared_norms_by_chunks`.
    """
    rows, alone = alone_in_chunks(loss, params, buffers, batch, len(losses), None, _flat_rows)
    joined = [torch.cat(group) for group in zip(*rows, strict=True)]
    return tuple(_checked(row, alone, loss, params, buffers, batch, losses, pull) for row in joined)


def _squared_norms(gradients: list[Tensor], norms: Tensor) -> Any:  # noqa: ARG001
    return norms


def _flat_rows(gradients: list[Tensor], norms: Tensor) -> Any:
    return [gradient.reshape(len(norms), -1) for gradient in gradients]


def _checked(
    values: Tensor,
    alone: Sum,
    loss: SampleLosses,
    params: Params,
    buffers: Buffers,
    batch: Batch,
    losses: Tensor,
    pull: LinearMap,
) -> Tensor:
    if traits_of(loss).independent:
        return refuse_mixed_losses(values, alone.losses, losses)
    in_batch = sum_of(losses, leaves(pull(factors(losses))))
    return refuse_mixed(values, (alone, in_batch), partial(sums_in_double, loss, params, buffers, batch))
