"""The rows of the table, and a row as text."""

import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from typing import NamedTuple

from benchmarks.memory import GRADIENT, peak_memories
from benchmarks.operations import OPERATIONS
from benchmarks.problems import RECIPES, dimension, problem
from benchmarks.times import VECTORS, Times, operation_times

MORE_SAMPLES = {"mlp": (1024, ("gauss_newton", "inverse_harmonic_mean"))}
"""Memory alone is measured there too: the gradients of all samples, held at once, would be 2.7 GB."""

COLUMNS = {  # each with the format of its cells
    "problem": "<8",
    "n": ">5",
    "D": ">8",
    "operation": "<28",
    "op(v)": ">7",
    "product alone": ">14",
    f"{VECTORS} vectors, each": ">17",
    "peak MB": ">8",
}


class Case(NamedTuple):
    """A row to be measured."""

    problem: str
    samples: int
    operation: str


class Row(NamedTuple):
    """A case and its figures."""

    case: Case
    dimension: int
    times: Times | None
    memory: float


def cases(problems: Sequence[str], operations: Sequence[str]) -> list[Case]:
    """The rows of these problems and operations; the plain gradient is the first of each problem."""
    found = []
    for name in problems:
        found += [Case(name, RECIPES[name].samples, operation) for operation in (GRADIENT, *operations)]
        samples, names = MORE_SAMPLES.get(name, (0, ()))
        more = [operation for operation in operations if operation in names]
        found += [Case(name, samples, operation) for operation in (GRADIENT, *more) if more]
    return found


def rows(todo: Sequence[Case], rounds: int, *, processes_of_their_own: bool) -> Iterator[Row]:
    """The figures of each case: memory first, two processes at a time, then times, with nothing beside them."""
    groups = [list(group) for _, group in groupby(todo, key=lambda case: case if processes_of_their_own else case[:2])]
    with ThreadPoolExecutor(2) as pool:
        memories = [memory for group in pool.map(_memories, groups) for memory in group]
    for case, memory in zip(todo, memories, strict=True):
        found = problem(case.problem, case.samples)
        times = None
        if case.operation != GRADIENT and case.samples == RECIPES[case.problem].samples:
            _report(f"time of {case.operation} on {case.problem}")
            times = operation_times(found, OPERATIONS[case.operation](found), rounds)
        yield Row(case, dimension(found.params), times, memory)


def line(row: Row) -> str:
    """The row as text, with a dash for what is not measured."""
    name, samples, operation = row.case
    times = ["-"] * 3 if row.times is None else [f"{figure:.2f}" for figure in row.times]
    return aligned([name, f"{samples}", f"{row.dimension:,}", operation, *times, f"{row.memory:.1f}"])


def aligned(cells: Sequence[str]) -> str:
    """The cells in columns of fixed width."""
    return "  ".join(format(cell, spec) for cell, spec in zip(cells, COLUMNS.values(), strict=True))


def _memories(group: Sequence[Case]) -> list[float]:
    name, samples, _ = group[0]
    operations = [case.operation for case in group]
    _report(f"memory of {', '.join(operations)} on {name}, {samples} samples")
    return peak_memories(name, samples, operations)


def _report(text: str) -> None:
    sys.stderr.write(f"{text}\n")
