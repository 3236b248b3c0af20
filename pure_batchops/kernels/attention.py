"""Attention in plain matrix products. torch's fused kernels have neither forward mode nor second derivatives."""

from math import sqrt

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  # its usual name

from pure_batchops.kernels.first_order import is_first_order

MASKED_ROWS_ARE_ZERO = torch.__version__ >= "2.5"  # before, torch returns NaN for a query that may see no key


def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """`torch.nn.functional.scaled_dot_product_attention`."""
    both = is_causal and attn_mask is not None  # torch refuses it
    is_fused = (
        is_first_order("reverse") and attn_mask is None
    )  # with a mask, the fused kernels treat masked rows in their own way
    if is_fused or dropout_p != 0 or both or min(query.dim(), key.dim(), value.dim()) < 2 or query.is_nested:
        options = {"enable_gqa": True} if enable_gqa else {}
        return F.scaled_dot_product_attention(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, **options)
    if enable_gqa:
        key = key.repeat_interleave(query.shape[-3] // key.shape[-3], -3)
        value = value.repeat_interleave(query.shape[-3] // value.shape[-3], -3)
    if is_causal:
        attn_mask = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool, device=query.device).tril()
    wide = torch.promote_types(query.dtype, torch.float32)
    root = sqrt(1 / sqrt(query.shape[-1]) if scale is None else scale)
    logits = (query.to(wide) * root) @ (key.to(wide).mT * root)
    # A causal mask lets each query see a key.
    output = _probabilities(logits, attn_mask, may_be_blind=not is_causal) @ value.to(wide)
    return output if query.dtype == wide else output.to(query.dtype)


def _probabilities(logits: Tensor, mask: Tensor | None, *, may_be_blind: bool) -> Tensor:
    if mask is None:
        return logits.softmax(-1)
    logits = torch.where(mask, logits, -torch.inf) if mask.dtype == torch.bool else logits + mask
    if not (may_be_blind and MASKED_ROWS_ARE_ZERO):
        return logits.softmax(-1)
    blind = (logits == -torch.inf).all(-1, keepdim=True)
    return logits.masked_fill(blind, 0).softmax(-1).masked_fill(blind, 0)
