"""What one run measures, and how it reports its progress."""

import sys
from collections.abc import Sequence
from typing import NamedTuple

from benchmarks.contestants import Field
from benchmarks.times import Effort


class Plan(NamedTuple):
    """What to measure, and for how long.

    Attributes:
        problems: their names.
        operations: their names.
        field: the contestants.
        effort: for each group of calls that take turns.
        quick: whether to leave out what takes long.
    """

    problems: Sequence[str]
    operations: Sequence[str]
    field: Field
    effort: Effort
    quick: bool = False


def progress(text: str) -> None:
    """Write a line to the standard error stream."""
    sys.stderr.write(f"{text}\n")
