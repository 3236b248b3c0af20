"""How time and peak memory grow with the samples n, the parameters D and the vectors K, on perceptrons."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Annotated, NamedTuple

from benchmarks.cases.models import perceptron
from benchmarks.cases.operations import GRADIENT, OPERATIONS, product
from benchmarks.cases.problems import (
    RECIPES,
    Problem,
    dimension,
    plain_gradient,
    problem_named,
    problem_of,
    vectors,
)
from benchmarks.memory import peak_memories
from benchmarks.plan import Plan, progress
from benchmarks.report import Column, PeakMemory, Table, columns
from benchmarks.times import Call, in_turn

OURS = "ours"

GROWING = ("hessian", "gauss_newton", "inverse_harmonic_mean", "generalized_gauss_newton")

RIVAL = "pydvl"
"""The contestant whose curves are shown too."""

MOST_HELD = 2e8
"""The rival is measured only while n × D is at most this, as it holds the gradients: 0.8 GB, three times while multiplying."""

ABOUT = (
    "time in plain gradients of the problem mlp, taken in turn, and in ms; or peak memory in MB of 10⁶ bytes, over what was "
    "resident before, which includes the vectors"
)

SIZES = {
    "time, n": (16, 32, 64, 128, 256, 512),
    "time, D": (64, 128, 256, 512, 1024),
    "time, K": (1, 2, 4, 8, 16, 32),
    "memory, n × D": (64, 128, 256, 512, 1024, 2048),
    "memory, K": (1, 2, 4, 8, 16, 32, 64),
}
"""The numbers of samples, widths and numbers of vectors on each axis. A quick run takes the first four."""


class Place(NamedTuple):
    """A size at which everything is measured: the axis, the problem, and the number of vectors."""

    axis: str
    problem: Problem
    K: int


class Point(NamedTuple):
    """A row: one operation of one contestant at one place."""

    axis: Annotated[str, Column("<14")]
    contestant: Annotated[str, Column("<10")]
    operation: Annotated[str, Column("<24")]
    n: Annotated[int, Column(">5")]
    D: Annotated[int, Column(">9")]
    K: Annotated[int, Column(">3")]
    gradients: Annotated[float | None, Column(">9.2f")] = None
    ms: Annotated[float | None, Column(">9.2f")] = None
    peak: PeakMemory = None


def growth_table(plan: Plan) -> Table:
    """A row for each point of each curve; no rows without the problem mlp."""
    return Table("growth", ABOUT, columns(Point), _rows(plan) if "mlp" in plan.problems else [])


def places(what: str, *, quick: bool) -> Iterator[Place]:
    """The places where the time, or the memory, is measured."""
    for axis, sizes in SIZES.items():
        if axis.startswith(what):
            yield from (_place(axis, size) for size in sizes[: 4 if quick else None])


def _place(axis: str, size: int) -> Place:
    if axis.endswith("K"):
        return Place(axis, problem_named("mlp"), size)
    if axis == "time, D":
        recipe = RECIPES["mlp"]._replace(model=partial(perceptron, 784, size, size, 10))
        return Place(axis, problem_of("mlp", recipe), 1)
    return Place(axis, problem_named("mlp", size), 1)


def points(place: Place, plan: Plan) -> list[Point]:
    """The rows of a place, not yet measured."""
    n, numbers = len(place.problem.batch[1]), dimension(place.problem)
    operations = [operation for operation in GROWING if operation in plan.operations]
    theirs = {} if plan.quick else plan.field.products.get(RIVAL, {})
    fitting = [name for name in operations if name in theirs and (name == "hessian" or n * numbers <= MOST_HELD)]
    curves = [(OURS, name) for name in (GRADIENT, *operations)] + [(RIVAL, name) for name in fitting]
    return [Point(place.axis, *curve, n, numbers, place.K) for curve in curves]


def _rows(plan: Plan) -> Iterator[Point]:
    for place in places("time", quick=plan.quick):
        for point in points(place, plan):
            progress(f"{point.axis}: {point.contestant} {point.operation}, {point.n} samples, {point.K} vectors")
            turns = in_turn([_call(point, place.problem, plan), plain_gradient(problem_named("mlp"))], plan.effort)
            yield point._replace(gradients=turns.ratio(0, 1), ms=1000 * turns.median(0))
    with ThreadPoolExecutor(2) as pool:
        for rows in pool.map(partial(_measured, plan=plan), places("memory", quick=plan.quick)):
            yield from rows


def _call(point: Point, problem: Problem, plan: Plan) -> Call:
    if point.operation == GRADIENT:
        return plain_gradient(problem)
    v = vectors(problem, point.K)
    if point.contestant == OURS:
        return product(OPERATIONS[point.operation](problem), problem, v)
    return plan.field.products[point.contestant][point.operation](problem, v).call


def _measured(place: Place, plan: Plan) -> list[Point]:
    """The rows of a place with their peak memory, measured in one process."""
    rows = points(place, plan)
    progress(f"{place.axis}: {rows[0].n} samples, {place.K} vectors")
    names = [row.operation if row.contestant == OURS else f"{row.contestant}/{row.operation}" for row in rows]
    peaks = peak_memories("mlp", rows[0].n, names, place.K)
    return [row._replace(peak=peak) for row, peak in zip(rows, peaks, strict=True)]
