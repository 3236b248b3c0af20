"""Distances in plain operations. torch's own have no second derivative and no forward mode.

The derivatives of a distance that is zero are zero, as torch's first derivative is.
"""

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  # its usual name

_BY_PRODUCT = "use_mm_for_euclid_dist"
_IF_MANY = "use_mm_for_euclid_dist_if_necessary"


def cdist(x1: Tensor, x2: Tensor, p: float = 2.0, compute_mode: str = _IF_MANY) -> Tensor:
    """`torch.cdist`."""
    fits = min(x1.dim(), x2.dim()) > 1 and x1.shape[-1] == x2.shape[-1] and x1.numel() > 0 and x2.numel() > 0
    if not (fits and 1 <= p < torch.inf and compute_mode in {_BY_PRODUCT, _IF_MANY, "donot_use_mm_for_euclid_dist"}):
        return torch.cdist(x1, x2, p, compute_mode)
    many = compute_mode == _IF_MANY and max(x1.shape[-2], x2.shape[-2]) > 25
    if p == 2 and (many or compute_mode == _BY_PRODUCT):
        return _root(_squares_by_product(x1, x2), 2)
    return _norm(x1[..., :, None, :] - x2[..., None, :, :], p)


def pdist(input: Tensor, p: float = 2) -> Tensor:
    """`torch.pdist`."""
    if input.dim() != 2 or not 1 <= p < torch.inf:
        return F.pdist(input, p)
    first, second = torch.triu_indices(len(input), len(input), 1, device=input.device)
    return _norm(input[first] - input[second], p)


def _squares_by_product(x1: Tensor, x2: Tensor) -> Tensor:
    """‖x − y‖² = −2xᵀy + ‖x‖² + ‖y‖², in one product of matrices, as torch does."""
    square1, square2 = x1.square().sum(-1, keepdim=True), x2.square().sum(-1, keepdim=True)
    left = torch.cat([-2 * x1, square1, torch.ones_like(square1)], -1)
    right = torch.cat([x2, torch.ones_like(square2), square2], -1)
    return (left @ right.mT).clamp_min(0)


def _norm(difference: Tensor, p: float) -> Tensor:
    if p == 1:
        return difference.abs().sum(-1)
    return _root((difference.square() if p == 2 else difference.abs().pow(p)).sum(-1), p)


def _root(power: Tensor, p: float) -> Tensor:
    zero = power == 0
    safe = power.masked_fill(zero, 1)
    return (safe.sqrt() if p == 2 else safe.pow(1 / p)).masked_fill(zero, 0)
