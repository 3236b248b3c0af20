"""Losses with margins in plain operations. torch's own have no second derivative."""

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  # its usual name

from pure_batchops.kernels.reduction import reduced


def multi_margin_loss(
    input: Tensor,
    target: Tensor,
    p: int = 1,
    margin: float = 1.0,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """`torch.nn.functional.multi_margin_loss`."""
    old = size_average is not None or reduce is not None
    if old or p not in {1, 2} or input.dim() not in {1, 2} or target.shape != input.shape[:-1] or input.numel() == 0:
        return F.multi_margin_loss(input, target, p, margin, weight, size_average, reduce, reduction)
    label = target[..., None]
    short = (margin - input.gather(-1, label) + input).clamp_min(0)
    short = short if p == 1 else short.square()
    short = short if weight is None else short * weight[label]
    others = torch.arange(input.shape[-1], device=input.device) != label
    return reduced((short * others).mean(-1), reduction)


def multilabel_margin_loss(
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """`torch.nn.functional.multilabel_margin_loss`."""
    old = size_average is not None or reduce is not None
    if old or input.dim() not in {1, 2} or target.shape != input.shape or input.numel() == 0:
        return F.multilabel_margin_loss(input, target, size_average, reduce, reduction)
    counts = ((target < 0).cumsum(-1) == 0)[..., None]  # the labels of a row end at its first negative one
    label = target.clamp_min(0)
    classes = torch.arange(input.shape[-1], device=input.device)
    is_label = ((label[..., None] == classes) & counts).any(-2, keepdim=True)
    short = (1 - input.gather(-1, label)[..., None] + input[..., None, :]).clamp_min(0)
    return reduced((short * (counts & ~is_label)).sum(-2).mean(-1), reduction)


def hinge_embedding_loss(
    input: Tensor,
    target: Tensor,
    margin: float = 1.0,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """`torch.nn.functional.hinge_embedding_loss`. torch's own writes in place, which vmap in forward mode refuses."""
    if size_average is not None or reduce is not None:
        return F.hinge_embedding_loss(input, target, margin, size_average, reduce, reduction)
    near, far = (target != -1).to(input.dtype), (target != 1).to(input.dtype)
    return reduced(near * input + far * (margin - input).clamp_min(0), reduction)
