"""Numbers with mean 0 and variance 1 along some axes, scaled and shifted: what all norms have in common."""

from collections.abc import Sequence

import torch
from torch import Tensor

Parts = tuple[Tensor, Tensor, Tensor]
"""The result, the mean, and one over the deviation."""


def are_torchs(x: Tensor, weight: Tensor | None, bias: Tensor | None, shape: Sequence[int]) -> bool:
    """Whether torch's norm takes these arguments, and they are of floating point; if not, torch's own says so."""
    dtypes = {x.dtype, torch.float32} if x.dtype in {torch.float16, torch.bfloat16} else {x.dtype}
    fits = all(p is None or (p.shape == torch.Size(shape) and p.dtype in dtypes) for p in (weight, bias))
    return x.is_floating_point() and x.numel() > 0 and fits


def by_shape(x: Tensor, shape: Sequence[int], weight: Tensor | None, bias: Tensor | None, eps: float) -> Parts:
    """Each slice of the last axes, whose sizes are `shape`, scaled and shifted entry by entry."""
    y, mean, inverse = _standardized(x, tuple(range(-len(shape), 0)), eps)
    return _scaled(y, weight, bias).to(_dtype_of_layer_norm(x)), mean, inverse


def by_channel(x: Tensor, axes: tuple[int, ...], weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    """Each slice along `axes`, scaled and shifted by the numbers of its channel, which is axis 1."""
    lift = (-1, *[1] * (x.dim() - 2))
    weight, bias = (None if p is None else p.reshape(lift) for p in (weight, bias))
    return _scaled(_standardized(x, axes, eps)[0], weight, bias).to(x.dtype)


def by_statistics(
    x: Tensor, statistics: tuple[Tensor, Tensor], weight: Tensor | None, bias: Tensor | None, eps: float
) -> Tensor:
    """Each channel with a mean and variance that are given."""
    lift = (-1, *[1] * (x.dim() - 2))
    wide = torch.promote_types(x.dtype, torch.float32)
    mean, scale = statistics[0].to(wide), (statistics[1].to(wide) + eps).rsqrt()
    scale = scale if weight is None else scale * weight
    shift = -mean * scale if bias is None else bias - mean * scale
    return (x.to(wide) * scale.reshape(lift) + shift.reshape(lift)).to(x.dtype)


def _dtype_of_layer_norm(x: Tensor) -> torch.dtype:
    half = x.dtype in {torch.float16, torch.bfloat16}
    return torch.float32 if half and x.is_cuda and torch.is_autocast_enabled() else x.dtype


def _standardized(x: Tensor, axes: tuple[int, ...], eps: float) -> Parts:
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    mean = wide.mean(axes, keepdim=True)
    centred = wide - mean
    inverse = (centred.square().mean(axes, keepdim=True) + eps).rsqrt()
    return centred * inverse, mean, inverse


def _scaled(y: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    y = y if weight is None else y * weight
    return y if bias is None else y + bias
