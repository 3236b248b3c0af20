"""Options that are functions: a loss, an operation."""

import inspect
from typing import Any

import torch

from pure_batchops import torch_privates, tracing


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


def operation(name: str, value: Any) -> None:
    """A function `(params, buffers, batch, v) -> product`, but no result of a transform of torch.func."""
    function(name, value)
    if tracing.compiling():  # the compiler cannot trace what follows
        return
    if not accepts(value, None, None, None, None):
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


def accepts(value: Any, *arguments: Any) -> bool:
    """Whether a function can be called with these arguments; a function without a signature can."""
    try:
        inspect.signature(value).bind(*arguments)
    except TypeError:
        return False
    except ValueError:  # it has no signature
        return True
    return True
