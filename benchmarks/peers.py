"""Every operation against every contestant that has it, once it is certain that both give the same number."""

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from benchmarks.contestants import Multiplication, NotOffered
from benchmarks.operations import OPERATIONS, REGULARIZATION
from benchmarks.operations_table import VECTORS
from benchmarks.problems import RECIPES, Problem, dimension, plain_gradient, problem, vectors
from benchmarks.report import Row, Table
from benchmarks.sections import Plan, progress
from benchmarks.times import Effort, in_turn

TOLERANCE = 1e-4
"""Float32 products of the same number, by sums in another order, differ by some 1e-7 to 1e-5 of their norm."""

LAST_DIGITS = 2 * torch.finfo(torch.float32).eps
"""Neither are products another number that differ by so much of their norm, where only a small part of it is compared."""

COLUMNS = {
    "problem": "<11",
    "n": ">5",
    "D": ">9",
    "vectors": ">3",
    "operation": "<24",
    "contestant": "<11",
    "ours": ">7.2f",
    "theirs": ">7.2f",
    "ours / theirs": ">7.3f",
    "differ by": ">7.0e",
    "remark": "<0",
}

ABOUT = (
    "time as a multiple of one plain gradient, and ours over theirs, taken in turn; each is given v in a form of its own, "
    "ours flat; the products differ by so much of their norm, and what is not the same number is not timed"
)

VARYING: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "inverse_harmonic_mean": lambda product, v: product * REGULARIZATION - v,
}
"""The part of a product to be compared, where most of it is the vector itself."""


def peers_table(plan: Plan) -> Table:
    """A row for each problem, operation and contestant, of one vector and of many."""
    return Table("peers", ABOUT, COLUMNS, _rows(plan))


def _rows(plan: Plan) -> Iterator[Row]:
    for name in plan.problems:
        found = problem(name)
        for count in (0, VECTORS) if RECIPES[name].many and not (plan.quick and dimension(found.params) > 1e5) else (0,):
            for operation in plan.operations:
                for contestant, products in plan.field.products.items():
                    if operation in products:
                        start = {"problem": name, "n": len(found.batch[1]), "D": dimension(found.params)}
                        named = {"vectors": count or 1, "operation": operation, "contestant": contestant}
                        v = vectors(found, *([count] if count else []))
                        progress(f"{operation} on {name}, {count or 1} vectors, against {contestant}")
                        try:
                            figures = against(found, operation, partial(products[operation], found, v), v, plan.effort)
                        except NotOffered:
                            continue
                        yield {**dict.fromkeys(COLUMNS), **start, **named, **figures}


def against(found: Problem, operation: str, theirs: Callable[[], Multiplication], v: Tensor, effort: Effort) -> Row:
    """The figures of an operation against one contestant.

    Raises:
        NotOffered: if it has no such product on this problem.
    """
    op = OPERATIONS[operation](found)
    point = found.params, found.buffers, found.batch

    try:
        multiplication = theirs()
        product = multiplication.flat(multiplication.call())
    except NotOffered:
        raise
    except Exception as error:  # theirs, whatever it be, is a result
        return {"remark": f"failed: {type(error).__name__}: {error}".splitlines()[0][:100]}
    difference, remark = compared(product, op(*point, v), v, operation)
    if remark:
        return {"differ by": difference, "remark": remark}
    turns = in_turn([lambda: op(*point, v), multiplication.call, plain_gradient(found)], effort)
    times: Row = {"ours": turns.ratio(0, 2), "theirs": turns.ratio(1, 2), "ours / theirs": turns.ratio(0, 1)}
    return {**times, "differ by": difference}


def compared(theirs: Tensor, ours: Tensor, v: Tensor, operation: str) -> tuple[float | None, str]:
    """How much two products differ, over the norm of ours, and a remark if that is more than rounding."""
    if theirs.shape != ours.shape:
        return None, f"another shape, {tuple(theirs.shape)} and not {tuple(ours.shape)}: not timed"
    part = VARYING.get(operation, lambda product, _: product)
    size = float(ours.norm())
    theirs, ours = (part(product.detach().double(), v.double()).flatten() for product in (theirs, ours))
    distance = float((theirs - ours).norm())
    difference = distance / float(ours.norm())
    if difference <= TOLERANCE or distance <= LAST_DIGITS * size:
        return difference, ""
    factor = float(theirs @ ours / (ours @ ours))
    if float((theirs - factor * ours).norm()) <= TOLERANCE * float(theirs.norm()):
        return difference, f"another number, {factor:.4g} times ours: not timed"
    return difference, "another number: not timed"
