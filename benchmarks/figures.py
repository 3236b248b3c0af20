"""Figures of another kind, one row each: ensembles and compiled operations, each against something that is taken in turn."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch

from benchmarks.contestants import Multiplication, NotOffered, Products
from benchmarks.operations import OPERATIONS
from benchmarks.problems import Problem, members, plain_gradient, problem, vectors
from benchmarks.report import Row, Table
from benchmarks.sections import GRADIENT, Plan, progress
from benchmarks.times import Call, in_turn
from pure_batchops import Operation, stack_states

MEMBERS = 32

COLUMNS = {
    "figure": "<12",
    "problem": "<11",
    "operation": "<28",
    "over": "<38",
    "ratio": ">7.3f",
    "ms": ">9.3f",
    "theirs ms": ">9.3f",
    "remark": "<0",
}

ABOUT = (
    f"an ensemble of {MEMBERS} members in one call of vmap over a contestant's loop over them, and operations under "
    "torch.compile, whose compilation is not in the time"
)

PROBLEMS = ("tiny", "mlp")
"""Of the compiled operations: a convolution is the same routine, compiled or not."""


class Figure(NamedTuple):
    """A row: from a problem and an operation to ours; from these and a contestant's products to theirs."""

    name: str
    problem: str
    operation: str
    contestant: str
    over: str
    ours: Callable[[Problem, Operation], Call]
    theirs: Callable[[Problem, str, Products], Call]


def figures_table(plan: Plan) -> Table:
    """A row for each figure whose problem, operation and contestant are there."""
    return Table("figures", ABOUT, COLUMNS, _rows(plan))


def figures() -> list[Figure]:
    """All of them."""
    loop = f"a loop over {MEMBERS} members"
    found = [
        Figure(name, "tiny", operation, "pydvl", f"pydvl, {loop}", ours, _looped)
        for operation in ("hessian", "gauss_newton", "inverse_harmonic_mean")
        for name, ours in (("vmap", _ensemble), ("vmap+compile", _compiled_ensemble))
    ]
    found += [
        Figure("compile", name, operation, contestant, f"{contestant}, jit", _compiled, _single)
        for name in PROBLEMS
        for operation in ("hessian", "gauss_newton")
        for contestant in ("jax", "jax_reverse")
    ]
    plain = lambda problem, _, __: plain_gradient(problem)  # noqa: E731
    return found + [
        Figure("compile", name, operation, GRADIENT, "one plain gradient, eager", _compiled, plain)
        for name in PROBLEMS
        for operation in OPERATIONS
    ]


def _rows(plan: Plan) -> Iterator[Row]:
    products = {**plan.field.products, GRADIENT: dict.fromkeys(OPERATIONS, _not_offered)}
    for figure in figures():
        if figure.problem not in plan.problems or figure.operation not in plan.operations:
            continue
        if plan.quick and figure.problem != "tiny":
            continue
        if figure.operation in products.get(figure.contestant, {}):
            progress(f"{figure.name}: {figure.operation} on {figure.problem} over {figure.over}")
            yield _measured(figure, products[figure.contestant], plan)


def _measured(figure: Figure, products: Products, plan: Plan) -> Row:
    found = problem(figure.problem)
    row: Row = {**dict.fromkeys(COLUMNS), "figure": figure.name, "problem": figure.problem}
    row |= {"operation": figure.operation, "over": figure.over}
    torch.compiler.reset()  # or one function compiled for many operations reaches the limit of recompilations
    try:
        ours = figure.ours(found, OPERATIONS[figure.operation](found))
        ours()  # compiles
    except Exception as error:  # no C++ compiler, or a torch that cannot compile this
        return row | {"remark": f"does not compile here: {type(error).__name__}: {error}".splitlines()[0][:100]}
    turns = in_turn([ours, figure.theirs(found, figure.operation, products)], plan.effort)
    return row | {"ratio": turns.ratio(0, 1), "ms": 1000 * turns.median(0), "theirs ms": 1000 * turns.median(1)}


def _compiled(found: Problem, op: Operation) -> Call:
    compiled, v = torch.compile(op, fullgraph=True), vectors(found)
    return lambda: compiled(found.params, found.buffers, found.batch, v)


def _ensemble(found: Problem, op: Operation) -> Call:
    states = stack_states([(member.params, member.buffers) for member in members(found, MEMBERS)])
    multiply, v = torch.vmap(op, in_dims=(0, 0, None, None)), vectors(found)
    return lambda: multiply(*states, found.batch, v)


def _compiled_ensemble(found: Problem, op: Operation) -> Call:
    states = stack_states([(member.params, member.buffers) for member in members(found, MEMBERS)])
    multiply, v = torch.compile(torch.vmap(op, in_dims=(0, 0, None, None)), fullgraph=True), vectors(found)
    return lambda: multiply(*states, found.batch, v)


def _looped(found: Problem, operation: str, products: Products) -> Call:
    calls = [products[operation](member, vectors(found)).call for member in members(found, MEMBERS)]
    return lambda: [call() for call in calls]


def _single(found: Problem, operation: str, products: Products) -> Call:
    return products[operation](found, vectors(found)).call


def _not_offered(*_: object) -> Multiplication:
    raise NotOffered
