"""Parameters that enter element by element, with broadcasting: shifts, scales, and any other function of elements.

A function f(x, w) of elements has the derivative s = ∂f/∂w at each element of its output, so that the gradient of a sample is
Σ s δ over the elements that w was spread over. For a shift s is ±1, for a scale it is x.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.func import grad

from pure_batchops.budget import fitting
from pure_batchops.gradients.layer import LayerCall, LayerKind, Options, wide
from pure_batchops.torch_privates import is_wrapped
from pure_batchops.vmap_privates import new_leaf

_METHODS = ("add", "__add__", "__radd__", "add_", "__iadd__"), ("sub", "subtract", "__sub__", "sub_", "__isub__")
ADDS = frozenset({torch.add, *(getattr(Tensor, name) for name in _METHODS[0])})
SUBTRACTS = frozenset({torch.sub, torch.subtract, *(getattr(Tensor, name) for name in _METHODS[1])})
MULTIPLIES = frozenset({torch.mul, torch.multiply, Tensor.mul, Tensor.multiply, Tensor.__mul__, Tensor.__rmul__})


def _never(args: tuple[Any, ...], kwargs: dict[str, Any]) -> LayerCall | None:  # noqa: ARG001
    return None  # which argument is the parameter, only the caller knows


def _spread(weight: Tensor, options: Options) -> Tensor:
    return weight.reshape(1, 1, *options["spread"])


def _outputs(x: Tensor, weight: Tensor, options: Options) -> Tensor:
    return options["sign"] * _spread(weight, options) if x.numel() == 0 else x * _spread(weight, options)


def _gradient(x: Tensor, delta: Tensor, like: Tensor, options: Options) -> Tensor:
    return _slopes(x, delta, options).sum_to_size(1, 1, *options["spread"]).reshape(like.shape)


def _gradients(x: Tensor, delta: Tensor, like: Tensor, options: Options) -> Tensor:
    return _slopes(x, delta, options).sum_to_size(len(delta), 1, *options["spread"]).reshape(len(delta), *like.shape)


def _slopes(x: Tensor, delta: Tensor, options: Options) -> Tensor:
    if x.numel() == 0:
        return delta if options["sign"] == 1 else -delta
    return x * delta


def _squared_norms(x: Tensor, delta: Tensor, like: Tensor, options: Options) -> Tensor | None:
    if len(delta) > fitting(like.numel()):
        return None
    return wide(_gradients(x, delta, like, options)).square().reshape(len(delta), -1).sum(1)


KIND = LayerKind(_never, _outputs, _gradient, _gradients, _squared_norms)
"""`options`: "spread" are the axes of the weight in the layout of the output without its samples; "sign" is that of a shift,
whose x is empty."""


def slope(
    function: Callable[..., Tensor], args: tuple[Any, ...], kwargs: dict[str, Any], weight: Tensor, output: Tensor
) -> Tensor:
    """∂f/∂w at each element of the output, for a function of elements."""
    with torch.enable_grad():
        spread = weight.detach().expand(output.shape).clone()
        if is_wrapped(weight):
            return grad(lambda own: _sum(function, args, kwargs, weight, own))(spread)
        spread = new_leaf(spread)
        (result,) = torch.autograd.grad(_sum(function, args, kwargs, weight, spread), spread)
    return result


def _sum(
    function: Callable[..., Tensor], args: tuple[Any, ...], kwargs: dict[str, Any], weight: Tensor, spread: Tensor
) -> Tensor:
    replaced = [spread if part is weight else _fixed(part) for part in args]
    named = {name: spread if part is weight else _fixed(part) for name, part in kwargs.items()}
    return function(*replaced, **named).sum()


def _fixed(part: Any) -> Any:
    return part.detach() if isinstance(part, Tensor) else part
