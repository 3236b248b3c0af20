"""What an option must be, said in the factory, before any tensor is seen."""

import math
import numbers
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pure_batchops import torch_privates


def positive(name: str, value: Any) -> float | Tensor:
    """A positive finite number, or a 0-dim floating-point tensor, whose value is not read (it may be vmapped)."""
    return _number(name, value, "positive", lambda number: number > 0)


def not_negative(name: str, value: Any) -> float | Tensor:
    """A finite number of at least zero, or a 0-dim floating-point tensor, whose value is not read."""
    return _number(name, value, "nonnegative", lambda number: number >= 0)


def fraction(name: str, value: Any) -> float:
    """A number between 0 and 1."""
    number = float(_number(name, value, "positive", lambda number: number > 0))
    if number >= 1:
        msg = f"{name} must be less than 1, got {value!r}"
        raise ValueError(msg)
    return number


def _number(name: str, value: Any, rule: str, holds: Callable[[float], bool]) -> float | Tensor:
    if isinstance(value, Tensor):
        if value.dim() != 0 or not value.is_floating_point():
            msg = (
                f"{name} must be a {rule} number or a 0-dim floating-point tensor, got a tensor of shape "
                f"{tuple(value.shape)} and dtype {value.dtype}; use torch.vmap for several values"
            )
            raise ValueError(msg)
        return value
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        msg = f"{name} must be a {rule} number or a 0-dim floating-point tensor, got {value!r}"
        raise TypeError(msg)
    number = float(value)
    if not (math.isfinite(number) and holds(number)):
        msg = f"{name} must be {rule} and finite, got {value!r}"
        raise ValueError(msg)
    return number


def whole(name: str, value: Any, least: int = 1) -> int:
    """A whole number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        msg = f"{name} must be a whole number, got {value!r}"
        raise TypeError(msg)
    if value < least:
        msg = f"{name} must be at least {least}, got {value}"
        raise ValueError(msg)
    return int(value)


def whole_or_none(name: str, value: Any, least: int = 1) -> int | None:
    """A whole number of at least `least`, or None."""
    return None if value is None else whole(name, value, least)


def function(name: str, value: Any) -> None:
    """Something that can be called."""
    if not callable(value):
        msg = f"{name} must be a function, got {type(value).__name__}"
        raise TypeError(msg)


def function_or_none(name: str, value: Any) -> None:
    """Something that can be called, or None."""
    if value is not None:
        function(name, value)


def loss(value: Any) -> None:
    """A function of params, buffers and batch; a module is a model or a criterion, from which one is made."""
    if isinstance(value, torch.nn.Module):
        msg = (
            "loss must be a function (params, buffers, batch) -> (n,), as sample_losses(model, criterion) makes one, got the "
            f"module {type(value).__name__}"
        )
        raise TypeError(msg)
    function("loss", value)


def boolean(name: str, value: Any) -> None:
    """True or False."""
    if not isinstance(value, bool):
        msg = f"{name} must be True or False, got {value!r}"
        raise TypeError(msg)


def operation(name: str, value: Any) -> None:
    """A function `(params, buffers, batch, v) -> product`, whose products go together at one point."""
    function(name, value)
    if torch_privates.is_transformed(value):
        msg = (
            f"{name} must not be the result of a transform of torch.func, whose {name}.at is that of the operation inside; "
            "transform what is made of the operation, as in torch.vmap(trace(op), in_dims=...)"
        )
        raise TypeError(msg)


def option(name: str, value: Any, known: tuple[str, ...]) -> str:
    """One of the names known."""
    if value not in known:
        msg = f"{name} must be one of {', '.join(map(repr, known))}, got {value!r}"
        raise ValueError(msg)
    return str(value)


def axis(name: str, value: Any) -> int:
    """The number of an axis."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        msg = f"{name} must be the number of an axis, got {value!r}"
        raise TypeError(msg)
    return int(value)
