"""Comparisons of two sides, and the loop that measures them. The tables figures, inverses and targets consist of them."""

from collections.abc import Callable, Iterable, Iterator
from typing import Annotated, Any, NamedTuple

from torch import Tensor

from benchmarks.agreement import Agreement, solved
from benchmarks.cases.problems import RECIPES, Problem, problem_named, vectors
from benchmarks.contestants import Multiplication, NotOffered, reason
from benchmarks.memory import peak_memories
from benchmarks.plan import Plan, progress
from benchmarks.report import Column, Difference, Milliseconds, PeakMemory, Ratio, Remark
from benchmarks.times import Call, Effort, in_turn

Side = Callable[[Problem, str, Tensor], Call | Multiplication]
"""From a problem, the name of an operation, and v to a call. A multiplication says how its result becomes a tensor."""


class Comparison(NamedTuple):
    """What is compared, not yet measured.

    Attributes:
        name: the figure.
        problem: its name.
        operation: its name.
        over: what their side does, in words.
        ours: one side.
        theirs: the other side.
        same: says whether the results of both sides are the same numbers; None where they are not meant to be.
        vectors: the number of vectors, `(K, D)`; 0 for one vector `(D,)`.
        at_most: the target of the ratio, if there is one.
        samples: the size of the batch; by default the size in the recipe.
        memory: the name in `benchmarks.memory` of the call whose peak memory is measured, if any.
    """

    name: str
    problem: str
    operation: str
    over: str
    ours: Side
    theirs: Side
    same: Agreement | None = solved
    vectors: int = 0
    at_most: float | None = None
    samples: int | None = None
    memory: str | None = None


class Figure(NamedTuple):
    """A measured comparison: a row of a table."""

    figure: Annotated[str, Column("<14")]
    problem: Annotated[str, Column("<14")]
    operation: Annotated[str, Column("<28")]
    over: Annotated[str, Column("<39")]
    ratio: Ratio = None
    at_most: Annotated[float | None, Column(">7.2f", "at most")] = None
    met: Annotated[str | None, Column("<3")] = None
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
    figure = Figure(*comparison[:4], at_most=comparison.at_most)
    try:
        return _measured(comparison, figure, effort)
    except NotMeasured as error:
        return figure._replace(remark=str(error))
    except NotOffered:
        return figure._replace(remark="not offered")
    except Exception as error:  # any failure of a side is a result
        return figure._replace(remark=f"failed: {reason(error)}")


def judged(figure: Figure) -> Figure:
    """The figure with the word whether its ratio meets its target."""
    if figure.ratio is None or figure.at_most is None:
        return figure
    return figure._replace(met="yes" if figure.ratio <= figure.at_most else "no")


def _measured(comparison: Comparison, figure: Figure, effort: Effort) -> Figure:
    samples = comparison.samples or RECIPES[comparison.problem].samples
    problem = problem_named(comparison.problem, samples)
    v = vectors(problem, *([comparison.vectors] if comparison.vectors else []))
    sides = [_multiplication(side(problem, comparison.operation, v)) for side in (comparison.ours, comparison.theirs)]
    results: dict[int, Any] = {}
    turns = in_turn([_kept(side.call, results, i) for i, side in enumerate(sides)], effort)
    if comparison.same:
        ours, theirs = (side.flat(results[i]) for i, side in enumerate(sides))
        difference, remark = comparison.same(theirs, ours, v, comparison.operation)
        figure = figure._replace(differ_by=difference, remark=remark)
        if remark:
            return figure
    figure = figure._replace(ratio=turns.ratio(0, 1), ms=1000 * turns.median(0), theirs_ms=1000 * turns.median(1))
    if comparison.memory is None:
        return judged(figure)
    return judged(figure._replace(peak=peak_memories(comparison.problem, samples, [comparison.memory])[0]))


def _multiplication(side: Call | Multiplication) -> Multiplication:
    return side if isinstance(side, Multiplication) else Multiplication(side, lambda result: result)


def _kept(call: Call, results: dict[int, Any], side: int) -> Call:
    """The call, which also keeps its result: a further call to compare the numbers may take a minute."""
    return lambda: results.update({side: call()})
