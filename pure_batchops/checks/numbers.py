"""Options that are numbers. A 0-dim tensor is read wherever its value can be read, and is NaN where it is wrong and cannot."""

import math
import numbers
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pure_batchops import tracing


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


def axis(name: str, value: Any) -> int:
    """The number of an axis."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        msg = f"{name} must be the number of an axis, got {value!r}"
        raise TypeError(msg)
    return int(value)
