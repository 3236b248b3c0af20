"""Every operation against every contestant that has it, once both are known to give the same number."""

from collections.abc import Callable, Iterator
from typing import Annotated, NamedTuple

from torch import Tensor

from benchmarks.agreement import compared
from benchmarks.cases.operations import OPERATIONS, product
from benchmarks.cases.problems import RECIPES, Problem, dimension, plain_gradient, problem_named, tabled, vectors
from benchmarks.contestants import Multiplication, NotOffered, reason
from benchmarks.plan import Plan, progress
from benchmarks.report import Column, Difference, Gradients, Remark, Table, columns
from benchmarks.tables.operations import VECTORS
from benchmarks.times import Effort, in_turn

ABOUT = (
    "time as a multiple of one plain gradient, and ours over theirs, taken in turn; each takes v in its own form, ours flat; "
    "the products differ by this share of their norm; another number is not timed"
)


class Match(NamedTuple):
    """A row: one product against one contestant."""

    problem: Annotated[str, Column("<11")]
    n: Annotated[int, Column(">5")]
    D: Annotated[int, Column(">9")]
    vectors: Annotated[int, Column(">3")]
    operation: Annotated[str, Column("<24")]
    contestant: Annotated[str, Column("<11")]
    ours: Gradients = None
    theirs: Gradients = None
    ratio: Annotated[float | None, Column(">7.3f", "ours / theirs")] = None
    differ_by: Difference = None
    remark: Remark = None


def peers_table(plan: Plan) -> Table:
    """A row for each problem, operation and contestant, with one vector and with many."""
    return Table("peers", ABOUT, columns(Match), _rows(plan))


def _rows(plan: Plan) -> Iterator[Match]:
    for problem, v in _problems(plan):
        for operation in plan.operations:
            for contestant, products in plan.field.products.items():
                if operation in products:
                    count = len(v) if v.ndim > 1 else 1
                    match = Match(problem.name, len(problem.batch[1]), dimension(problem), count, operation, contestant)
                    progress(f"{operation} on {problem.name}, {count} vectors, against {contestant}")
                    try:
                        yield measured(match, problem, products[operation], v, plan.effort)
                    except NotOffered:
                        continue


def _problems(plan: Plan) -> Iterator[tuple[Problem, Tensor]]:
    """Each problem with one vector, and with many unless that takes too long."""
    for name in tabled(plan.problems):
        problem = problem_named(name)
        yield problem, vectors(problem)
        if RECIPES[name].many and not (plan.quick and dimension(problem) > 1e5):
            yield problem, vectors(problem, VECTORS)


def measured(
    match: Match, problem: Problem, theirs: Callable[[Problem, Tensor], Multiplication], v: Tensor, effort: Effort
) -> Match:
    """The row with its figures.

    Raises:
        NotOffered: if the contestant has no such product on this problem.
    """
    ours = product(OPERATIONS[match.operation](problem), problem, v)
    try:
        multiplication = theirs(problem, v)
        their_product = multiplication.flat(multiplication.call())
    except NotOffered:
        raise
    except Exception as error:  # any failure of theirs is a result
        return match._replace(remark=f"failed: {reason(error)}")
    difference, remark = compared(their_product, ours(), v, match.operation)
    match = match._replace(differ_by=difference, remark=remark)
    if remark:
        return match
    turns = in_turn([ours, multiplication.call, plain_gradient(problem)], effort)
    return match._replace(ours=turns.ratio(0, 2), theirs=turns.ratio(1, 2), ratio=turns.ratio(0, 1))
