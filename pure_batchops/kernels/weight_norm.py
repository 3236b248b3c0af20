"""Weight norm in plain operations. The second derivative of torch's fused one is silently wrong, in every Hessian."""

import torch
from torch import Tensor


def weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    """The direction v, scaled to the size g: each slice along the axis `dim`, or the whole if that is −1."""
    axes = [axis for axis in range(v.dim()) if axis != dim % v.dim()] if dim != -1 else None
    if axes == []:  # each entry is a slice
        return v * (g / v.abs())
    return v * (g / torch.linalg.vector_norm(v, dim=axes, keepdim=axes is not None))
