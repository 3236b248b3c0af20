"""What every operation costs on every problem: time in plain gradients, and peak memory."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from typing import NamedTuple

from benchmarks.memory import peak_memories
from benchmarks.operations import OPERATIONS
from benchmarks.problems import RECIPES, Problem, dimension, plain_gradient, problem, vectors
from benchmarks.report import Row, Table
from benchmarks.sections import GRADIENT, Plan, progress
from benchmarks.times import Effort, in_turn
from pure_batchops import Operation

VECTORS = 16
EACH, OVER = f"{VECTORS} vectors, each", f"over {VECTORS} op(v)"

MORE_SAMPLES = {"mlp": (1024, ("gauss_newton", "inverse_harmonic_mean"))}
"""Memory alone is measured there too: the gradients of all samples, held at once, would be 2.7 GB."""

COLUMNS = {
    "problem": "<11",
    "n": ">5",
    "D": ">9",
    "operation": "<28",
    "gradient ms": ">7.2f",
    "op(v)": ">7.2f",
    "product alone": ">7.2f",
    EACH: ">7.2f",
    OVER: ">7.2f",
    "peak MB": ">7.1f",
}

ABOUT = (
    "time as a multiple of one plain gradient: of op(params, buffers, batch, v), of the product alone with op.at done before, "
    f"and of each of {VECTORS} vectors in one call, then over so many calls with one; peak memory over what was resident "
    "before, in MB of 10⁶ bytes"
)


class Case(NamedTuple):
    """A row to be measured."""

    problem: str
    samples: int
    operation: str


def operations_table(plan: Plan) -> Table:
    """A row for each operation and problem; the plain gradient is the first of each problem."""
    return Table("operations", ABOUT, COLUMNS, _rows(cases(plan.problems, plan.operations), plan))


def cases(problems: Sequence[str], operations: Sequence[str]) -> list[Case]:
    """The rows of these problems and operations."""
    found = []
    for name in problems:
        found += [Case(name, RECIPES[name].samples, operation) for operation in (GRADIENT, *operations)]
        samples, names = MORE_SAMPLES.get(name, (0, ()))
        more = [operation for operation in operations if operation in names]
        found += [Case(name, samples, operation) for operation in (GRADIENT, *more) if more]
    return found


def _rows(todo: Sequence[Case], plan: Plan) -> Iterator[Row]:
    """The figures of each case: memory first, two processes at a time, then times, with nothing beside them."""
    groups = [list(group) for _, group in groupby(todo, key=lambda case: case[:2] if plan.quick else case)]
    with ThreadPoolExecutor(2) as pool:
        memories = [memory for group in pool.map(_memories, groups) for memory in group]
    for case, memory in zip(todo, memories, strict=True):
        found = problem(case.problem, case.samples)
        times: Row = {}
        if case.samples == RECIPES[case.problem].samples:
            times = _times(found, case.operation, plan.effort)
        start = {"problem": case.problem, "n": case.samples, "D": dimension(found.params), "operation": case.operation}
        yield {**dict.fromkeys(COLUMNS), **start, **times, "peak MB": memory}


def _times(found: Problem, operation: str, effort: Effort) -> Row:
    gradient = plain_gradient(found)
    if operation == GRADIENT:
        return {"gradient ms": 1000 * in_turn([gradient], effort).median(0)}
    progress(f"time of {operation} on {found.name}")
    return operation_times(found, OPERATIONS[operation](found), effort)


def operation_times(found: Problem, op: Operation, effort: Effort) -> Row:
    """The times of an operation, all taken in turn."""
    point = found.params, found.buffers, found.batch
    one, many = vectors(found), vectors(found, VECTORS)
    product = op.at(*point)
    calls = [plain_gradient(found), lambda: op(*point, one), lambda: product(one)]
    several = RECIPES[found.name].many
    turns = in_turn([*calls, lambda: op(*point, many)] if several else calls, effort)
    row: Row = {"op(v)": turns.ratio(1, 0), "product alone": turns.ratio(2, 0)}
    if several:
        row |= {EACH: turns.ratio(3, 0) / VECTORS, OVER: turns.ratio(3, 1) / VECTORS}
    return row


def _memories(group: Sequence[Case]) -> list[float]:
    name, samples, _ = group[0]
    operations = [case.operation for case in group]
    progress(f"memory of {', '.join(operations)} on {name}, {samples} samples")
    return peak_memories(name, samples, operations)
