"""Tables: rows that come one by one, printed as they come, and all that was found as JSON."""

import platform
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch

from benchmarks.contestants import Field

Cell = str | int | float | None
Row = dict[str, Cell]


class Table(NamedTuple):
    """A table.

    Attributes:
        name: of the section.
        about: what its figures are.
        columns: the headings, which are the keys of the rows, each with the format of its cells.
        rows: may be a generator, that measures.
    """

    name: str
    about: str
    columns: Mapping[str, str]
    rows: Iterable[Row]


def printed(table: Table) -> list[Row]:
    """The rows of the table, each printed as soon as it is there."""
    print(f"\n{table.name}: {table.about}\n")
    print(_line(table.columns, {name: name for name in table.columns}), flush=True)
    found: list[Row] = []
    for row in table.rows:
        if not found or next(iter(found[-1].values())) != next(iter(row.values())):
            print()
        found.append(row)
        print(_line(table.columns, row), flush=True)
    return found


def _line(columns: Mapping[str, str], row: Row) -> str:
    return "  ".join(_text(row.get(name), form, len(name)) for name, form in columns.items()).rstrip()


def _text(cell: Cell, form: str, least: int) -> str:
    """The cell in its column, at least as wide as the heading; a dash for what is not measured."""
    side, digits = form[0], form[1:]
    width, _, rest = digits.partition(".")
    text = (
        format(cell, f".{rest}" if rest else "") if isinstance(cell, float) else f"{cell:,}" if isinstance(cell, int) else cell
    )
    return format("-" if text is None else text, f"{side}{max(int(width), least)}")


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


def heading(found: Field, rounds: int) -> str:
    """The machine, the versions of the contestants, and which of them are missing."""
    one = machine()
    lines = [
        f"torch {one['torch']}, python {one['python']}, {one['platform']}, {one['processor']}",
        f"threads: {one['threads']}, rounds: {rounds}, {one['numbers']}",
    ]
    if found.versions:
        lines.append(f"contestants: {', '.join(f'{name} {version}' for name, version in found.versions.items())}")
    return "\n".join(lines + [f"missing: {name} ({reason})" for name, reason in found.missing.items()])


def document(found: Field, rounds: int, tables: Mapping[str, list[Row]]) -> dict[str, object]:
    """All that was printed, for JSON."""
    contestants = {"versions": found.versions, "missing": found.missing}
    return {"machine": machine(), "rounds": rounds, **contestants, "tables": dict(tables)}


def _processor() -> str:
    described = Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").exists() else ""
    names = [text.partition(":")[2].strip() for text in described.splitlines() if text.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
