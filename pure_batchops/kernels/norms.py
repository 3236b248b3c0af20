"""Norms in plain operations.

torch's fused norms treat the saved mean and deviation as constants from the third derivative on, and in the forward-mode
derivative of their backward pass (torch 2.1 to 2.15): the derivative of a Hessian product, and `jvp(jacrev(f))`, are silently
wrong. Under vmap, their backward pass writes in place and fails.

The norms here are pure: in training mode they do not update running statistics, on which their result does not depend.
"""

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  # its usual name

from pure_batchops import torch_privates, tracing
from pure_batchops.kernels.first_order import is_first_order
from pure_batchops.kernels.standardized import Parts, are_torchs, by_channel, by_shape, by_statistics


def layer_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enable: bool = True,
) -> Tensor:
    """`torch.layer_norm`, and `torch.nn.functional.layer_norm`."""
    shape = torch.Size(normalized_shape)
    fits = len(shape) > 0 and input.shape[-len(shape) :] == shape
    if not fits or not are_torchs(input, weight, bias, shape) or is_first_order():
        return torch.layer_norm(input, normalized_shape, weight, bias, eps, cudnn_enable)
    return by_shape(input, shape, weight, bias, eps)[0]


def native_layer_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
) -> Parts:
    """`torch.native_layer_norm`: the result, the mean, and one over the deviation."""
    shape = torch.Size(normalized_shape)
    if len(shape) == 0 or input.shape[-len(shape) :] != shape or not are_torchs(input, weight, bias, shape):
        return torch.native_layer_norm(input, normalized_shape, weight, bias, eps)
    return by_shape(input, shape, weight, bias, eps)


def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """`torch.nn.functional.batch_norm`."""
    given = None if training else _vmapped_statistics(input, running_mean, running_var, weight, bias)
    if given is not None:
        return by_statistics(input, given, weight, bias, eps)
    one = input.numel() == input.shape[1] if input.dim() > 1 else True  # torch refuses it
    if one or not training or not are_torchs(input, weight, bias, input.shape[1:2]):
        return F.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)
    return by_channel(input, (0, *range(2, input.dim())), weight, bias, eps)


def torch_batch_norm(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool,
) -> Tensor:
    """`torch.batch_norm`."""
    if not training and not torch_privates.may_be_vmapped():
        return torch.batch_norm(input, weight, bias, running_mean, running_var, training, momentum, eps, cudnn_enabled)
    return batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)


def instance_norm(
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """`torch.nn.functional.instance_norm`."""
    given = None if use_input_stats else _vmapped_statistics(input, running_mean, running_var, weight, bias)
    if given is not None:
        return by_statistics(input, given, weight, bias, eps)
    one = prod(input.shape[2:]) == 1 or input.dim() < 3  # torch refuses it
    if one or not use_input_stats or not are_torchs(input, weight, bias, input.shape[1:2]):
        return F.instance_norm(input, running_mean, running_var, weight, bias, use_input_stats, momentum, eps)
    return by_channel(input, tuple(range(2, input.dim())), weight, bias, eps)


def torch_instance_norm(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    use_input_stats: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool,
) -> Tensor:
    """`torch.instance_norm`."""
    if not use_input_stats and not torch_privates.may_be_vmapped():
        stats = running_mean, running_var
        return torch.instance_norm(input, weight, bias, *stats, use_input_stats, momentum, eps, cudnn_enabled)
    return instance_norm(input, running_mean, running_var, weight, bias, use_input_stats, momentum, eps)


def _vmapped_statistics(
    x: Tensor, mean: Tensor | None, var: Tensor | None, weight: Tensor | None, bias: Tensor | None
) -> tuple[Tensor, Tensor] | None:
    """The statistics that are given, under vmap: where x alone is batched, torch's own has no second derivative there."""
    if mean is None or var is None or x.dim() < 2 or tracing.compiling() or not torch_privates.may_be_vmapped():
        return None
    shape = x.shape[1:2]
    return (mean, var) if mean.shape == var.shape == shape and are_torchs(x, weight, bias, shape) else None
