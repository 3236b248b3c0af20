"""What a section of the benchmark is told, and how it tells of what it is doing."""

import sys
from collections.abc import Sequence
from typing import NamedTuple

from benchmarks.contestants import Field
from benchmarks.times import Effort

GRADIENT = "gradient"
"""The name of the plain gradient among operations."""


class Plan(NamedTuple):
    """What to measure: names of problems and of operations, on which contestants, and how long."""

    problems: Sequence[str]
    operations: Sequence[str]
    field: Field
    effort: Effort
    quick: bool = False


def progress(text: str) -> None:
    """A line on the standard error stream."""
    sys.stderr.write(f"{text}\n")
