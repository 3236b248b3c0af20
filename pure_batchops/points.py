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

from pure_batchops import tracing
from pure_batchops.batches import n_points
from pure_batchops.types import Batch


class Seen(NamedTuple):
    """What was told during a call: by operations, and by losses."""

    points: list[float]
    losses: list[float]


_SEEN: ContextVar[Seen | None] = ContextVar("seen", default=None)

# Compiled code cannot read a ContextVar. It writes here, and torch.compile replays the write each time that the code runs.
_COMPILED: dict[str, Any] = {"points": None, "losses": None}
_CALLS = count()
_OPEN: set[int] = set()


def saw_points(points: float | None) -> None:
    """Tell the average around, if there is one, that the product is a mean over so many samples."""
    if points is not None:
        _tell("points", points)


def saw_losses(losses: int) -> None:
    """Tell the operation around, if it asks, that a loss returned so many losses of samples."""
    _tell("losses", losses)


def counted(function: Callable[..., Any], *arguments: Any) -> tuple[Any, Seen]:
    """The result of a function, and what the operations and losses inside it saw."""
    _COMPILED["points"] = _COMPILED["losses"] = None
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
    # Operations are believed. Without them the points along axis 0 are counted, if a loss saw as many.
    if seen.points:
        return seen.points[0] if all(points == seen.points[0] for points in seen.points) else None
    return points_along(batch, 0) if seen.losses and max(seen.losses) == points_along(batch, 0) else None


def points_along(batch: Batch, axis: int) -> int | None:
    """The number of points of a batch along an axis; None if its tensors do not agree on it."""
    try:
        return n_points(batch, axis)
    except ValueError:
        return None


def _tell(kind: str, number: float) -> None:
    if tracing.compiling():
        _COMPILED[kind] = number
        return
    seen = _SEEN.get()
    if seen is not None:
        getattr(seen, kind).append(number)


def _seen_by_compiled_code() -> Seen:
    points, losses = _COMPILED["points"], _COMPILED["losses"]
    return Seen([] if points is None else [points], [] if losses is None else [losses])
