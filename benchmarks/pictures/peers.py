"""Bars: the time of each product, ours and everybody's."""

from collections.abc import Sequence
from statistics import median_high
from typing import Any

from benchmarks.pictures.ticks import label_ticks
from benchmarks.tables.peers import Match

COLOURS = {
    "ours": "#1b4f9c",
    "autograd": "#555555",
    "pydvl": "#d1495b",
    "curvlinops": "#edae49",
    "backpack": "#66a182",
    "posteriors": "#8d6a9f",
    "jax": "#00a6a6",
    "jax_reverse": "#7fd1d1",
}


def peers_picture(rows: Sequence[Match]) -> Any:
    """A panel for each problem and number of vectors; a group of bars for each operation, a bar for each contestant."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    timed = [row for row in rows if row.theirs is not None]
    panels = list(dict.fromkeys((row.problem, row.vectors) for row in timed))
    columns = min(2, len(panels)) or 1
    height = -(-len(panels) // columns)
    figure = Figure(figsize=(7.5 * columns, 0.8 + 2.9 * height), layout="constrained")
    for place, (problem, vectors) in enumerate(panels, 1):
        axes = figure.add_subplot(height, columns, place)
        _bars(axes, [row for row in timed if (row.problem, row.vectors) == (problem, vectors)])
        axes.set_title(f"{problem}, {vectors} vector{'s' if vectors != 1 else ''}")
    present = ["ours", *dict.fromkeys(row.contestant for row in timed)]
    patches = [Patch(color=_colour(name), label="pure_batchops" if name == "ours" else name) for name in present]
    figure.legend(handles=patches, loc="outside lower center", ncols=len(present), frameon=False)
    figure.suptitle("Time of a product, as a multiple of one plain gradient (log scale; less is better)")
    return figure


def _bars(axes: Any, rows: Sequence[Match]) -> None:
    start, ticks = 0.0, {}
    for operation in dict.fromkeys(row.operation for row in rows):
        group = [row for row in rows if row.operation == operation]
        bars = {"ours": median_high(row.ours for row in group), **{row.contestant: row.theirs for row in group}}
        for i, (name, height) in enumerate(bars.items()):
            axes.bar(start + i, height, width=0.9, color=_colour(name))
            axes.annotate(f"{height:.3g}", (start + i, height), ha="center", va="bottom", fontsize=7)
        ticks[start + (len(bars) - 1) / 2] = operation.replace("_", "\n", 1).replace("_", " ")
        start += len(bars) + 1
    axes.set_yscale("log")
    axes.margins(y=0.15)
    label_ticks(axes.yaxis)
    axes.set_xticks(list(ticks), list(ticks.values()), fontsize=9)
    axes.set_ylabel("gradients")


def _colour(name: str) -> str:
    return COLOURS.get(name, "#bbbbbb")
