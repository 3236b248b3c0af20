"""Seconds of calls that take turns in one process: what slows one slows all, so their ratio stays."""

from collections.abc import Callable, Sequence
from math import ceil
from statistics import median
from timeit import timeit
from typing import NamedTuple

Call = Callable[[], object]


class Effort(NamedTuple):
    """How long to measure.

    Attributes:
        rounds: the most rounds.
        seconds: no round begins after this many seconds, except the first.
        least_seconds: within a round a call is repeated until its calls take this long; with 0 every call is made once in a
            round, and once to warm up.
    """

    rounds: int
    seconds: float = 20.0
    least_seconds: float = 0.005


class Turns(NamedTuple):
    """The seconds of each call, one tuple for each round."""

    seconds: list[tuple[float, ...]]

    def ratio(self, call: int, other: int) -> float:
        """The median, over the rounds, of the time of a call over the time of another one in the same round."""
        return median(each[call] / each[other] for each in self.seconds)

    def median(self, call: int) -> float:
        """The median of the seconds of a call."""
        return median(each[call] for each in self.seconds)


def in_turn(calls: Sequence[Call], effort: Effort, before: Call | str = "pass") -> Turns:
    """The seconds of the calls, one after the other, round after round.

    One call warms or evicts caches for the next, and a fixed order would bias the ratio: every other round runs backwards.

    What runs before each call, as the setup of timeit, does not count.
    """
    repeats = [_repeats(call, effort.least_seconds, before) for call in calls]
    rounds: list[tuple[float, ...]] = []
    spent = 0.0
    while not rounds or (len(rounds) < effort.rounds and spent < effort.seconds):
        step = -1 if len(rounds) % 2 else 1
        taken = [_seconds(call, times, before) for call, times in list(zip(calls, repeats, strict=True))[::step]]
        rounds.append(tuple(taken[::step]))
        spent += sum(seconds * times for seconds, times in zip(rounds[-1], repeats, strict=True))
    return Turns(rounds)


def _repeats(call: Call, least_seconds: float, before: Call | str) -> int:
    """How many calls make one round. Counting them warms the call up."""
    first = _seconds(call, 1, before)
    steady = first if first > 20 * least_seconds else _seconds(call, 1, before)  # a first call may load libraries
    return max(1, ceil(least_seconds / steady))


def _seconds(call: Call, repeats: int, before: Call | str) -> float:
    return timeit(call, before, number=repeats) / repeats
