"""The matrix-free products of BackPACK. One graph serves all vectors, one after the other."""

import torch
from backpack.hessianfree.ggnvp import ggn_vector_product
from backpack.hessianfree.hvp import hessian_vector_product
from torch import Tensor

from benchmarks.cases.problems import Problem
from benchmarks.contestants import Multiplication, Products
from benchmarks.contestants.forms import flat_leaves, leaves_of, rows_of


def _hessian(problem: Problem, v: Tensor) -> Multiplication:
    inputs, targets = problem.batch
    parameters = list(problem.model.parameters())
    rows = [leaves_of(problem, row) for row in rows_of(v)]

    def call() -> list[tuple[Tensor, ...]]:
        loss = problem.criterion(problem.model(inputs), targets)
        gradient = torch.autograd.grad(loss, parameters, create_graph=True)
        return [hessian_vector_product(loss, parameters, row, grad_params=gradient) for row in rows]

    return Multiplication(call, lambda products: flat_leaves(products, v))


def _generalized_gauss_newton(problem: Problem, v: Tensor) -> Multiplication:
    inputs, targets = problem.batch
    rows = [leaves_of(problem, row) for row in rows_of(v)]

    def call() -> list[tuple[Tensor, ...]]:
        output = problem.model(inputs)
        loss = problem.criterion(output, targets)
        return [ggn_vector_product(loss, output, problem.model, row) for row in rows]

    return Multiplication(call, lambda products: flat_leaves(products, v))


PRODUCTS: Products = {"hessian": _hessian, "generalized_gauss_newton": _generalized_gauss_newton}
