"""Two pictures of the tables: bars against peers, and curves of growth. They need matplotlib."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.contestants import EXTRA
from benchmarks.report import Row

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

HUES = ("#888888", "#1b4f9c", "#d1495b", "#edae49", "#66a182")

AXES = {  # the quantity on the horizontal axis, its label, the quantity on the vertical one, its label
    "time, n": ("n", "samples n", "gradients", "time"),
    "time, D": ("D", "parameters D", "gradients", "time"),
    "time, K": ("K", "vectors K", "gradients", "time"),
    "memory, n × D": ("n × D", "numbers in n × D", "peak MB", "peak memory"),
    "memory, K": ("K", "vectors K", "peak MB", "peak memory"),
}


def drawn(tables: Mapping[str, Sequence[Row]], folder: Path) -> str:
    """Draw what the tables hold, and say where; without matplotlib, say what to install."""
    try:
        import matplotlib as mpl
    except ImportError:
        return f"no pictures: matplotlib is missing; install it by: {EXTRA}"
    mpl.use("Agg")
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for name, picture in (("peers", peers_picture), ("growth", growth_picture)):
        if tables.get(name):
            figure = picture(tables[name])
            figure.savefig(folder / f"{name}.png", dpi=85)
            made.append(str(folder / f"{name}.png"))
    return f"pictures: {', '.join(made) or 'none, as neither peers nor growth were measured'}"


def peers_picture(rows: Sequence[Row]) -> Any:
    """A panel for each problem and number of vectors; a group of bars for each operation, a bar for each contestant."""
    from matplotlib.figure import Figure

    timed = [row for row in rows if row["theirs"] is not None]
    panels = list(dict.fromkeys((str(row["problem"]), row["vectors"]) for row in timed))
    columns = min(2, len(panels)) or 1
    height = -(-len(panels) // columns)
    figure = Figure(figsize=(7.5 * columns, 0.8 + 2.9 * height), layout="constrained")
    for place, (problem, vectors) in enumerate(panels, 1):
        axes = figure.add_subplot(height, columns, place)
        _bars(axes, [row for row in timed if (row["problem"], row["vectors"]) == (problem, vectors)])
        axes.set_title(f"{problem}, {vectors} vector{'s' if vectors != 1 else ''}")
    present = ["ours", *dict.fromkeys(str(row["contestant"]) for row in timed)]
    from matplotlib.patches import Patch

    patches = [Patch(color=_colour(name), label="pure_batchops" if name == "ours" else name) for name in present]
    figure.legend(handles=patches, loc="outside lower center", ncols=len(present), frameon=False)
    figure.suptitle("Time of a product, as a multiple of one plain gradient (log scale; less is better)")
    return figure


def _bars(axes: Any, rows: Sequence[Row]) -> None:
    start, ticks = 0.0, {}
    for operation in dict.fromkeys(str(row["operation"]) for row in rows):
        group = [row for row in rows if row["operation"] == operation]
        ours = sorted(float(row["ours"] or 0) for row in group)[len(group) // 2]
        bars = {"ours": ours, **{str(row["contestant"]): float(row["theirs"] or 0) for row in group}}
        for i, (name, height) in enumerate(bars.items()):
            axes.bar(start + i, height, width=0.9, color=_colour(name))
            axes.annotate(f"{height:.3g}", (start + i, height), ha="center", va="bottom", fontsize=7)
        ticks[start + (len(bars) - 1) / 2] = operation.replace("_", "\n", 1).replace("_", " ")
        start += len(bars) + 1
    axes.set_yscale("log")
    axes.margins(y=0.15)
    axes.yaxis.set_major_formatter(_short_tick)
    axes.yaxis.set_minor_formatter(_short_tick)
    axes.set_xticks(list(ticks), list(ticks.values()), fontsize=9)
    axes.set_ylabel("gradients")


def growth_picture(rows: Sequence[Row]) -> Any:
    """A panel for each axis; a curve for each operation, dashed for the contestant's."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 8), layout="constrained")
    present = [axis for axis in AXES if any(row["axis"] == axis for row in rows)]
    operations = list(dict.fromkeys(str(row["operation"]) for row in rows))
    handles: dict[str, Any] = {}
    for place, axis in enumerate(present, 1):
        axes = figure.add_subplot(2, 3, place)
        across, label, up, title = AXES[axis]
        measured: set[float] = set()
        for contestant, operation in dict.fromkeys((str(row["contestant"]), str(row["operation"])) for row in rows):
            curve = [
                row for row in rows if (row["axis"], row["contestant"], row["operation"]) == (axis, contestant, operation)
            ]
            if not curve:
                continue
            xs = [_number(row, "n") * _number(row, "D") if across == "n × D" else _number(row, across) for row in curve]
            style = {"linestyle": "-" if contestant == "ours" else "--", "marker": "o", "markersize": 3.5}
            colour = HUES[operations.index(operation) % len(HUES)]
            named = f"{operation}{'' if contestant == 'ours' else ', ' + contestant}"
            measured.update(xs)
            (handles[named],) = axes.plot(xs, [_number(row, up) for row in curve], color=colour, **style)
        axes.set(xscale="log", yscale="log", xlabel=label, title=f"{title} against {across}")
        axes.set_ylabel("plain gradients of the MLP" if up == "gradients" else "peak memory over base, MB")
        axes.set_xticks(sorted(measured), [_short(x) for x in sorted(measured)], fontsize=8)
        axes.set_xticks([], minor=True)
        axes.yaxis.set_major_formatter(_short_tick)
        axes.yaxis.set_minor_formatter(_short_tick)
        axes.tick_params(axis="y", which="both", labelsize=8)
        axes.grid(visible=True, which="major", alpha=0.3)
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=4, frameon=False)
    figure.suptitle("Growth on a perceptron 784-w-w-10 (w = 512, n = 128, K = 1 unless on the axis)")
    return figure


def _number(row: Row, name: str) -> float:
    """The cell as a number that a logarithmic axis shows."""
    return max(float(row[name] or 0), 0.01)


def _short(x: float) -> str:
    """The number in three digits, with k and M for thousands and millions."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if x >= size:
            return f"{x / size:.3g}{letter}"
    return f"{x:.3g}"


def _short_tick(x: float, _: object) -> str:
    return _short(x) if f"{x:e}"[0] in "125" else ""


def _colour(name: str) -> str:
    return COLOURS.get(name, "#bbbbbb")
