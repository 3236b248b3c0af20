"""What every operation costs on every problem: time in plain gradients, and peak memory."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from typing import Annotated, NamedTuple

from benchmarks.cases.operations import GRADIENT, OPERATIONS, product
from benchmarks.cases.problems import RECIPES, Problem, dimension, plain_gradient, problem_named, tabled, vectors
from benchmarks.memory import peak_memories
from benchmarks.plan import Plan, progress
from benchmarks.report import Column, Gradients, PeakMemory, Table, columns
from benchmarks.times import Effort, in_turn

VECTORS = 16

MORE_SAMPLES = {"mlp": (1024, ("gauss_newton", "inverse_harmonic_mean"))}
"""Here the memory alone is measured: the gradients of all samples, held at once, would take 2.7 GB."""

ABOUT = (
    "time as a multiple of one plain gradient: of op(params, buffers, batch, v), of the product alone with op.at done before, "
    f"and of each of {VECTORS} vectors in one call; then that call over {VECTORS} calls with one; peak memory over what was "
    "resident before, in MB of 10⁶ bytes"
)


class Case(NamedTuple):
    """A row that will be measured."""

    problem: str
    samples: int
    operation: str


class Cost(NamedTuple):
    """A row."""

    problem: Annotated[str, Column("<11")]
    n: Annotated[int, Column(">5")]
    D: Annotated[int, Column(">9")]
    operation: Annotated[str, Column("<28")]
    gradient_ms: Annotated[float | None, Column(">7.2f")] = None
    one: Annotated[float | None, Column(">7.2f", "op(v)")] = None
    product_alone: Gradients = None
    each: Annotated[float | None, Column(">7.2f", f"{VECTORS} vectors, each")] = None
    over: Annotated[float | None, Column(">7.2f", f"over {VECTORS} op(v)")] = None
    peak: PeakMemory = None


def operations_table(plan: Plan) -> Table:
    """A row for each operation and problem. The plain gradient is the first row of each problem."""
    return Table("operations", ABOUT, columns(Cost), _rows(cases(plan.problems, plan.operations), plan))


def cases(problems: Sequence[str], operations: Sequence[str]) -> list[Case]:
    """The rows of these problems and operations."""
    rows = []
    for name in tabled(problems):
        rows += [Case(name, RECIPES[name].samples, operation) for operation in (GRADIENT, *operations)]
        samples, names = MORE_SAMPLES.get(name, (0, ()))
        more = [operation for operation in operations if operation in names]
        rows += [Case(name, samples, operation) for operation in (GRADIENT, *more) if more]
    return rows


def _rows(todo: Sequence[Case], plan: Plan) -> Iterator[Cost]:
    """The cost of each case: memory first, two processes at a time, then times, while nothing else runs."""
    groups = [list(group) for _, group in groupby(todo, key=lambda case: case[:2] if plan.quick else case)]
    with ThreadPoolExecutor(2) as pool:
        peaks = [peak for group in pool.map(_peaks, groups) for peak in group]
    for case, peak in zip(todo, peaks, strict=True):
        problem = problem_named(case.problem, case.samples)
        cost = Cost(case.problem, case.samples, dimension(problem), case.operation, peak=peak)
        yield _timed(cost, problem, plan.effort) if case.samples == RECIPES[case.problem].samples else cost


def _timed(cost: Cost, problem: Problem, effort: Effort) -> Cost:
    """The row with its times, all taken in turn."""
    gradient = plain_gradient(problem)
    if cost.operation == GRADIENT:
        return cost._replace(gradient_ms=1000 * in_turn([gradient], effort).median(0))
    progress(f"time of {cost.operation} on {cost.problem}")
    op, v = OPERATIONS[cost.operation](problem), vectors(problem)
    alone = op.at(problem.params, problem.buffers, problem.batch)
    calls = [gradient, product(op, problem, v), lambda: alone(v)]
    if not RECIPES[problem.name].many:
        turns = in_turn(calls, effort)
        return cost._replace(one=turns.ratio(1, 0), product_alone=turns.ratio(2, 0))
    turns = in_turn([*calls, product(op, problem, vectors(problem, VECTORS))], effort)
    each, over = turns.ratio(3, 0) / VECTORS, turns.ratio(3, 1) / VECTORS
    return cost._replace(one=turns.ratio(1, 0), product_alone=turns.ratio(2, 0), each=each, over=over)


def _peaks(group: Sequence[Case]) -> list[float]:
    name, samples, _ = group[0]
    operations = [case.operation for case in group]
    progress(f"memory of {', '.join(operations)} on {name}, {samples} samples")
    return peak_memories(name, samples, operations)
