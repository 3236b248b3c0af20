"""How many samples an operation saw. An average weighs a batch by this number.

The number is told along the call, and not along the function. So a lambda, a `partial` or a decorator around an operation or
a loss cannot lose it, and it does not matter on which axis the samples lie:

- an operation calls `saw_points(n)` with the number of losses that it takes the mean of;
- `sample_losses` calls `saw_losses(n)` with the number of losses that it returns, for operations written by hand;
- an average calls the operation through `counted`, which returns both.
"""

from collections.abc import Callable
from contextvars import ContextVar
from itertools import count
from typing import Any, NamedTuple

from torch import Tensor

from pure_batchops import tracing
from pure_batchops.batches import n_points
from pure_batchops.trees import leaves
from pure_batchops.types import Batch


class Seen(NamedTuple):
    """What was told during a call: by operations, with the batch that they saw, and by losses."""

    points: list[tuple[float, Batch]]
    losses: list[float]


_SEEN: ContextVar[Seen | None] = ContextVar("seen", default=None)

# Compiled code cannot read a ContextVar. It writes here, and torch.compile replays the write each time that the code runs.
# It is a list, because after a write into a dict the compiler refuses some models.
_COMPILED: list[Any] = [None, None]
_POINTS, _LOSSES = 0, 1
_CALLS = count()
_OPEN: set[int] = set()


def saw_points(points: float | None, batch: Batch) -> None:
    """Tell the average around, if there is one, that the product with a batch is a mean over this number of samples."""
    if points is not None:
        _tell(_POINTS, points if tracing.compiling() else (points, batch))


def saw_losses(losses: int) -> None:
    """Tell the operation around, if it asks, how many losses of samples a loss returned."""
    _tell(_LOSSES, losses)


def counted(function: Callable[..., Any], *arguments: Any) -> tuple[Any, Seen]:
    """The result of a function, and what the operations and losses inside it saw."""
    _COMPILED[_POINTS] = _COMPILED[_LOSSES] = None
    if tracing.compiling():
        result = function(*arguments)
        return result, _seen_by_compiled_code()
    alone, call, seen = not _OPEN, next(_CALLS), Seen([], [])
    token = _SEEN.set(seen)
    _OPEN.add(id(seen))
    try:
        result = function(*arguments)
    finally:
        _OPEN.discard(id(seen))
        _SEEN.reset(token)
    # All threads share what compiled code writes: it is believed only if nobody else counted meanwhile.
    if not (seen.points or seen.losses) and alone and next(_CALLS) == call + 1:
        seen = _seen_by_compiled_code()
    return result, seen


def points_of(seen: Seen, batch: Batch) -> float | None:
    """The number of samples of a batch; None if it is not known."""
    if not seen.points:  # the points along axis 0 are counted, if a loss saw as many
        return points_along(batch, 0) if seen.losses and max(seen.losses) == points_along(batch, 0) else None
    points = seen.points[0][0]
    if any(other != points for other, _ in seen.points):
        return None
    # An operation that saw tensors of this very batch is believed. Other tensors may be a part of it, such as a chunk.
    is_whole = all(_is_from(batch, other) for _, other in seen.points) or any(length == points for length in _lengths(batch))
    return points if is_whole else None


def _is_from(batch: Batch, other: Batch) -> bool:
    """Whether all that another batch holds are tensors of this one."""
    if other is None:  # compiled code does not tell
        return False
    own, seen = {id(leaf) for leaf in leaves(batch)}, leaves(other)
    return bool(seen) and all(id(leaf) in own for leaf in seen)


def _lengths(batch: Batch) -> list[int]:
    """The lengths of the axes on which all tensors of a batch agree."""
    shapes = [leaf.shape for leaf in leaves(batch) if isinstance(leaf, Tensor) and leaf.dim() > 0]
    dimensions = [len(shape) for shape in shapes]  # the compiler cannot trace min of a generator
    axes = range(min(dimensions) if dimensions else 0)
    return [shapes[0][axis] for axis in axes if all(shape[axis] == shapes[0][axis] for shape in shapes)]


def points_along(batch: Batch, axis: int) -> int | None:
    """The number of points of a batch along an axis; None if its tensors do not agree on it."""
    try:
        return n_points(batch, axis)
    except ValueError:
        return None


def _tell(kind: int, number: Any) -> None:
    if tracing.compiling():
        _COMPILED[kind] = number
        return
    seen = _SEEN.get()
    if seen is not None:
        seen[kind].append(number)


def _seen_by_compiled_code() -> Seen:
    points, losses = _COMPILED
    return Seen([] if points is None else [(points, None)], [] if losses is None else [losses])
