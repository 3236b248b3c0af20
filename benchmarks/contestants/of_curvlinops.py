"""The linear operators of curvlinops. They take K vectors as columns."""

from typing import Any

from curvlinops import EFLinearOperator, GGNLinearOperator, HessianLinearOperator
from torch import Tensor, nn

from benchmarks.cases.problems import Problem
from benchmarks.contestants import Multiplication, Products


def _multiplied(operator: Any, problem: Problem, v: Tensor) -> Multiplication:
    parameters = list(problem.model.parameters())
    multiply = operator(
        problem.model,
        nn.CrossEntropyLoss(),  # the criterion of all problems, as a module, which curvlinops asks for
        parameters,
        [problem.batch],
        check_deterministic=False,
        num_data=len(problem.batch[0]),
    )
    columns = v.T.contiguous() if v.ndim > 1 else v
    return Multiplication(lambda: multiply @ columns, lambda product: product.T if v.ndim > 1 else product)


PRODUCTS: Products = {
    "hessian": lambda p, v: _multiplied(HessianLinearOperator, p, v),
    "gauss_newton": lambda p, v: _multiplied(EFLinearOperator, p, v),
    "generalized_gauss_newton": lambda p, v: _multiplied(GGNLinearOperator, p, v),
}
