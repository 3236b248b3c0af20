"""What an option must be, said in the factory, before any tensor is seen."""

import math
import numbers
from typing import Any

import torch
from torch import Tensor


def positive(name: str, value: Any) -> float | Tensor:
    """A positive finite number, or a 0-dim floating-point tensor, whose value is not read (it may be vmapped)."""
    if isinstance(value, Tensor):
        if value.dim() != 0 or not value.is_floating_point():
            msg = (
                f"{name} must be a positive number or a 0-dim floating-point tensor, got a tensor of shape "
                f"{tuple(value.shape)} and dtype {value.dtype}; use torch.vmap for several values"
            )
            raise ValueError(msg)
        return value
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        msg = f"{name} must be a positive number or a 0-dim floating-point tensor, got {value!r}"
        raise TypeError(msg)
    number = float(value)
    if not (math.isfinite(number) and number > 0):
        msg = f"{name} must be positive and finite, got {value!r}"
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


def function(name: str, value: Any) -> None:
    """Something that can be called."""
    if not callable(value):
        msg = f"{name} must be a function, got {type(value).__name__}"
        raise TypeError(msg)


def boolean(name: str, value: Any) -> None:
    """True or False."""
    if not isinstance(value, bool):
        msg = f"{name} must be True or False, got {value!r}"
        raise TypeError(msg)


def axis(name: str, value: Any) -> int:
    """The number of an axis."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        msg = f"{name} must be the number of an axis, got {value!r}"
        raise TypeError(msg)
    return int(value)


compiling = getattr(torch.compiler, "is_compiling", lambda: False)
"""Whether torch.compile is tracing (torch before 2.3 cannot compile the operations, nor say so)."""
