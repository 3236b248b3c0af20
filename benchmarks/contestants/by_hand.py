"""The Hessian product as most people write it: autograd, twice, on lists of tensors."""

import torch
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
        *others, last = rows
        products = [torch.autograd.grad(gradient, parameters, row, retain_graph=True) for row in others]
        return [*products, torch.autograd.grad(gradient, parameters, last)]

    return Multiplication(call, lambda products: flat_leaves(products, v))


PRODUCTS: Products = {"hessian": _hessian}
