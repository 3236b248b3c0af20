"""The products of posteriors: pure functions of one vector. Several vectors come one after the other."""

from functools import partial
from typing import Any

from posteriors import fvp, ggnvp, hvp
from torch import Tensor
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from benchmarks.cases.problems import Problem
from benchmarks.contestants import Multiplication, Products
from benchmarks.contestants.forms import flat_leaves, rows_of, tree_of


def _each(multiply: Any, problem: Problem, v: Tensor) -> Multiplication:
    rows = [tree_of(problem, row) for row in rows_of(v)]
    call = lambda: [multiply((problem.params,), (row,))[1] for row in rows]  # noqa: E731
    return Multiplication(call, lambda products: flat_leaves([p.values() for p in products], v))


def _output(problem: Problem, params: dict[str, Tensor]) -> Any:
    return functional_call(problem.model, params, (problem.batch[0],))


def _hessian(problem: Problem, v: Tensor) -> Multiplication:
    return _each(partial(hvp, lambda p: problem.criterion(_output(problem, p), problem.batch[1])), problem, v)


def _gauss_newton(problem: Problem, v: Tensor) -> Multiplication:
    def losses(params: dict[str, Tensor]) -> Tensor:
        of_targets = cross_entropy(_output(problem, params), problem.batch[1], reduction="none")
        return of_targets.reshape(len(of_targets), -1).mean(1)  # the mean over the positions of a text

    return _each(partial(fvp, losses, normalize=True), problem, v)


def _generalized_gauss_newton(problem: Problem, v: Tensor) -> Multiplication:
    def criterion(output: Tensor) -> Tensor:
        return problem.criterion(output, problem.batch[1])

    return _each(partial(ggnvp, partial(_output, problem), criterion), problem, v)


PRODUCTS: Products = {
    "hessian": _hessian,
    "gauss_newton": _gauss_newton,
    "generalized_gauss_newton": _generalized_gauss_newton,
}
