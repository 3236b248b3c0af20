"""Tables whose rows come one by one, and are printed as they come.

A row is a NamedTuple. The type of each field says how its cells are printed:

    class Row(NamedTuple):
        problem: Annotated[str, Column("<11")]
        theirs_ms: Annotated[float | None, Column(">9.3f")] = None

A cell that was not measured is None. The text shows a dash, and the JSON null.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import Annotated, Any, NamedTuple, get_args, get_type_hints


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


def as_json(table: Table) -> list[dict[str, object]]:
    """The rows, each a dict from headings to cells."""
    return [{column.heading: getattr(row, name) for name, column in table.columns.items()} for row in table.rows]


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
