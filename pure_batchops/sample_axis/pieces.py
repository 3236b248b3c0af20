"""Functions that take pieces out of tensors, or join tensors."""

from functools import partial
from typing import Any

from torch import Tensor

from pure_batchops.sample_axis.axis import Given, Rule, SampleAxis, argument


def pieces(position: int, default: int | None = None) -> Rule:
    """The rule of functions that cut along an axis or repeat along it, and keep the axis."""
    return partial(_pieces, position=position, default=default)


def _pieces(
    given: Given,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    output: Any,  # noqa: ARG001
    position: int,
    default: int | None,
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


def gathered(given: Given, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> SampleAxis | None:  # noqa: ARG001
    """Where the samples lie after `gather` along another axis."""
    x, dim, index = (argument(args, kwargs, i, name) for i, name in enumerate(("input", "dim", "index")))
    where, of_index = given(x), given(index)
    if where is None or not isinstance(index, Tensor) or (of_index is not None and of_index != where):
        return None
    return where if dim % x.dim() != where.axis and index.shape[where.axis] == where.length else None


RULES: dict[str, Rule] = {
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
    "gather": gathered,
}
