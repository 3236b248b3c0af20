"""Functions along axes, such as sums and softmax: samples stay apart if none of these axes is theirs."""

from functools import partial
from typing import Any

from torch import Tensor

from pure_batchops.sample_axis.axis import Given, Rule, SampleAxis, argument, axes_of

REDUCED = (
    *("sum", "mean", "nansum", "nanmean", "std", "var", "amax", "amin", "logsumexp", "prod", "all", "any", "argmax"),
    *("argmin", "max", "min", "median", "nanmedian", "mode", "count_nonzero", "std_mean", "var_mean"),
)
"""Sums and their like. `dim` is the second argument; without it all axes go. Not `max` of two tensors."""

ALONG = (
    *("softmax", "log_softmax", "softmin", "cumsum", "cumprod", "logcumsumexp", "cummax", "cummin", "flip", "glu"),
    *("sort", "argsort"),
)
"""The output has the axes of the input. `dim` is the second argument, or named."""

_DIM = ("dim", "axis", "dims")


def _dims(args: tuple[Any, ...], kwargs: dict[str, Any], position: int) -> Any:
    named = [kwargs[name] for name in _DIM if name in kwargs]
    return named[0] if named else argument(args, kwargs, position, "dim")


def reduced(given: Given, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any, position: int = 1) -> SampleAxis | None:
    """Where the samples lie after a sum over axes."""
    x = argument(args, kwargs, 0, "input")
    where, dims = given(x), _dims(args, kwargs, position)
    if where is None or dims is None or isinstance(dims, (bool, Tensor)):
        return None
    gone = axes_of(dims, x.dim())
    if where.axis in gone or dims in ((), []):
        return None
    some = output if isinstance(output, Tensor) else output[0]
    keeps = some.dim() == x.dim()
    return where if keeps else where._replace(axis=where.axis - sum(axis < where.axis for axis in gone))


def along(position: int = 1, default: int | None = None) -> Rule:
    """The rule of functions along an axis that the output still has."""
    return partial(_along, position=position, default=default)


def _along(
    given: Given,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    output: Any,  # noqa: ARG001
    position: int,
    default: int | None,
) -> SampleAxis | None:
    x = argument(args, kwargs, 0, "input")
    where, dims = given(x), _dims(args, kwargs, position)
    dims = default if dims is None else dims
    if where is None or dims is None or isinstance(dims, bool):
        return None
    return None if where.axis in axes_of(dims, x.dim()) else where


def normed(given: Given, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> SampleAxis | None:
    """Where the samples lie after `norm(x, p, dim)`, and its like."""
    return reduced(given, args, kwargs, output, 2)
