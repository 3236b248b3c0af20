"""Comparisons of two sides, and the loop that measures them. The tables `figures` and `inverses` are lists of comparisons."""

from collections.abc import Callable, Iterable, Iterator
from typing import Annotated, Any, NamedTuple

from torch import Tensor

from benchmarks.cases.problems import RECIPES, Problem, problem_named
from benchmarks.memory import peak_memories
from benchmarks.plan import Plan, progress
from benchmarks.report import Column, Difference, Milliseconds, PeakMemory, Ratio, Remark
from benchmarks.times import Call, Effort, in_turn

AGREEMENT = 0.01
"""Two sides give the same number if they differ by at most this share of its norm: solves stop at a residual of 0.001."""

Side = Callable[[Problem, str], Callable[[], Any]]
"""From a problem and the name of an operation to a call."""


class Comparison(NamedTuple):
    """What is compared, not yet measured.

    Attributes:
        name: the figure.
        problem: its name.
        operation: its name.
        over: what their side does, in words.
        ours: one side.
        theirs: the other side.
        same: whether the calls of both sides return the same numbers, and the loop compares them.
        samples: the size of the batch; by default the size in the recipe.
        memory: the name in `benchmarks.memory` of the call whose peak memory is measured, if any.
    """

    name: str
    problem: str
    operation: str
    over: str
    ours: Side
    theirs: Side
    same: bool = True
    samples: int | None = None
    memory: str | None = None


class Figure(NamedTuple):
    """A measured comparison: a row of a table."""

    figure: Annotated[str, Column("<12")]
    problem: Annotated[str, Column("<11")]
    operation: Annotated[str, Column("<28")]
    over: Annotated[str, Column("<39")]
    ratio: Ratio = None
    ms: Milliseconds = None
    theirs_ms: Milliseconds = None
    differ_by: Difference = None
    peak: PeakMemory = None
    remark: Remark = None


class NotMeasured(Exception):  # noqa: N818 - it is a result
    """A side cannot be measured on this machine. The text says why, and becomes the remark."""


def figures(comparisons: Iterable[Comparison], plan: Plan) -> Iterator[Figure]:
    """The figure of each comparison that the plan asks for; a quick plan asks for the problem tiny alone."""
    for comparison in comparisons:
        asked = comparison.problem in plan.problems and comparison.operation in plan.operations
        if asked and (comparison.problem == "tiny" or not plan.quick):
            progress(f"{comparison.name}: {comparison.operation} on {comparison.problem} over {comparison.over}")
            yield measured(comparison, plan.effort)


def measured(comparison: Comparison, effort: Effort) -> Figure:
    """The figure of a comparison, without its times if the sides should give the same number and do not."""
    name, operation = comparison.problem, comparison.operation
    samples = comparison.samples or RECIPES[name].samples
    problem = problem_named(name, samples)
    figure = Figure(comparison.name, name, operation, comparison.over)
    results: dict[str, Any] = {}
    try:
        ours = _kept(comparison.ours(problem, operation), results, "ours")
        theirs = _kept(comparison.theirs(problem, operation), results, "theirs")
    except NotMeasured as reason:
        return figure._replace(remark=str(reason))
    turns = in_turn([ours, theirs], effort)
    if comparison.same:
        figure = figure._replace(differ_by=_difference(**results))
        if not figure.differ_by <= AGREEMENT:
            return figure._replace(remark="another number")
    figure = figure._replace(ratio=turns.ratio(0, 1), ms=1000 * turns.median(0), theirs_ms=1000 * turns.median(1))
    if comparison.memory is None:
        return figure
    return figure._replace(peak=peak_memories(name, samples, [comparison.memory])[0])


def _kept(call: Call, results: dict[str, Any], side: str) -> Call:
    """The call, which also keeps its result: a further call to compare the numbers may take a minute."""
    return lambda: results.update({side: call()})


def _difference(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).norm() / ours.norm())
