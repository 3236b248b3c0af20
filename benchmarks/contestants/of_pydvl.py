"""The batch operations of pyDVL, and its influences."""

from collections.abc import Callable
from typing import Any

import torch
from pydvl.influence.torch.base import TorchBatch
from pydvl.influence.torch.batch_operation import (
    ChunkAveraging,
    GaussNewtonBatchOperation,
    HessianBatchOperation,
    InverseHarmonicMeanBatchOperation,
)
from pydvl.influence.torch.influence_function_model import CgInfluence, InverseHarmonicMeanInfluence
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.cases.influences import DAMPING, TOLERANCE
from benchmarks.cases.operations import REGULARIZATION
from benchmarks.cases.problems import Batch, Problem
from benchmarks.contestants import Influences, Multiplication, Products


def _applied(operation: Any, problem: Problem, v: Tensor) -> Multiplication:
    batch = TorchBatch(*problem.batch)
    flat = lambda product: product.reshape(v.shape)  # noqa: E731 - pyDVL may give (1, D) for (D,)
    return Multiplication(lambda: operation.apply(batch, v), flat)


PRODUCTS: Products = {
    "hessian": lambda p, v: _applied(HessianBatchOperation(p.model, p.criterion), p, v),
    "gauss_newton": lambda p, v: _applied(GaussNewtonBatchOperation(p.model, p.criterion), p, v),
    "inverse_harmonic_mean": lambda p, v: _applied(
        InverseHarmonicMeanBatchOperation(p.model, p.criterion, REGULARIZATION), p, v
    ),
}


def _influences(model: Any, train: list[Batch], test: Batch) -> Callable[[], Tensor]:
    data = TensorDataset(*(torch.cat(parts) for parts in zip(*train, strict=True)))
    fitted = model.fit(DataLoader(data, batch_size=len(train[0][1])))
    for block in fitted.block_mapper.composable_block_dict.values():
        operator = getattr(block.op, "operator", block.op)  # conjugate gradients wrap the Hessian
        operator.averaging = ChunkAveraging()  # pyDVL's PointAveraging leaves the first batch out of the sum

    def influences() -> Tensor:
        factors = fitted.influence_factors(*test)
        return torch.cat([fitted.influences_from_factors(factors, *batch) for batch in train], 1)

    return influences


def _by_conjugate_gradients(problem: Problem, train: list[Batch], test: Batch) -> Callable[[], Tensor]:
    """The solve stops once a residual's norm is below atol²: here our tolerance, for the first test point."""
    losses = problem.criterion(problem.model(test[0][:1]), test[1][:1])
    gradient = torch.cat([leaf.flatten() for leaf in torch.autograd.grad(losses, list(problem.model.parameters()))])
    atol = float((TOLERANCE * gradient.norm()).sqrt())
    model = CgInfluence(problem.model, problem.criterion, DAMPING, rtol=0.0, atol=atol, maxiter=100)
    return _influences(model, train, test)


INFLUENCES: Influences = {
    "inverse_harmonic_mean": lambda p, train, test: _influences(
        InverseHarmonicMeanInfluence(p.model, p.criterion, REGULARIZATION), train, test
    ),
    "hessian": _by_conjugate_gradients,
}
