"""Bags of embeddings in plain operations. torch's own have no second derivative and no forward mode."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  # its usual name

from pure_batchops.kernels.embedding import refuse_changed_weights


def embedding_bag(
    input: Tensor,
    weight: Tensor,
    offsets: Tensor | None = None,
    max_norm: float | None = None,
    norm_type: float = 2,
    scale_grad_by_freq: bool = False,
    mode: str = "mean",
    sparse: bool = False,
    per_sample_weights: Tensor | None = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> Tensor:
    """`torch.nn.functional.embedding_bag`.

    Returns:
        The sum, mean or maximum of each bag.

    Raises:
        ValueError: if max_norm or scale_grad_by_freq is set.
    """
    refuse_changed_weights(max_norm, scale_grad_by_freq=scale_grad_by_freq)
    weighed = per_sample_weights is not None and (mode != "sum" or per_sample_weights.shape != input.shape)
    shaped = weight.dim() == 2 and input.dim() == (2 if offsets is None else 1) and input.numel() > 0
    if sparse or weighed or not shaped or mode not in {"sum", "mean", "max"} or input.is_floating_point():
        rest: list[Any] = [mode, sparse, per_sample_weights, include_last_offset, padding_idx]
        return F.embedding_bag(input, weight, offsets, max_norm, norm_type, scale_grad_by_freq, *rest)
    bags, number = _bags(input, offsets, include_last_offset=include_last_offset)
    input = input.reshape(-1)
    rows = F.embedding(input, weight)
    rows = rows.to(torch.promote_types(rows.dtype, torch.float32))
    if per_sample_weights is not None:
        rows = rows * per_sample_weights.reshape(-1, 1)
    counted = None if padding_idx is None else input != padding_idx % len(weight)
    return _reduced(rows, bags, number, mode, counted).to(weight.dtype)


def _bags(input: Tensor, offsets: Tensor | None, *, include_last_offset: bool) -> tuple[Tensor, int]:
    """The number of the bag of each entry, and how many bags there are."""
    if offsets is None:
        return torch.arange(len(input), device=input.device).repeat_interleave(input.shape[1]), len(input)
    starts = offsets[:-1] if include_last_offset else offsets
    entries = torch.arange(len(input), device=input.device, dtype=starts.dtype)
    return torch.searchsorted(starts, entries, right=True) - 1, len(starts)


def _reduced(rows: Tensor, bags: Tensor, number: int, mode: str, counted: Tensor | None) -> Tensor:
    """The sum, mean or maximum of the rows of each bag; zero for a bag without rows."""
    zeros = rows.new_zeros(number, rows.shape[1])
    if mode == "max":
        rows = rows if counted is None else rows.masked_fill(~counted[:, None], -torch.inf)
        most = zeros.scatter_reduce(0, bags[:, None].expand_as(rows), rows, "amax", include_self=False)
        return most.masked_fill(most == -torch.inf, 0)
    share = rows.new_ones(len(rows), 1) if counted is None else counted[:, None].to(rows.dtype)
    total = zeros.index_add(0, bags, rows if counted is None else rows * share)
    if mode == "sum":
        return total
    return total / rows.new_zeros(number, 1).index_add(0, bags, share).clamp_min(1)
