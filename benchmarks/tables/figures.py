"""Ensembles under vmap, and compiled operations, each against what they replace."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.cases.operations import OPERATIONS
from benchmarks.cases.problems import Problem, members, plain_gradient, stacked_members, vectors
from benchmarks.comparison import Comparison, Figure, NotMeasured, figures
from benchmarks.contestants import Multiplication, Products, reason
from benchmarks.plan import Plan
from benchmarks.report import Table, columns
from benchmarks.times import Call

MEMBERS = 32

PROBLEMS = ("tiny", "mlp")
"""For compiled operations. A convolution runs the same routine, compiled or not."""

ABOUT = (
    f"an ensemble of {MEMBERS} members in one call of vmap over a contestant's loop over them, and operations under "
    "torch.compile, whose compilation is not in the time"
)


def figures_table(plan: Plan) -> Table:
    """A row for each comparison whose problem, operation and contestant take part."""
    shown = columns(Figure, without=("differ_by", "peak"))
    return Table("figures", ABOUT, shown, figures(comparisons(plan.field.products), plan))


def comparisons(contestants: Mapping[str, Products]) -> Iterator[Comparison]:
    """The comparisons with these contestants, and with the plain gradient."""
    theirs = contestants.get("pydvl", {})
    for operation in ("hessian", "gauss_newton", "inverse_harmonic_mean"):
        if operation in theirs:
            over, loop = f"pydvl, a loop over {MEMBERS} members", partial(_loop, theirs[operation])
            for name, ours in (("vmap", _ensemble), ("vmap+compile", _compiled_ensemble)):
                yield Comparison(name, "tiny", operation, over, ours, loop, same=False)
    for problem in PROBLEMS:
        for operation in ("hessian", "gauss_newton"):
            for name in ("jax", "jax_reverse"):
                theirs = contestants.get(name, {})
                if operation in theirs:
                    single = partial(_single, theirs[operation])
                    yield Comparison("compile", problem, operation, f"{name}, jit", _compiled, single, same=False)
    for problem in PROBLEMS:
        for operation in OPERATIONS:
            over = "one plain gradient, eager"
            yield Comparison("compile", problem, operation, over, _compiled, _gradient, same=False)


def _compiled(problem: Problem, operation: str) -> Call:
    op = OPERATIONS[operation](problem)
    return _after_compilation(op, problem.params, problem.buffers, problem.batch, vectors(problem))


def _ensemble(problem: Problem, operation: str) -> Call:
    return partial(*_of_ensemble(problem, operation))


def _compiled_ensemble(problem: Problem, operation: str) -> Call:
    return _after_compilation(*_of_ensemble(problem, operation))


def _of_ensemble(problem: Problem, operation: str) -> tuple[Any, ...]:
    """The operation under vmap over the members, and its arguments."""
    multiply = torch.vmap(OPERATIONS[operation](problem), in_dims=(0, 0, None, None))
    return multiply, *stacked_members(problem, MEMBERS), problem.batch, vectors(problem)


def _after_compilation(function: Callable[..., Any], *arguments: Any) -> Call:
    """The call of the compiled function, after a first one that compiles it.

    Raises:
        NotMeasured: if it does not compile, for want of a C++ compiler or because this torch cannot do it.
    """
    torch.compiler.reset()  # or one function that is compiled for many operations reaches the limit of recompilations
    try:
        compiled = torch.compile(function, fullgraph=True)
        compiled(*arguments)
    except Exception as error:
        msg = f"does not compile here: {reason(error)}"
        raise NotMeasured(msg) from error
    return lambda: compiled(*arguments)


def _loop(product: Callable[[Problem, Tensor], Multiplication], problem: Problem, _operation: str) -> Call:
    calls = [product(member, vectors(problem)).call for member in members(problem, MEMBERS)]
    return lambda: [call() for call in calls]


def _single(product: Callable[[Problem, Tensor], Multiplication], problem: Problem, _operation: str) -> Call:
    return product(problem, vectors(problem)).call


def _gradient(problem: Problem, _operation: str) -> Call:
    return plain_gradient(problem)
