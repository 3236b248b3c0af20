"""Functions that move numbers around."""

from functools import partial
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
    dims = dims[0] if isinstance(dims[0], (tuple, list)) else dims
    return _moved(given(x), axes_of(tuple(dims), x.dim()))


def movedim(given: Given, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> SampleAxis | None:  # noqa: ARG001
    """Where the samples lie after axes moved."""
    x = argument(args, kwargs, 0, "input")
    source, target = (axes_of(argument(args, kwargs, i, name), x.dim()) for i, name in ((1, "source"), (2, "destination")))
    rest = iter(axis for axis in range(x.dim()) if axis not in source)
    to = dict(zip(target, source, strict=True))
    return _moved(given(x), tuple(to[k] if k in to else next(rest) for k in range(x.dim())))


def pieces(position: int, default: int | None = None) -> Rule:
    """The rule of functions that cut along an axis or repeat along it, and keep the axis."""
    return partial(_pieces, position=position, default=default)


def _pieces(
    given: Given, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any, position: int, default: int | None  # noqa: ARG001
) -> SampleAxis | None:
    x = argument(args, kwargs, 0, "input")
    where, dim = given(x), argument(args, kwargs, position, "dim", kwargs.get("dims", default))
    return where if where is not None and isinstance(dim, int) and dim % x.dim() != where.axis else None


def taken_out(given: Given, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> SampleAxis | None:  # noqa: ARG001
    """Where the samples lie after an axis is taken out: `select`, `unbind`."""
    x = argument(args, kwargs, 0, "input")
    where, dim = given(x), argument(args, kwargs, 1, "dim", 0) % x.dim()
    if where is None or dim == where.axis:
        return None
    return where._replace(axis=where.axis - (dim < where.axis))


def joined(given: Given, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> SampleAxis | None:
    """Where the samples lie in tensors that are joined along another axis. Tensors without samples keep theirs apart, too."""
    tensors, dim = args[0] if args else kwargs["tensors"], argument(args, kwargs, 1, "dim", kwargs.get("axis", 0))
    places = {given(tensor) for tensor in tensors} - {None}
    if len(places) != 1:
        return None
    (where,) = places
    same = all(tensor.dim() == output.dim() for tensor in tensors)
    return where if same and where is not None and dim % output.dim() != where.axis else None


def stacked(given: Given, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> SampleAxis | None:
    """Where the samples lie in tensors along a new axis."""
    tensors, dim = args[0] if args else kwargs["tensors"], argument(args, kwargs, 1, "dim", kwargs.get("axis", 0))
    places = {given(tensor) for tensor in tensors} - {None}
    if len(places) != 1:
        return None
    (where,) = places
    return None if where is None else where._replace(axis=where.axis + (dim % output.dim() <= where.axis))


def indexed(given: Given, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> SampleAxis | None:  # noqa: ARG001
    """Where the samples lie in `x[...]`, with numbers, slices, None and an ellipsis, if all of theirs are taken."""
    x, index = args
    where, parts = given(x), index if isinstance(index, tuple) else (index,)
    if where is None or not all(part is None or part is Ellipsis or isinstance(part, (int, slice)) for part in parts):
        return None
    if any(isinstance(part, bool) for part in parts):
        return None
    taken = sum(part is not None and part is not Ellipsis for part in parts)
    rest = (slice(None),) * (x.dim() - taken)
    spot = parts.index(Ellipsis) if Ellipsis in parts else len(parts)
    full, axis, new = (*parts[:spot], *rest, *parts[spot + 1 :]), 0, 0
    for part in full:
        if part is None:
            new += 1
            continue
        if axis == where.axis:
            whole = isinstance(part, slice) and part.indices(where.length) == (0, where.length, 1)
            return where._replace(axis=new) if whole else None
        axis, new = axis + 1, new + isinstance(part, slice)
    return None


def expanded(given: Given, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> SampleAxis | None:  # noqa: ARG001
    """Where the samples lie after broadcasting."""
    return aligned(given, tensors_in(args[:1]), output)


def repeated(given: Given, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> SampleAxis | None:
    """Where the samples lie after `repeat`, if their axis is not repeated."""
    x, times = args[0], args[1:] or (kwargs["repeats"],)
    times = times[0] if isinstance(times[0], (tuple, list)) else times
    where = given(x)
    axis = None if where is None else where.axis + output.dim() - x.dim()
    return where._replace(axis=axis) if where is not None and axis is not None and times[axis] == 1 else None


def padded(given: Given, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> SampleAxis | None:  # noqa: ARG001
    """Where the samples lie after `pad`, which pads the last axes."""
    x, pad = argument(args, kwargs, 0, "input"), argument(args, kwargs, 1, "pad")
    where = given(x)
    return where if where is not None and where.axis < x.dim() - len(pad) // 2 else None


def gathered(given: Given, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> SampleAxis | None:  # noqa: ARG001
    """Where the samples lie after `gather` along another axis."""
    x, dim, index = (argument(args, kwargs, i, name) for i, name in enumerate(("input", "dim", "index")))
    where, of_index = given(x), given(index)
    if where is None or not isinstance(index, Tensor) or (of_index is not None and of_index != where):
        return None
    return where if dim % x.dim() != where.axis and index.shape[where.axis] == where.length else None


RULES: dict[str, Rule] = {
    "transpose": transposed,
    "swapaxes": transposed,
    "swapdims": transposed,
    "t": last_two,
    "adjoint": last_two,
    "permute": permuted,
    "movedim": movedim,
    "moveaxis": movedim,
    "split": pieces(2, 0),
    "split_with_sizes": pieces(2, 0),
    "chunk": pieces(2, 0),
    "tensor_split": pieces(2, 0),
    "narrow": pieces(1),
    "index_select": pieces(1),
    "repeat_interleave": pieces(2),
    "roll": pieces(2),
    "select": taken_out,
    "unbind": taken_out,
    "cat": joined,
    "concat": joined,
    "concatenate": joined,
    "stack": stacked,
    "__getitem__": indexed,
    "expand": expanded,
    "expand_as": expanded,
    "broadcast_to": expanded,
    "repeat": repeated,
    "pad": padded,
    "gather": gathered,
}

GETTERS = {torch.Tensor.mT: last_two, torch.Tensor.T: all_reversed, torch.Tensor.data: expanded}
"""Attributes that are tensors."""
