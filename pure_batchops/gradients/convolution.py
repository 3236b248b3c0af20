"""Convolutions with padding in numbers."""

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor

from pure_batchops.gradients.layer import LayerCall, LayerKind, Options, call_of

_NAMES = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")


def kind(function: Callable[..., Tensor], weight_gradient: Callable[..., Tensor]) -> LayerKind:
    """The kind of a convolution, from torch's function and the one in `torch.nn.grad` for the gradient of its weight."""
    return LayerKind(partial(_read, function), partial(_outputs, function), partial(_gradient, weight_gradient))


def _read(function: Callable[..., Tensor], args: tuple[Any, ...], kwargs: dict[str, Any]) -> LayerCall | None:
    call = call_of(function, _NAMES, args, kwargs)
    if call.x.dim() != call.weight.dim():  # one image without a batch axis: axis 0 are its channels
        return call._replace(has_rows=False)
    return None if isinstance(call.options.get("padding"), str) else call


def _outputs(function: Callable[..., Tensor], x: Tensor, weight: Tensor, options: Options) -> Tensor:
    return function(x.flatten(0, 1), weight, **options).unflatten(0, x.shape[:2])


def _gradient(function: Callable[..., Tensor], x: Tensor, delta: Tensor, like: Tensor, options: Options) -> Tensor:
    return function(x.flatten(0, 1), like.shape, delta.flatten(0, 1), **options)
