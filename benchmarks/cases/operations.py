"""The operations that are measured, one row each: from a problem to the operation on it."""

from collections.abc import Callable
from functools import partial

from torch import Tensor

from benchmarks.cases.problems import Problem, vectors
from benchmarks.times import Call
from pure_batchops import (
    Operation,
    block_diagonal,
    damped,
    gauss_newton,
    generalized_gauss_newton,
    hessian,
    inverse_harmonic_mean,
    monte_carlo_fisher,
)

REGULARIZATION = 0.1

GRADIENT = "gradient"
"""The name of the plain gradient in tables of operations. It is the unit of their times."""


def _layers(problem: Problem) -> list[list[str]]:
    """The names of the parameters of each module that has some of its own."""
    modules = dict.fromkeys(name.rpartition(".")[0] for name in problem.params)
    return [[name for name in problem.params if name.rpartition(".")[0] == module] for module in modules]


def _hessian(problem: Problem, mode: str) -> Operation:
    return hessian(problem.loss, mode=mode)


OPERATIONS: dict[str, Callable[[Problem], Operation]] = {
    "hessian": lambda p: hessian(p.loss),
    "hessian_forward_over_reverse": partial(_hessian, mode="forward_over_reverse"),
    "hessian_reverse_over_forward": partial(_hessian, mode="reverse_over_forward"),
    "gauss_newton": lambda p: gauss_newton(p.loss),
    "inverse_harmonic_mean": lambda p: inverse_harmonic_mean(p.loss, REGULARIZATION),
    "generalized_gauss_newton": lambda p: generalized_gauss_newton(p.model, p.criterion),
    "monte_carlo_fisher": lambda p: monte_carlo_fisher(p.model, "categorical"),
    "damped_gauss_newton": lambda p: damped(gauss_newton(p.loss), REGULARIZATION),
    "block_diagonal_hessian": lambda p: block_diagonal(hessian(p.loss), _layers(p)),
}

MATRICES = ("hessian", "gauss_newton", "inverse_harmonic_mean", "generalized_gauss_newton", "monte_carlo_fisher")
"""The operations with a matrix of their own, each in its default mode."""


def product(op: Operation, problem: Problem, v: Tensor | None = None) -> Call:
    """The call that multiplies at the point of a problem, by default one vector."""
    point = problem.params, problem.buffers, problem.batch
    row = vectors(problem) if v is None else v
    return lambda: op(*point, row)
