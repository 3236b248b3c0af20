"""The copy of a model that a pure forward runs: it holds no numbers, and some of its modules are rewritten."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from pure_batchops.models.rewrites import rewrite_hooks, rewritten


def skeleton_of(model: nn.Module) -> nn.Module:
    """A copy of the model whose parameters and buffers are on the meta device. Tied parameters stay tied."""
    memo: dict[int, Any] = {}
    for tensor in [*model.parameters(), *model.buffers()]:
        meta = torch.empty_like(tensor, device="meta")
        is_parameter = isinstance(tensor, nn.Parameter)
        memo[id(tensor)] = nn.Parameter(meta, tensor.requires_grad) if is_parameter else meta
    for module in model.modules():
        # deepcopy refuses a tensor that was computed from parameters (weight_norm's). A forward hook computes it again.
        computed = [value for value in vars(module).values() if isinstance(value, Tensor) and not value.is_leaf]
        memo.update({id(value): torch.empty_like(value, device="meta") for value in computed})
    skeleton = copy.deepcopy(model, memo)
    for module in skeleton.modules():
        _use_differentiable_code(module)
    return skeleton


def _use_differentiable_code(module: nn.Module) -> None:
    """Replace code of torch that has no derivatives, or wrong ones."""
    # The fused fast path of attention has no derivatives, and torch takes it only in evaluation mode. In training mode,
    # attention also applies its dropout, which therefore is set to zero.
    if isinstance(module, nn.MultiheadAttention):
        module.dropout = 0.0
    if isinstance(module, (nn.MultiheadAttention, nn.TransformerEncoderLayer)):
        module.training = True
    if (forward := rewritten(module)) is not None:
        module.forward = forward
    rewrite_hooks(module)
