"""Numbers at the ticks of logarithmic axes."""

from typing import Any


def label_ticks(axis: Any) -> None:
    """Label the ticks of an axis that start with 1, 2 or 5."""
    axis.set_major_formatter(_tick)
    axis.set_minor_formatter(_tick)


def short(x: float) -> str:
    """The number in three digits, with k, M and G for thousands, millions and billions."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if x >= size:
            return f"{x / size:.3g}{letter}"
    return f"{x:.3g}"


def _tick(x: float, _position: object) -> str:
    return short(x) if f"{x:e}"[0] in "125" else ""
