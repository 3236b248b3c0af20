"""What a solve and an influence cost, against what they replace, and the peak memory of an influence."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.cases.influences import DAMPING, SAMPLES, divided, influences
from benchmarks.cases.operations import OPERATIONS
from benchmarks.cases.problems import Problem, stacked_members
from benchmarks.comparison import Comparison, Figure, figures
from benchmarks.contestants import Influences
from benchmarks.plan import Plan
from benchmarks.report import Table, columns
from pure_batchops import Operation, conjugate_gradient_solution

STEPS = 10
MEMBERS = 16

ABOUT = (
    f"{STEPS} steps of conjugate gradients with op.at over the same steps without; the solves of {MEMBERS} members in one "
    "call of vmap over the solve of one; the influence of 1,000 points in 8 batches on 100 over pyDVL's, and its peak memory "
    "in MB of 10⁶ bytes"
)

MODELS = {"inverse_harmonic_mean": "InverseHarmonicMeanInfluence", "hessian": "CgInfluence"}
"""The models of pyDVL that compute the influence by these operations."""


def inverses_table(plan: Plan) -> Table:
    """A row for each comparison whose problem, operation and contestant take part."""
    shown = columns(Figure, without=("at_most", "met"))
    return Table("inverses", ABOUT, shown, figures(comparisons(plan.field.influences), plan))


def comparisons(contestants: Mapping[str, Influences]) -> Iterator[Comparison]:
    """The comparisons of solves, and of influences with these contestants."""
    for problem in ("tiny", "mlp", "cnn"):
        for operation in ("hessian", "gauss_newton", "generalized_gauss_newton"):
            yield Comparison("at", problem, operation, f"{STEPS} steps without op.at", _solve, _solve_from_scratch)
    for operation in ("hessian", "generalized_gauss_newton"):
        yield Comparison("ensemble", "tiny", operation, "the solve of one member", _solve_of_all, _solve, same=None)
    theirs = contestants.get("pydvl", {})
    for operation, model in MODELS.items():
        if operation in theirs:
            sides = _our_influences, partial(_their_influences, theirs[operation])
            more = {"samples": SAMPLES, "memory": f"influence_by_{operation}"}
            yield Comparison("influence", "mlp", operation, f"pyDVL's {model}", *sides, **more)


def _solution(op: Operation) -> Callable[..., Any]:
    """Exactly STEPS steps: the tolerance is out of reach."""
    return conjugate_gradient_solution(op, DAMPING, tolerance=1e-30, max_steps=STEPS)


def _solve(problem: Problem, operation: str, v: Tensor) -> Callable[[], Tensor]:
    return _solved(problem, OPERATIONS[operation](problem), v)


def _solve_from_scratch(problem: Problem, operation: str, v: Tensor) -> Callable[[], Tensor]:
    op = OPERATIONS[operation](problem)

    def repeating(*arguments: Any) -> Any:
        return op(*arguments)

    repeating.at = lambda *point: partial(op, *point)
    return _solved(problem, repeating, v)


def _solved(problem: Problem, op: Operation, v: Tensor) -> Callable[[], Tensor]:
    solve = _solution(op)
    return lambda: solve(problem.params, problem.buffers, problem.batch, v).solution


def _solve_of_all(problem: Problem, operation: str, v: Tensor) -> Callable[[], Tensor]:
    solve = torch.vmap(_solution(OPERATIONS[operation](problem)), in_dims=(0, 0, None, None))
    states = stacked_members(problem, MEMBERS)
    return lambda: solve(*states, problem.batch, v).solution


def _our_influences(problem: Problem, operation: str, _v: Tensor) -> Callable[[], Tensor]:
    return influences(problem, operation)


def _their_influences(theirs: Any, problem: Problem, _operation: str, _v: Tensor) -> Callable[[], Tensor]:
    return theirs(problem, *divided(problem.batch))
