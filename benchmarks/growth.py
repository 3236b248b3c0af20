"""How time and peak memory grow with the samples n, the parameters D and the vectors K, on perceptrons."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

from benchmarks.contestants import NotOffered
from benchmarks.memory import peak_memories
from benchmarks.operations import OPERATIONS
from benchmarks.problems import RECIPES, Problem, dimension, made, perceptron, plain_gradient, problem, vectors
from benchmarks.report import Row, Table
from benchmarks.sections import GRADIENT, Plan, progress
from benchmarks.times import Call, in_turn

OURS = "ours"

GROWING = ("hessian", "gauss_newton", "inverse_harmonic_mean", "generalized_gauss_newton")

RIVAL = "pydvl"
"""The contestant whose curves are shown as well."""

MOST_HELD = 2e8
"""No contestant that holds n × D numbers is asked to hold more: 0.8 GB, three times over while it multiplies."""

COLUMNS = {
    "axis": "<14",
    "contestant": "<10",
    "operation": "<24",
    "n": ">5",
    "D": ">9",
    "K": ">3",
    "gradients": ">9.2f",
    "ms": ">9.2f",
    "peak MB": ">9.1f",
}

ABOUT = (
    "time in plain gradients of the problem mlp, taken in turn, and in ms; or peak memory in MB of 10⁶ bytes, over what was "
    "resident before, the vectors among it"
)

SAMPLES = (16, 32, 64, 128, 256, 512)
WIDTHS = (64, 128, 256, 512, 1024)
VECTORS = (1, 2, 4, 8, 16, 32)
MEMORY_SAMPLES = (64, 128, 256, 512, 1024, 2048)
MEMORY_VECTORS = (1, 2, 4, 8, 16, 32, 64)


class Point(NamedTuple):
    """One point of the curves: on which axis, the problem, and how many vectors."""

    axis: str
    problem: Problem
    vectors: int


def growth_table(plan: Plan) -> Table:
    """A row for each point of each curve; without the problem mlp there is none."""
    return Table("growth", ABOUT, COLUMNS, _rows(plan) if "mlp" in plan.problems else [])


def points(*, quick: bool) -> Iterator[Point]:
    """The points whose time is taken: in a quick run the first four of each axis."""
    sizes = slice(4 if quick else None)
    for samples in SAMPLES[sizes]:
        yield Point("time, n", problem("mlp", samples), 1)
    for width in WIDTHS[sizes]:
        recipe = RECIPES["mlp"]._replace(model=partial(perceptron, 784, width, width, 10))
        yield Point("time, D", made("mlp", recipe), 1)
    for count in VECTORS[sizes]:
        yield Point("time, K", problem("mlp"), count)


def _rows(plan: Plan) -> Iterator[Row]:
    operations = [operation for operation in GROWING if operation in plan.operations]
    for point in points(quick=plan.quick):
        for contestant, operation in _curves(plan, operations):
            found = point.problem
            try:
                call = _call(contestant, operation, point, plan)
            except NotOffered:
                continue
            progress(f"{point.axis}: {contestant} {operation}, {len(found.batch[1])} samples, {point.vectors} vectors")
            turns = in_turn([call, plain_gradient(problem("mlp"))], plan.effort)
            figures: Row = {"gradients": turns.ratio(0, 1), "ms": 1000 * turns.median(0)}
            yield _row(point.axis, contestant, operation, found, point.vectors) | figures
    sizes = slice(4 if plan.quick else None)
    places = [("memory, n × D", samples, 1) for samples in MEMORY_SAMPLES[sizes]]
    places += [("memory, K", RECIPES["mlp"].samples, count) for count in MEMORY_VECTORS[sizes]]
    with ThreadPoolExecutor(2) as pool:
        for rows in pool.map(lambda place: _memories(*place, plan, operations), places):
            yield from rows


def _curves(plan: Plan, operations: list[str]) -> list[tuple[str, str]]:
    theirs = {} if plan.quick else plan.field.products.get(RIVAL, {})
    rival = [(RIVAL, operation) for operation in operations if operation in theirs]
    return [(OURS, GRADIENT), *((OURS, operation) for operation in operations), *rival]


def _call(contestant: str, operation: str, point: Point, plan: Plan) -> Call:
    found, v = point.problem, vectors(point.problem, point.vectors)
    if operation == GRADIENT:
        return plain_gradient(found)
    if contestant != OURS:
        if _too_large(found, operation):
            raise NotOffered
        return plan.field.products[contestant][operation](found, v).call
    op = OPERATIONS[operation](found)
    return lambda: op(found.params, found.buffers, found.batch, v)


def _memories(axis: str, samples: int, count: int, plan: Plan, operations: list[str]) -> list[Row]:
    """One process for all at this size."""
    found = problem("mlp", samples)
    curves = [curve for curve in _curves(plan, operations) if curve[0] == OURS or not _too_large(found, curve[1])]
    progress(f"{axis}: {samples} samples, {count} vectors")
    names = [operation if contestant == OURS else f"{contestant}/{operation}" for contestant, operation in curves]
    peaks = peak_memories("mlp", samples, names, count)
    return [_row(axis, *curve, found, count) | {"peak MB": peak} for curve, peak in zip(curves, peaks, strict=True)]


def _too_large(found: Problem, operation: str) -> bool:
    return operation != "hessian" and len(found.batch[1]) * dimension(found.params) > MOST_HELD


def _row(axis: str, contestant: str, operation: str, found: Problem, count: int) -> Row:
    sizes = {"n": len(found.batch[1]), "D": dimension(found.params), "K": count}
    return {**dict.fromkeys(COLUMNS), "axis": axis, "contestant": contestant, "operation": operation, **sizes}
