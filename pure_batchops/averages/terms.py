"""Sums of weighted products, one precision wider than the products."""

import torch
from torch import Tensor

from pure_batchops import tracing

_WIDER = {
    torch.float16: torch.float32,
    torch.bfloat16: torch.float32,
    torch.float32: torch.float64,
    torch.complex64: torch.complex128,
}
_PART = 2**16
"""How many numbers are added at once on a CPU, where torch first copies them to the wider precision."""


def weighted(leaf: Tensor, weight: float) -> Tensor:
    """Weight times a leaf, in new memory. A batch of weight zero adds nothing, whatever its product is."""
    wide = leaf.to(_WIDER.get(leaf.dtype, leaf.dtype))
    return wide * weight if weight else torch.zeros_like(wide)


def added(total: Tensor, leaf: Tensor, weight: float) -> Tensor:
    """The total plus weight times a leaf, in new memory."""
    total = total.to(leaf.device)
    return torch.add(total, leaf, alpha=weight) if weight else total.clone()


def added_in_place(total: Tensor, leaf: Tensor, weight: float) -> Tensor:
    """The same, written into the total, which nobody else may hold, where nothing traces the sum."""
    plain = type(total) is type(leaf) is Tensor and total.device == leaf.device and tracing.is_untraced([total, leaf])
    if not plain:
        return added(total, leaf, weight)
    parts = [(total, leaf)]
    if total.device.type == "cpu" and total.is_contiguous() and leaf.is_contiguous():
        parts = list(zip(total.view(-1).split(_PART), leaf.detach().view(-1).split(_PART), strict=True))
    for part, more in parts if weight else []:
        part.add_(more, alpha=weight)
    return total
