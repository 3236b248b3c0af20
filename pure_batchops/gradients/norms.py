"""The squared norms of the gradients of single samples, a chunk of samples at a time."""

from typing import Any

import torch
from torch import Tensor
from torch.func import grad_and_value

from pure_batchops import tracing
from pure_batchops.batches import split
from pure_batchops.budget import chunk_of
from pure_batchops.traits import traits_of
from pure_batchops.trees import leaves
from pure_batchops.types import Batch, Buffers, Params, SampleLosses


def squared_gradient_norms(
    loss: SampleLosses, params: Params, buffers: Buffers, batch: Batch, losses: Tensor, chunk_size: int | None
) -> Tensor:
    """‖∇ℓᵢ‖² for each sample, `(n,)`, never holding more than a chunk of gradients.

    The tensors of the batch that have n samples along `loss.batch_dim` (0 for a loss that says nothing) are split into
    samples; whatever else the batch holds is shared by all.

    Returns:
        A tensor of shape `(n,)`, in at least single precision.

    Raises:
        ValueError: if a sample has another loss alone than in its batch. Where no number can be read (under vmap and
            torch.compile) its norm is not a number instead.
    """
    n, axis = len(losses), traits_of(loss).batch_dim
    alone, samples = split(batch, n, axis)

    def of_one(*sample: Tensor) -> Any:  # ‖∇ℓ‖², ℓ; torch 2.5 cannot trace an annotation in brackets
        gradient, value = grad_and_value(lambda p: loss(p, buffers, alone(*sample)).sum())(params)
        return _squared_norm(gradient), value

    if not samples:
        msg = f"batch must hold a tensor with {n} samples along axis {axis}, as many as there are losses"
        raise ValueError(msg)
    norms, values = torch.vmap(of_one, chunk_size=chunk_size or chunk_of(n, sum(leaf.numel() for leaf in leaves(params))))(
        *samples
    )
    return _refuse_mixed(norms, values, losses)


def _squared_norm(gradient: Any) -> Tensor:
    """In at least single precision: squares of half-precision numbers overflow."""
    wide = [leaf.to(torch.promote_types(leaf.dtype, torch.float32)).reshape(-1) for leaf in leaves(gradient)]
    return torch.stack([torch.dot(leaf, leaf) for leaf in wide]).sum()  # squares would be one more copy of all


def _refuse_mixed(norms: Tensor, alone: Tensor, losses: Tensor) -> Tensor:
    same = same_losses(alone, losses)
    if tracing.readable(same.all()) is False:
        worst = int((alone - losses).abs().argmax())
        msg = (
            f"loss must give a sample the same value alone as in its batch: sample {worst} has "
            f"{float(losses[worst]):.6g} in the batch and {float(alone[worst]):.6g} alone; samples must not depend on "
            "each other (a mean over the batch inside the loss?)"
        )
        raise ValueError(msg)
    return torch.where(same, norms, torch.nan)


def same_losses(alone: Tensor, losses: Tensor) -> Tensor:
    """Which samples have the same loss alone as in their batch, but for rounding."""
    # Rounding differs between one sample and many; a loss that mixes samples is off by a factor, not by rounding.
    tolerance = torch.finfo(losses.dtype).eps ** (1 / 3)
    same = (alone - losses).abs() <= tolerance * (1 + losses.abs())
    return same | ~torch.isfinite(losses)  # what is not finite speaks for itself
