"""What every operation costs, and what its peers cost: `python -m benchmarks`."""

import argparse
import json
import sys
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import torch

from benchmarks.cases.operations import MATRICES, OPERATIONS
from benchmarks.cases.problems import RECIPES
from benchmarks.contestants import CONTESTANTS, field
from benchmarks.memory import is_measurable
from benchmarks.pictures import drawn
from benchmarks.plan import Plan
from benchmarks.report import Table, document, heading, printed
from benchmarks.tables.figures import figures_table
from benchmarks.tables.growth import growth_table
from benchmarks.tables.inverses import inverses_table
from benchmarks.tables.operations import operations_table
from benchmarks.tables.peers import peers_table
from benchmarks.tables.targets import targets_table
from benchmarks.times import Effort

SECTIONS: dict[str, Callable[[Plan], Table]] = {
    "operations": operations_table,
    "peers": peers_table,
    "figures": figures_table,
    "inverses": inverses_table,
    "growth": growth_table,
    "targets": targets_table,
}

EFFORT, QUICK_EFFORT = Effort(11, seconds=20.0), Effort(3, seconds=0.1)
QUICK_PROBLEMS = ("tiny", "mlp")
QUICK_SECTIONS = ("operations", "peers", "growth")


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables, and write the files that the options ask for.

    Args:
        arguments: the command line; by default the arguments of the process.
    """
    options = _parser().parse_args(arguments)
    if not is_measurable():
        sys.exit("benchmarks: this platform does not tell the peak memory of a process")
    torch.set_num_threads(1)
    effort = QUICK_EFFORT if options.quick else EFFORT
    plan = Plan(
        problems=_picked(options.problem, RECIPES, QUICK_PROBLEMS if options.quick else RECIPES),
        operations=_picked(options.operation, OPERATIONS, MATRICES if options.quick else OPERATIONS),
        field=field(_picked(options.contestant, CONTESTANTS, CONTESTANTS)),
        effort=effort._replace(rounds=options.rounds or effort.rounds),
        quick=options.quick,
    )
    print(heading(plan.field, plan.effort.rounds), flush=True)
    names = _picked(options.section, SECTIONS, QUICK_SECTIONS if options.quick else SECTIONS)
    tables = {name: printed(SECTIONS[name](plan)) for name in names}
    if options.json:
        everything = document(plan.field, plan.effort.rounds, tables)
        options.json.write_text(json.dumps(everything, indent=1, ensure_ascii=False, allow_nan=False), encoding="utf-8")
    if options.pictures:
        print(f"\n{drawn(tables, options.pictures)}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Time, as a multiple of one plain gradient, and peak memory of every operation, and of its peers.",
    )
    quick = (
        f"two minutes: unless you pick others, only {', '.join(QUICK_PROBLEMS)}, the five matrices, no compilation; at most "
        f"{QUICK_EFFORT.rounds} rounds, fewer of slow calls; one process for the memory of all operations on a problem; fewer "
        "curves; many vectors against peers on tiny only"
    )
    parser.add_argument("--quick", action="store_true", help=quick)
    parser.add_argument("--rounds", type=int, metavar="N", help=f"at most so many, not {EFFORT.rounds}")
    known = {"section": SECTIONS, "problem": RECIPES, "operation": OPERATIONS, "contestant": CONTESTANTS}
    for option, choices in known.items():
        meaning = f"only this one; may be repeated: {', '.join(choices)}"
        parser.add_argument(f"--{option}", action="append", choices=list(choices), metavar="NAME", help=meaning)
    parser.add_argument("--json", type=Path, metavar="PATH", help="write everything that is printed there too")
    parser.add_argument("--pictures", type=Path, metavar="FOLDER", help="draw peers.png and growth.png there, with matplotlib")
    return parser


def _picked(names: Collection[str] | None, known: Collection[str], default: Collection[str]) -> list[str]:
    return [name for name in known if name in (names or default)]


if __name__ == "__main__":
    main()
