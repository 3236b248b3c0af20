"""The times of calls that are taken in turn in one process: what slows one slows all, and their ratio stays."""

from collections.abc import Callable, Sequence
from math import ceil
from statistics import median
from timeit import timeit
from typing import NamedTuple

Call = Callable[[], object]

LEAST_SECONDS = 0.005
"""A shorter call is repeated until a round of it takes as long."""


class Effort(NamedTuple):
    """How long to measure.

    Attributes:
        rounds: at most so many.
        seconds: no further round begins after so many, though there is at least one.
    """

    rounds: int
    seconds: float = 20.0


class Turns(NamedTuple):
    """The seconds of each call, one tuple for each round."""

    seconds: list[tuple[float, ...]]

    def ratio(self, call: int, other: int) -> float:
        """The median, over the rounds, of the time of a call over that of another in the same round."""
        return median(each[call] / each[other] for each in self.seconds)

    def median(self, call: int) -> float:
        """The median of the seconds of a call."""
        return median(each[call] for each in self.seconds)


def in_turn(calls: Sequence[Call], effort: Effort) -> Turns:
    """The times of the calls, one after the other, round after round; every other round backwards.

    A call leaves caches and memory to the next as it found them or not, which a fixed order would count for or against it.
    """
    often = [_often(call) for call in calls]
    found: list[tuple[float, ...]] = []
    spent = 0.0
    while not found or (len(found) < effort.rounds and spent < effort.seconds):
        step = -1 if len(found) % 2 else 1
        taken = [_seconds(call, count) for call, count in list(zip(calls, often, strict=True))[::step]]
        found.append(tuple(taken[::step]))
        spent += sum(seconds * count for seconds, count in zip(found[-1], often, strict=True))
    return Turns(found)


def _often(call: Call) -> int:
    """How often to call in a round; finding it is the warm-up."""
    first = _seconds(call, 1)
    return ceil(LEAST_SECONDS / (first if first > 20 * LEAST_SECONDS else _seconds(call, 1)))  # the first may load libraries


def _seconds(call: Call, calls: int) -> float:
    return timeit(call, number=calls) / calls
