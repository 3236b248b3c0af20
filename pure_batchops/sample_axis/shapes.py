"""Functions that move numbers around."""

from typing import Any

import torch
from torch import Tensor

from pure_batchops.sample_axis.axis import Given, Rule, SampleAxis, aligned, argument, axes_of, regrouped, tensors_in

REGROUPED = ("view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "ravel", "view_as", "reshape_as")
"""The numbers keep their order."""


def grouped(given: Given, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> SampleAxis | None:
    """Where the samples lie in another shape."""
    x = argument(args, kwargs, 0, "input")
    where = given(x)
    if where is None or not isinstance(output, Tensor) or output.dtype != x.dtype:
        return None
    return regrouped(x.shape, where, output.shape)


def _moved(where: SampleAxis | None, order: tuple[int, ...]) -> SampleAxis | None:
    return None if where is None else where._replace(axis=order.index(where.axis))


def transposed(given: Given, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> SampleAxis | None:  # noqa: ARG001
    """Where the samples lie after two axes change places."""
    x = argument(args, kwargs, 0, "input")
    one, other = (argument(args, kwargs, i, f"dim{i - 1}", kwargs.get(f"axis{i - 1}")) for i in (1, 2))
    order = list(range(x.dim()))
    order[one], order[other] = order[other], order[one]
    return _moved(given(x), tuple(order))


def last_two(given: Given, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> SampleAxis | None:  # noqa: ARG001
    """Where the samples lie after the last two axes change places."""
    x = argument(args, kwargs, 0, "input")
    if x.dim() < 2:
        return given(x)
    return _moved(given(x), (*range(x.dim() - 2), x.dim() - 1, x.dim() - 2))


def all_reversed(given: Given, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> SampleAxis | None:  # noqa: ARG001
    """Where the samples lie in `x.T`."""
    x = args[0]
    return _moved(given(x), tuple(reversed(range(x.dim()))))


def permuted(given: Given, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> SampleAxis | None:  # noqa: ARG001
    """Where the samples lie after a permutation of the axes."""
    x, dims = argument(args, kwargs, 0, "input"), args[1:] or (kwargs["dims"],)
    order = tuple(dims[0]) if isinstance(dims[0], (tuple, list)) else dims
    return _moved(given(x), axes_of(order, x.dim()))


def movedim(given: Given, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> SampleAxis | None:  # noqa: ARG001
    """Where the samples lie after axes moved."""
    x = argument(args, kwargs, 0, "input")
    source, target = (axes_of(argument(args, kwargs, i, name), x.dim()) for i, name in ((1, "source"), (2, "destination")))
    rest = iter(axis for axis in range(x.dim()) if axis not in source)
    to = dict(zip(target, source, strict=True))
    return _moved(given(x), tuple(to[k] if k in to else next(rest) for k in range(x.dim())))


def expanded(given: Given, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> SampleAxis | None:  # noqa: ARG001
    """Where the samples lie after broadcasting."""
    return aligned(given, tensors_in(args[:1]), output)


def repeated(given: Given, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> SampleAxis | None:
    """Where the samples lie after `repeat`, if their axis is not repeated."""
    x, times = args[0], args[1:] or (kwargs["repeats"],)
    repeats = tuple(times[0]) if isinstance(times[0], (tuple, list)) else times
    where = given(x)
    if where is None:
        return None
    axis = where.axis + output.dim() - x.dim()
    return where._replace(axis=axis) if repeats[axis] == 1 else None


def padded(given: Given, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> SampleAxis | None:  # noqa: ARG001
    """Where the samples lie after `pad`, which pads the last axes."""
    x, pad = argument(args, kwargs, 0, "input"), argument(args, kwargs, 1, "pad")
    where = given(x)
    return where if where is not None and where.axis < x.dim() - len(pad) // 2 else None


RULES: dict[str, Rule] = {
    "transpose": transposed,
    "swapaxes": transposed,
    "swapdims": transposed,
    "t": last_two,
    "adjoint": last_two,
    "permute": permuted,
    "movedim": movedim,
    "moveaxis": movedim,
    "expand": expanded,
    "expand_as": expanded,
    "broadcast_to": expanded,
    "repeat": repeated,
    "pad": padded,
}

GETTERS = {torch.Tensor.mT: last_two, torch.Tensor.T: all_reversed, torch.Tensor.data: expanded}
"""Attributes that are tensors."""
