"""Streams of batches that are read more than once: each time, they must give the same batches in the same order."""

from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor

from pure_batchops import fingerprints, tracing
from pure_batchops.types import Batch


class Compared:
    """Batches that are compared, each time that they are read, with those of the first time.

    Attributes:
        name: what they are called in errors.
        batches: any iterable.
        seen: the fingerprints of the batches that were read so far.
        total: the number of batches, once it is known.
    """

    # A NamedTuple would be a tree to torch, and its batches would be leaves.

    def __init__(self, name: str, batches: Any) -> None:
        self.name, self.batches = name, batches
        self.seen: list[str] = []
        self.total: list[int] = []

    def __iter__(self) -> Iterator[Batch]:
        """Read the batches."""
        return _read(self)

    def __len__(self) -> int:
        """Their number, if the iterable knows it."""
        return len(self.batches)

    def __getattr__(self, attribute: str) -> Any:
        """What else the iterable has, such as the data set of a DataLoader."""
        return getattr(self.batches, attribute)


def reiterable(name: str, batches: Iterable[Batch]) -> Iterable[Batch]:
    """The batches, if they can be read more than once.

    Returns:
        The batches.

    Raises:
        ValueError: if they are an iterator.
    """
    if isinstance(batches, Iterator):
        msg = (
            f"{name} must be iterable again, as a list or a DataLoader is, got a {type(batches).__name__}; give a list of the "
            "batches"
        )
        raise ValueError(msg)
    return batches


def in_one_order(name: str, batches: Iterable[Batch]) -> Iterable[Batch]:
    """The batches, compared each time that they are read. A list is the same each time, and needs no comparison.

    Returns:
        The batches. Reading them raises a ValueError if a batch is not the one that it was, or their number changes.

    Raises:
        ValueError: if they are an iterator.
    """
    if type(batches) in (list, tuple) or isinstance(batches, (Tensor, Compared)) or tracing.compiling():
        return batches
    return Compared(name, reiterable(name, batches))


def uncompared(batches: Iterable[Batch]) -> Iterable[Batch]:
    """The batches as they were given, before `in_one_order`."""
    return batches.batches if isinstance(batches, Compared) else batches


def _read(stream: Compared) -> Iterator[Batch]:
    number = 0
    for number, batch in enumerate(stream.batches, 1):
        mark = _mark(batch)
        if number > len(stream.seen) and not stream.total:
            stream.seen.append(mark)
        if number > len(stream.seen) or stream.seen[number - 1] != mark:
            raise _other(stream.name, f"another batch {number - 1} than before, the first being 0")
        yield batch
    if number < len(stream.seen):
        hint = "" if number else " (a generator inside, which can be read only once?)"
        raise _other(stream.name, f"{number} batches instead of at least {len(stream.seen)}{hint}")
    stream.total[:] = [number]


def _mark(batch: Batch) -> str:
    try:
        return fingerprints.of_tree(batch)
    except RuntimeError:  # a transform does not let us read the numbers
        return ""


def _other(name: str, got: str) -> ValueError:
    return ValueError(
        f"{name} must be the same, in the same order, each time that they are read, got {got}; make the DataLoader with "
        "shuffle=False and without random transforms, or give a list of the batches"
    )
