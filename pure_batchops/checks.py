"""Checks of options. A factory calls them before it sees any tensor of the problem."""

import inspect
import math
import numbers
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pure_batchops import torch_privates, tracing


def positive(name: str, value: Any) -> float | Tensor:
    """A positive finite number, or a 0-dim floating-point tensor of one; see `_number`."""
    return _number(name, value, "positive", lambda number: number > 0)


def not_negative(name: str, value: Any) -> float | Tensor:
    """A finite number of at least zero, or a 0-dim floating-point tensor of one; see `_number`."""
    return _number(name, value, "nonnegative", lambda number: number >= 0)


def fraction(name: str, value: Any) -> float:
    """A number between 0 and 1."""
    number = float(positive(name, value))
    if number >= 1:
        msg = f"{name} must be less than 1, got {value!r}"
        raise ValueError(msg)
    return number


def _number(name: str, value: Any, rule: str, holds: Callable[[Any], Any]) -> float | Tensor:
    """A number that keeps a rule. A tensor that does not is NaN where its value cannot be read (torch.vmap, torch.compile)."""
    if isinstance(value, Tensor):
        return _scalar(name, value, rule, holds)
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        msg = f"{name} must be a {rule} number or a 0-dim floating-point tensor, got {value!r}"
        raise TypeError(msg)
    number = float(value)
    if not (math.isfinite(number) and holds(number)):
        msg = f"{name} must be {rule} and finite, got {value!r}"
        raise ValueError(msg)
    return number


def _scalar(name: str, value: Tensor, rule: str, holds: Callable[[Tensor], Tensor]) -> Tensor:
    if value.dim() != 0 or not value.is_floating_point():
        msg = (
            f"{name} must be a {rule} number or a 0-dim floating-point tensor, got a tensor of shape "
            f"{tuple(value.shape)} and dtype {value.dtype}; use torch.vmap for several values"
        )
        raise ValueError(msg)

    def error(_: Tensor) -> Exception:
        return ValueError(f"{name} must be {rule} and finite, got {float(value.detach())!r}")

    return tracing.raise_or_nan(holds(value) & value.isfinite(), value, error)


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


def seed(name: str, value: Any) -> int | Tensor:
    """A whole number of at least zero; or a 0-dim integer tensor, which torch.vmap may map over."""
    if not isinstance(value, Tensor):
        return whole(name, value, least=0)
    if value.dim() != 0 or value.dtype == torch.bool or value.is_floating_point() or value.is_complex():
        msg = (
            f"{name} must be a whole number or a 0-dim integer tensor, got a tensor of shape {tuple(value.shape)} and dtype "
            f"{value.dtype}; use torch.vmap for several values"
        )
        raise ValueError(msg)
    if tracing.readable(value >= 0) is False:
        msg = f"{name} must be at least 0, got {int(value)}"
        raise ValueError(msg)
    return value.to(torch.int64)


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
    """A function `(params, buffers, batch, v) -> product`, but no result of a transform of torch.func."""
    function(name, value)
    if tracing.compiling():  # the compiler cannot trace what follows
        return
    if not _takes(value, 4):
        msg = (
            f"{name} must be an operation (params, buffers, batch, v) -> product, got a function of other arguments; "
            "hessian(loss) or gauss_newton(loss) make one of a loss"
        )
        raise TypeError(msg)
    if torch_privates.is_transformed(value):
        msg = (
            f"{name} must not be the result of a transform of torch.func, whose {name}.at is that of the operation inside; "
            "transform what is made of the operation, as in torch.vmap(trace(op), in_dims=...)"
        )
        raise TypeError(msg)


def _takes(value: Any, count: int) -> bool:
    """Whether a function can be called with so many arguments; a function that does not tell can."""
    try:
        inspect.signature(value).bind(*[None] * count)
    except TypeError:
        return False
    except ValueError:  # it has no signature
        return True
    return True


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
