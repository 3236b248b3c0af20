"""Modules in plain operations, where torch's own kernels are wrong or fail under the transforms of torch.func."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from pure_batchops.torch_privates import InstanceNorm, WeightNorm, WeightNormHook, dims_without_batch, pre_hooks


def rewritten(module: nn.Module) -> Callable[..., Any] | None:
    """The forward pass of a module in plain operations.

    torch's fused norms treat the saved mean and deviation as constants from the third derivative on (torch 2.1 to 2.13), so
    the derivative of a product would be silently wrong. Its fused weight norm is wrong in the second derivative already, so
    in every Hessian. Its fused recurrent cells have no rule for vmap, and fail if only some of their weights are batched.

    Returns:
        The function, or None where torch's own is right.
    """
    if isinstance(module, InstanceNorm) and module.running_mean is None:
        return partial(_instance_norm, module)
    for kind, forward in _FORWARDS.items():
        if type(module).forward is kind.forward:
            return partial(forward, module)
    return None


def rewrite_hooks(module: nn.Module) -> None:
    """Rewrite the hooks that `torch.nn.utils.weight_norm` leaves on a module, in place."""
    for hook in pre_hooks(module):
        if isinstance(hook, WeightNormHook):
            hook.compute_weight = partial(_weight_of_hook, hook)


def _weight_of_hook(hook: Any, module: nn.Module) -> Tensor:
    return _weight_norm(hook, getattr(module, hook.name + "_g"), getattr(module, hook.name + "_v"))


def _weight_norm(norm: Any, size: Tensor, direction: Tensor) -> Tensor:
    """The direction, scaled to the size: each slice along the axis `norm.dim`, or the whole if that is −1."""
    if norm.dim == -1:
        return direction * (size / torch.linalg.vector_norm(direction))
    axes = [axis for axis in range(direction.dim()) if axis != norm.dim % direction.dim()]
    return direction * (size / torch.linalg.vector_norm(direction, dim=axes, keepdim=True))


def _layer_norm(module: Any, x: Tensor) -> Tensor:
    axes = tuple(range(-len(module.normalized_shape), 0))
    if x.shape[axes[0] :] != torch.Size(module.normalized_shape):
        msg = f"the input of LayerNorm must end in the shape {tuple(module.normalized_shape)}, got {tuple(x.shape)}"
        raise ValueError(msg)
    y = _standardized(x, axes, module.eps)
    y = y if module.weight is None else y * module.weight
    return y if getattr(module, "bias", None) is None else y + module.bias


def _instance_norm(module: Any, x: Tensor) -> Tensor:
    axes = tuple(range(1 - dims_without_batch(module), 0))  # the axes after the channels
    y = _standardized(x, axes, module.eps)
    lift = [-1] + [1] * len(axes)
    return y if module.weight is None else y * module.weight.reshape(lift) + module.bias.reshape(lift)


def _standardized(x: Tensor, axes: tuple[int, ...], eps: float) -> Tensor:
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    centred = wide - wide.mean(axes, keepdim=True)
    return (centred * (centred.square().mean(axes, keepdim=True) + eps).rsqrt()).to(x.dtype)


def _rnn_cell(module: Any, x: Tensor, state: Tensor | None = None) -> Tensor:
    state = _zeros(module, x) if state is None else state
    return {"tanh": torch.tanh, "relu": torch.relu}[module.nonlinearity](_input_part(module, x) + _state_part(module, state))


def _gru_cell(module: Any, x: Tensor, state: Tensor | None = None) -> Tensor:
    state = _zeros(module, x) if state is None else state
    reset, update, new = _input_part(module, x).chunk(3, -1)
    reset_state, update_state, new_state = _state_part(module, state).chunk(3, -1)
    candidate = torch.tanh(new + torch.sigmoid(reset + reset_state) * new_state)
    return candidate + torch.sigmoid(update + update_state) * (state - candidate)


def _lstm_cell(module: Any, x: Tensor, state: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor]:
    hidden, cell = (_zeros(module, x), _zeros(module, x)) if state is None else state
    write, keep, new, read = (_input_part(module, x) + _state_part(module, hidden)).chunk(4, -1)
    cell = torch.sigmoid(keep) * cell + torch.sigmoid(write) * torch.tanh(new)
    return torch.sigmoid(read) * torch.tanh(cell), cell


def _zeros(module: Any, x: Tensor) -> Tensor:
    return x.new_zeros(*x.shape[:-1], module.hidden_size)


def _input_part(module: Any, x: Tensor) -> Tensor:
    return linear(x, module.weight_ih, module.bias_ih)


def _state_part(module: Any, state: Tensor) -> Tensor:
    return linear(state, module.weight_hh, module.bias_hh)


_FORWARDS: dict[Any, Callable[..., Any]] = {
    nn.LayerNorm: _layer_norm,
    nn.RNNCell: _rnn_cell,
    nn.GRUCell: _gru_cell,
    nn.LSTMCell: _lstm_cell,
    WeightNorm: _weight_norm,
}
