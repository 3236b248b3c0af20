"""Curves: the time of an average against the number of processes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any


def draw_scaling(rows: Sequence[Any], title: str, path: Path) -> None:
    """Draw what is predicted and measured for each model, and save it."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    for model, colour in zip(dict.fromkeys(row.model for row in rows), ("#1b4f9c", "#d1495b"), strict=False):
        own = [row for row in rows if row.model == model]
        ranks = [row.ranks for row in own]
        axes.plot(ranks, [1e3 * row.measured for row in own], "o-", color=colour, label=f"{model}, measured")
        axes.plot(ranks, [1e3 * row.predicted for row in own], "x--", color=colour, label="predicted")
    axes.set_yscale("log")
    axes.set_xticks(sorted({row.ranks for row in rows}))
    axes.set_xlabel("processes")
    axes.set_ylabel("milliseconds")
    axes.set_title(title)
    axes.legend()
    figure.savefig(path, dpi=110)
