"""Tables as text, printed row by row as they are measured, and as JSON.

A row is a NamedTuple. The type of each field says how its cells are printed: `ms: Annotated[float | None, Column(">9.3f")]`. A
cell that was not measured is None: a dash in the text, null in the JSON.
"""

import platform
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple, get_args, get_type_hints

import torch

from benchmarks.contestants import Field


class Column(NamedTuple):
    """How a field is printed.

    Attributes:
        form: the side and the width, and for numbers with a fraction their digits: `<11`, `>5`, `>7.2f`. The heading may
            widen the column.
        heading: the name of the column in the text, and its key in the JSON; by default the field's name with spaces.
    """

    form: str
    heading: str = ""


Milliseconds = Annotated[float | None, Column(">9.3f")]
Gradients = Annotated[float | None, Column(">7.2f")]
Ratio = Annotated[float | None, Column(">7.3f")]
PeakMemory = Annotated[float | None, Column(">9.1f", "peak MB")]
Difference = Annotated[float | None, Column(">7.0e")]
Remark = Annotated[str | None, Column("<0")]


class Table(NamedTuple):
    """A table.

    Attributes:
        name: the section.
        about: what its figures mean.
        columns: those that are shown, by the names of the fields.
        rows: NamedTuples, perhaps of a generator that measures.
    """

    name: str
    about: str
    columns: Mapping[str, Column]
    rows: Iterable[Any]


def columns(row: type, without: Collection[str] = ()) -> dict[str, Column]:
    """The columns of a type of rows, by the names of its fields."""
    forms = {name: get_args(hint)[1] for name, hint in get_type_hints(row, include_extras=True).items() if name not in without}
    return {name: Column(form.form, form.heading or name.replace("_", " ")) for name, form in forms.items()}


def printed(table: Table) -> Table:
    """The table with a list of its rows, after each was printed as soon as it came."""
    print(f"\n{table.name}: {table.about}\n")
    print(_line(table.columns, {name: column.heading for name, column in table.columns.items()}), flush=True)
    rows: list[Any] = []
    for row in table.rows:
        if not rows or rows[-1][0] != row[0]:
            print()
        rows.append(row)
        print(_line(table.columns, row._asdict()), flush=True)
    return table._replace(rows=rows)


def machine() -> dict[str, str]:
    """What the figures depend on."""
    return {
        "torch": torch.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": _processor(),
        "threads": f"{torch.get_num_threads()}",
        "numbers": "float32",
    }


def heading(field: Field, rounds: int) -> str:
    """The machine, the versions of the contestants, and the missing contestants."""
    one = machine()
    lines = [
        f"torch {one['torch']}, python {one['python']}, {one['platform']}, {one['processor']}",
        f"threads: {one['threads']}, rounds: {rounds}, {one['numbers']}",
    ]
    if field.versions:
        lines.append(f"contestants: {', '.join(f'{name} {version}' for name, version in field.versions.items())}")
    return "\n".join(lines + [f"missing: {name} ({reason})" for name, reason in field.missing.items()])


def document(field: Field, rounds: int, tables: Mapping[str, Table]) -> dict[str, object]:
    """Everything that is printed, for JSON."""
    return {
        "machine": machine(),
        "rounds": rounds,
        "versions": field.versions,
        "missing": field.missing,
        "tables": {name: [_headed(table.columns, row) for row in table.rows] for name, table in tables.items()},
    }


def _headed(columns: Mapping[str, Column], row: Any) -> dict[str, object]:
    return {column.heading: getattr(row, name) for name, column in columns.items()}


def _line(columns: Mapping[str, Column], cells: Mapping[str, object]) -> str:
    return "  ".join(_text(cells[name], *column) for name, column in columns.items()).rstrip()


def _text(cell: object, form: str, heading: str) -> str:
    """The cell in its column, at least as wide as the heading."""
    width, _, digits = form[1:].partition(".")
    if isinstance(cell, float):
        text = format(cell, f".{digits}" if digits else "")
    else:
        text = "-" if cell is None else f"{cell:,}" if isinstance(cell, int) else str(cell)
    return format(text, f"{form[0]}{max(int(width), len(heading))}")


def _processor() -> str:
    described = Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").exists() else ""
    names = [text.partition(":")[2].strip() for text in described.splitlines() if text.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
