"""A contestant for the tests of the benchmarks: its second product is wrong. And an operation that holds much memory."""

import torch

from benchmarks.cases.operations import OPERATIONS, product
from benchmarks.contestants import Multiplication
from pure_batchops import batch_operation


def same_number(problem, v):
    call = product(OPERATIONS["gauss_newton"](problem), problem, v)
    return Multiplication(call, lambda product: product)


PRODUCTS = {"gauss_newton": same_number, "hessian": same_number}


def all_gradients_held(problem):
    """What the benchmark must see: the Gauss-Newton product by all n gradients at once, n × D numbers."""

    def at(params, buffers, batch):
        def of_one(x, y):
            return torch.func.grad(lambda p: problem.loss(p, buffers, (x[None], y[None])).sum())(params)

        held = torch.vmap(of_one)(*batch)
        n = len(batch[0])
        along = lambda v: sum(g.flatten(1) @ v[name].flatten() for name, g in held.items())  # noqa: E731
        return lambda v: {name: torch.tensordot(along(v) / n, g, 1) for name, g in held.items()}

    return batch_operation(at)
