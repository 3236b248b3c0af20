"""The squared norms of the gradients of samples, from a chunk of gradients at a time."""

from typing import Any

import torch
from torch import Tensor
from torch.func import grad_and_value

from pure_batchops.budget import chunk_of
from pure_batchops.gradients.layer import wide
from pure_batchops.gradients.mixing import refuse_mixed
from pure_batchops.gradients.single import single_samples
from pure_batchops.traits import traits_of
from pure_batchops.trees import leaves
from pure_batchops.types import Batch, Buffers, Params, SampleLosses


def squared_norms_by_chunks(
    loss: SampleLosses, params: Params, buffers: Buffers, batch: Batch, losses: Tensor, chunk_size: int | None
) -> Tensor:
    """‖∇ℓᵢ‖² for each sample, from at most a chunk of gradients at once.

    Returns:
        A tensor of shape `(n,)`, in at least single precision.

    Raises:
        ValueError: if a sample has another loss alone than in its batch. Where no number can be read (under vmap and
            torch.compile) its norm is NaN instead.
    """
    n, flat = len(losses), leaves(params)
    loss_of_one, samples = single_samples(loss, params, buffers, batch, n)

    def of_one(*sample: Tensor) -> Any:  # ‖∇ℓ‖², ℓ  # C3
        gradient, value = grad_and_value(loss_of_one)(flat, *sample)
        return _squared_norm(gradient), value

    if not samples:
        msg = f"batch must hold a tensor with {n} samples along axis {traits_of(loss).batch_dim}, as many as there are losses"
        raise ValueError(msg)
    chunk = chunk_of(n, sum(leaf.numel() for leaf in flat), chunk_size)
    norms, alone = torch.vmap(of_one, chunk_size=chunk)(*samples)
    return refuse_mixed(norms, alone, losses)


def _squared_norm(gradient: Any) -> Tensor:
    parts = [wide(leaf).reshape(-1) for leaf in gradient]
    return torch.stack([torch.dot(leaf, leaf) for leaf in parts]).sum()  # squares would be one more copy of all
