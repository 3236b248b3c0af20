"""Attention without torch's fused kernels, which have neither forward mode nor second derivatives."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn

from pure_batchops import tracing
from pure_batchops.models.purity import is_torchs

Switch = Callable[[], AbstractContextManager[Any]]


def attention_switch(model: nn.Module) -> Switch:
    """What a forward pass of the model runs in: plain attention, or nothing for a model without attention."""
    return _plain_attention if any(map(_may_attend, model.modules())) else nullcontext


def _may_attend(module: nn.Module) -> bool:
    """Whether a module may call scaled_dot_product_attention: torch's modules of that name, and every module of a user."""
    return "ttention" in type(module).__name__ or not is_torchs(module)


def _plain_attention() -> AbstractContextManager[Any]:
    """Within this context, torch computes attention by plain matrix products."""
    if tracing.compiling() and torch.__version__ < "2.6":
        return nullcontext()  # the compiler cannot trace the switch before torch 2.6
    if hasattr(torch.nn, "attention"):
        return torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH)
    kernel: Callable[..., AbstractContextManager[Any]] = torch.backends.cuda.sdp_kernel
    return kernel(enable_flash=False, enable_mem_efficient=False, enable_math=True)
