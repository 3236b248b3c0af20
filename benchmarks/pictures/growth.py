"""Curves: time and memory against n, D and K."""

from collections.abc import Sequence
from typing import Any

from benchmarks.pictures.ticks import label_ticks, short
from benchmarks.tables.growth import OURS, SIZES, Point

HUES = ("#888888", "#1b4f9c", "#d1495b", "#edae49", "#66a182")
LABELS = {"n": "samples n", "D": "parameters D", "K": "vectors K", "n × D": "numbers in n × D"}


def growth_picture(rows: Sequence[Point]) -> Any:
    """A panel for each axis; a curve for each operation, dashed for a contestant's."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 8), layout="constrained")
    operations = dict.fromkeys(row.operation for row in rows)
    hues = {operation: HUES[i % len(HUES)] for i, operation in enumerate(operations)}
    handles: dict[str, Any] = {}
    for place, axis in enumerate((axis for axis in SIZES if any(row.axis == axis for row in rows)), 1):
        handles |= _panel(figure.add_subplot(2, 3, place), axis, [row for row in rows if row.axis == axis], hues)
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=4, frameon=False)
    figure.suptitle("Growth on a perceptron 784-w-w-10 (w = 512, n = 128, K = 1 unless on the axis)")
    return figure


def _panel(axes: Any, axis: str, points: Sequence[Point], hues: dict[str, str]) -> dict[str, Any]:
    """Draw the curves of one axis, and return a handle for each name in the legend."""
    what, across = axis.split(", ")
    handles = {}
    for contestant, operation in dict.fromkeys((point.contestant, point.operation) for point in points):
        own = [point for point in points if (point.contestant, point.operation) == (contestant, operation)]
        xs = [_across(point, across) for point in own]
        ys = [max((point.gradients if what == "time" else point.peak) or 0, 0.01) for point in own]  # no zero on a log axis
        name, line = (operation, "-") if contestant == OURS else (f"{operation}, {contestant}", "--")
        (handles[name],) = axes.plot(xs, ys, color=hues[operation], linestyle=line, marker="o", markersize=3.5)
    xs = sorted({_across(point, across) for point in points})
    axes.set(xscale="log", yscale="log", xlabel=LABELS[across])
    axes.set_title(f"{'time' if what == 'time' else 'peak memory'} against {across}")
    axes.set_ylabel("plain gradients of the MLP" if what == "time" else "peak memory over base, MB")
    axes.set_xticks(xs, [short(x) for x in xs], fontsize=8)
    axes.set_xticks([], minor=True)
    label_ticks(axes.yaxis)
    axes.tick_params(axis="y", which="both", labelsize=8)
    axes.grid(visible=True, which="major", alpha=0.3)
    return handles


def _across(point: Point, quantity: str) -> int:
    return point.n * point.D if quantity == "n × D" else getattr(point, quantity)
