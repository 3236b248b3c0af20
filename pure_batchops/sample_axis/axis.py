"""The samples along an axis of a tensor."""

from collections.abc import Callable, Iterable, Sequence
from math import prod
from typing import Any, NamedTuple

from torch import Tensor


class SampleAxis(NamedTuple):
    """Where the n samples of a batch lie in a tensor.

    Attributes:
        axis: the axis, from 0.
        before, n, after: the axis may be merged with others: its length is before · n · after, and its entry j belongs to
            sample (j // after) mod n.
    """

    axis: int
    before: int
    n: int
    after: int

    @property
    def length(self) -> int:
        """The length of the axis."""
        return self.before * self.n * self.after


Given = Callable[[Any], SampleAxis | None]
"""Where the samples lie in an argument of a call; None for what no sample belongs to."""

Rule = Callable[[Given, tuple[Any, ...], dict[str, Any], Any], SampleAxis | None]
"""`(given, args, kwargs, output)`: where the samples lie in the output (or in each of several); None if they may mix."""


def first(tensor: Tensor, where: SampleAxis) -> Tensor:
    """The tensor with its samples along axis 0: `(n, before · after, *other axes in their order)`."""
    axis, before, n, after = where
    if axis == 0 and before == 1:  # a view, also of a merged axis
        return tensor.reshape(n, after, *tensor.shape[1:])
    parts = tensor.unflatten(axis, (before, n, after)).movedim((axis + 1, axis, axis + 2), (0, 1, 2))
    return parts.flatten(1, 2)


def regrouped(shape: Sequence[int], where: SampleAxis, new: Sequence[int]) -> SampleAxis | None:
    """Where the samples lie after the numbers of a tensor are grouped into another shape, in the same order."""
    axis, before, n, after = where
    before, after = before * prod(shape[:axis]), after * prod(shape[axis + 1 :])
    outer = 1
    for k, length in enumerate(new):
        inner = prod(new[k + 1 :])
        if before % outer == 0 and after % inner == 0 and length == before // outer * n * (after // inner):
            return SampleAxis(k, before // outer, n, after // inner)
        outer *= length
    return None


def aligned(given: Given, tensors: Iterable[Any], output: Tensor) -> SampleAxis | None:
    """Where the samples lie in the output of a function that works element by element, with broadcasting."""
    places = {(tensor.dim() - where.axis, *where[1:]) for tensor in tensors for where in [given(tensor)] if where is not None}
    if len(places) != 1:
        return None
    from_right, before, n, after = places.pop()
    axis = output.dim() - from_right
    return SampleAxis(axis, before, n, after) if output.shape[axis] == before * n * after else None


def tensors_in(arguments: Iterable[Any]) -> list[Tensor]:
    """The tensors among arguments, and in the tuples and lists among them."""
    found: list[Tensor] = []
    for argument in arguments:
        if isinstance(argument, Tensor):
            found.append(argument)
        elif isinstance(argument, (tuple, list)):
            found += [part for part in argument if isinstance(part, Tensor)]
    return found


def argument(args: tuple[Any, ...], kwargs: dict[str, Any], position: int, name: str, default: Any = None) -> Any:
    """An argument of a call, by its position or its name."""
    return args[position] if position < len(args) else kwargs.get(name, default)


def axes_of(dims: Any, count: int) -> tuple[int, ...]:
    """Axes as numbers from 0, of a tensor with so many."""
    given = dims if isinstance(dims, (tuple, list)) else (dims,)
    return tuple(dim % count for dim in given)
