"""Losses by element in plain operations.

Under two nested vmaps of which one is over one argument alone, torch's own raise errors about sizes; that of Huber has no
forward mode of its gradient. Half precision is left to torch, whose autocast computes losses in single precision.
"""

from math import log, pi

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  # its usual name

from pure_batchops import tracing
from pure_batchops.kernels.reduction import reduced

_WIDE = {torch.float32, torch.float64}


def mse_loss(
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    weight: Tensor | None = None,
) -> Tensor:
    """`torch.nn.functional.mse_loss`."""
    if not _is_plain(input, target, reduction, size_average, reduce, weight):
        more = {} if weight is None else {"weight": weight}
        return F.mse_loss(input, target, size_average, reduce, reduction, **more)
    return reduced((input - target).square(), reduction)


def huber_loss(
    input: Tensor, target: Tensor, reduction: str = "mean", delta: float = 1.0, weight: Tensor | None = None
) -> Tensor:
    """`torch.nn.functional.huber_loss`."""
    if delta <= 0 or not _is_plain(input, target, reduction, weight):
        more = {} if weight is None else {"weight": weight}
        return F.huber_loss(input, target, reduction, delta, **more)
    return reduced(_huber(input - target, delta), reduction)


def smooth_l1_loss(
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    beta: float = 1.0,
) -> Tensor:
    """`torch.nn.functional.smooth_l1_loss`."""
    if beta <= 0 or not _is_plain(input, target, reduction, size_average, reduce):
        return F.smooth_l1_loss(input, target, size_average, reduce, reduction, beta)
    return reduced(_huber(input - target, beta) / beta, reduction)


def gaussian_nll_loss(
    input: Tensor, target: Tensor, var: Tensor, full: bool = False, eps: float = 1e-6, reduction: str = "mean"
) -> Tensor:
    """`torch.nn.functional.gaussian_nll_loss`. torch's own reads a number, which vmap and the compiler refuse."""
    like = isinstance(var, Tensor) and input.shape == target.shape == var.shape
    if not like or eps <= 0 or tracing.readable(var.sum() >= 0) is not None or not _is_plain(input, target, reduction):
        return F.gaussian_nll_loss(input, target, var, full, eps, reduction)
    wide = torch.where(var < 0, torch.nan, var.clamp_min(eps))  # torch refuses negative variances
    loss = 0.5 * (wide.log() + (input - target).square() / wide)
    return reduced(loss + 0.5 * log(2 * pi) if full else loss, reduction)


def _huber(difference: Tensor, delta: float) -> Tensor:
    distance = difference.abs()  # not squared: its second derivative is zero where it is zero
    return torch.where(distance < delta, 0.5 * difference.square(), delta * (distance - 0.5 * delta))


def _is_plain(input: Tensor, target: Tensor, reduction: str, *absent: object) -> bool:
    """Whether two arguments are alike, in single or double precision, and no option is given that we leave to torch."""
    known = all(option is None for option in absent) and reduction in {"none", "mean", "sum"}
    alike = isinstance(target, Tensor) and input.shape == target.shape and input.dtype == target.dtype
    return known and alike and input.dtype in _WIDE
