"""What every operation costs on every problem: `python -m benchmarks`."""

import argparse
import platform
import sys
from collections.abc import Collection, Sequence
from itertools import groupby
from pathlib import Path

import torch

from benchmarks.memory import is_measurable
from benchmarks.operations import OPERATIONS
from benchmarks.problems import RECIPES, problem
from benchmarks.table import COLUMNS, aligned, cases, line, rows
from benchmarks.times import gradient_seconds

ROUNDS, QUICK_ROUNDS = 11, 3


def main(arguments: Sequence[str] | None = None, rounds: int | None = None) -> None:
    """Print the table.

    Args:
        arguments: of the command line.
        rounds: instead of the number that the options say.
    """
    options = _parser().parse_args(arguments)
    if not is_measurable():
        sys.exit("benchmarks: this platform does not tell the peak memory of a process")
    torch.set_num_threads(1)
    problems, operations = _picked(options.problem, RECIPES), _picked(options.operation, OPERATIONS)
    count = rounds or (QUICK_ROUNDS if options.quick else ROUNDS)
    print("\n".join([*_header(problems, count), "", aligned(list(COLUMNS))]), flush=True)
    found = rows(cases(problems, operations), count, processes_of_their_own=not options.quick)
    for _, group in groupby(found, key=lambda row: row.case.problem):
        print()
        for row in group:
            print(line(row), flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Time, as a multiple of one plain gradient, and peak memory of every operation on every problem.",
    )
    quick = f"{QUICK_ROUNDS} rounds instead of {ROUNDS}, and one process for the memory of all operations on a problem"
    parser.add_argument("--quick", action="store_true", help=quick)
    for option, choices in (("problem", RECIPES), ("operation", OPERATIONS)):
        meaning = f"only this one, or these, if given several times: {', '.join(choices)}"
        parser.add_argument(f"--{option}", action="append", choices=list(choices), metavar="NAME", help=meaning)
    return parser


def _picked(names: Collection[str] | None, known: Collection[str]) -> list[str]:
    return [name for name in known if not names or name in names]


def _header(problems: Sequence[str], rounds: int) -> list[str]:
    return [
        f"torch {torch.__version__}, python {platform.python_version()}, {platform.platform()}, {_processor()}",
        f"threads: {torch.get_num_threads()}, rounds: {rounds}, float32",
        *(f"one plain gradient on {name}: {1000 * gradient_seconds(problem(name), rounds):.2f} ms" for name in problems),
        "times are multiples of that; peak memory is over what was resident before, in MB of 10⁶ bytes",
    ]


def _processor() -> str:
    described = Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").exists() else ""
    names = [text.partition(":")[2].strip() for text in described.splitlines() if text.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
