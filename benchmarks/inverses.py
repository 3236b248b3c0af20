"""What a solve and an influence cost, one row each, over what they replace, and their peak memory."""

from collections.abc import Callable, Iterator
from pkgutil import resolve_name
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks.memory import peak_memories
from benchmarks.operations import OPERATIONS
from benchmarks.problems import Problem, members, problem, vectors
from benchmarks.report import Row, Table
from benchmarks.sections import Plan, progress
from benchmarks.times import Call, in_turn
from pure_batchops import (
    Operation,
    averaged,
    conjugate_gradient,
    conjugate_gradient_solution,
    influence,
    stack_states,
)
from pure_batchops.operations.operation import with_at

STEPS = 10
MEMBERS = 16
SAMPLES, TEST_SHARE, BATCHES = 1_100, 11, 8
"""Of the samples one in so many is a test point, the others come in so many batches."""

DAMPING = 1.0
"""Makes the Hessians positive definite."""

TOLERANCE = 1e-3

COLUMNS = {
    "figure": "<9",
    "problem": "<7",
    "operation": "<24",
    "over": "<39",
    "ratio": ">7.3f",
    "ms": ">9.2f",
    "theirs ms": ">9.2f",
    "differ by": ">7.0e",
    "peak MB": ">7.1f",
    "remark": "<0",
}

ABOUT = (
    f"{STEPS} steps of conjugate gradients over as many whose products begin anew; those of {MEMBERS} members in one call of "
    "vmap over those of one; the influence of 1,000 points in 8 batches on 100 over pyDVL's, and its peak memory in MB of 10⁶ "
    "bytes"
)

Side = Callable[[Problem, str], Callable[[], Tensor]]


class Figure(NamedTuple):
    """A row: the calls of ours and theirs return the same numbers, or are of different amounts of work."""

    name: str
    problem: str
    operation: str
    over: str
    ours: Side
    theirs: Side
    same: bool = True
    contestant: str | None = None
    samples: int | None = None
    measured: str | None = None


def inverses_table(plan: Plan) -> Table:
    """A row for each figure whose problem, operation and contestant are there."""
    return Table("inverses", ABOUT, COLUMNS, _rows(plan))


def figures() -> list[Figure]:
    """All of them."""
    found = [
        Figure("at", name, operation, f"{STEPS} steps that begin anew", _solve, _solve_anew)
        for name in ("tiny", "mlp", "cnn")
        for operation in ("hessian", "gauss_newton", "generalized_gauss_newton")
    ]
    found += [
        Figure("ensemble", "tiny", operation, "the solve of one member", _solve_of_all, _solve, same=False)
        for operation in ("hessian", "generalized_gauss_newton")
    ]
    return found + [
        Figure(
            "influence",
            "mlp",
            operation,
            f"pyDVL's {theirs}",
            _influence,
            _influence_by_pydvl,
            contestant="pydvl",
            samples=SAMPLES,
            measured=f"benchmarks.inverses:influence_by_{operation}",
        )
        for operation, theirs in (("inverse_harmonic_mean", "InverseHarmonicMeanInfluence"), ("hessian", "CgInfluence"))
    ]


def _rows(plan: Plan) -> Iterator[Row]:
    for figure in figures():
        wanted = figure.problem in plan.problems and figure.operation in plan.operations
        there = figure.contestant is None or figure.contestant in plan.field.products
        if wanted and there and not (plan.quick and figure.problem != "tiny"):
            progress(f"{figure.name}: {figure.operation} on {figure.problem} over {figure.over}")
            yield measured(figure, plan)


def measured(figure: Figure, plan: Plan) -> Row:
    """The row of a figure, without its times if the numbers differ by more than solves of that tolerance may."""
    found = problem(figure.problem, figure.samples)
    row: Row = {**dict.fromkeys(COLUMNS), "figure": figure.name, "problem": figure.problem}
    row |= {"operation": figure.operation, "over": figure.over}
    found_by: dict[Side, Tensor] = {}

    def keeping(side: Side) -> Call:
        call = side(found, figure.operation)
        return lambda: found_by.update({side: call()})

    turns = in_turn([keeping(figure.ours), keeping(figure.theirs)], plan.effort)
    if figure.same:
        ours, theirs = found_by[figure.ours], found_by[figure.theirs]
        row["differ by"] = difference = float((ours - theirs).norm() / ours.norm())
        if not difference <= 10 * TOLERANCE:
            return row | {"remark": "another number"}
    row |= {"ratio": turns.ratio(0, 1), "ms": 1000 * turns.median(0), "theirs ms": 1000 * turns.median(1)}
    if figure.measured is not None:
        row["peak MB"] = peak_memories(figure.problem, SAMPLES, [figure.measured])[0]
    return row


def _steps(op: Operation) -> Callable[..., Any]:
    """So many steps exactly, as the tolerance is out of reach."""
    return conjugate_gradient_solution(op, DAMPING, tolerance=1e-30, max_steps=STEPS)


def _solve(found: Problem, operation: str, op: Operation | None = None) -> Callable[[], Tensor]:
    solve, v = _steps(op or OPERATIONS[operation](found)), vectors(found)
    return lambda: solve(found.params, found.buffers, found.batch, v).solution


def _solve_anew(found: Problem, operation: str) -> Callable[[], Tensor]:
    op = OPERATIONS[operation](found)

    def anew(params: Any, buffers: Any, batch: Any, v: Tensor) -> Any:
        return op(params, buffers, batch, v)

    def at(params: Any, buffers: Any, batch: Any) -> Callable[[Tensor], Any]:
        return lambda v: op(params, buffers, batch, v)

    return _solve(found, operation, with_at(anew, at))


def _solve_of_all(found: Problem, operation: str) -> Callable[[], Tensor]:
    states = stack_states([(member.params, member.buffers) for member in members(found, MEMBERS)])
    solve, v = torch.vmap(_steps(OPERATIONS[operation](found)), in_dims=(0, 0, None, None)), vectors(found)
    return lambda: solve(*states, found.batch, v).solution


def divided(batch: tuple[Tensor, Tensor]) -> tuple[list[tuple[Tensor, Tensor]], tuple[Tensor, Tensor]]:
    """The batches of the training points, and the test points."""
    n = len(batch[1])
    train = n - n // TEST_SHARE
    pieces = zip(*(part[:train].split(-(-train // BATCHES)) for part in batch), strict=True)
    return list(pieces), (batch[0][train:], batch[1][train:])


def inverse(found: Problem, operation: str) -> Operation:
    """The inverse behind an influence: the inverse harmonic mean as it is, of another matrix that by conjugate gradients."""
    op = averaged(OPERATIONS[operation](found))
    return op if operation == "inverse_harmonic_mean" else conjugate_gradient(op, DAMPING, tolerance=TOLERANCE)


def _influence(found: Problem, operation: str) -> Callable[[], Tensor]:
    influences, (train, test) = influence(inverse(found, operation), found.loss), divided(found.batch)
    return lambda: -influences(found.params, found.buffers, train, test)  # pyDVL's has the other sign


def _influence_by_pydvl(found: Problem, operation: str) -> Callable[[], Tensor]:
    return resolve_name("benchmarks.contestants.of_pydvl:INFLUENCES")[operation](found, *divided(found.batch))


def _measured_influence(operation: str) -> Callable[[Problem], Callable[..., Tensor]]:
    def op(found: Problem) -> Callable[..., Tensor]:
        call = _influence(found, operation)
        return lambda *_: call()

    return op


influence_by_inverse_harmonic_mean = _measured_influence("inverse_harmonic_mean")
influence_by_hessian = _measured_influence("hessian")
