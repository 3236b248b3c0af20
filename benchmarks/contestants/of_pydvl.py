"""The batch operations of pyDVL."""

from typing import Any

from pydvl.influence.torch.base import TorchBatch
from pydvl.influence.torch.batch_operation import (
    GaussNewtonBatchOperation,
    HessianBatchOperation,
    InverseHarmonicMeanBatchOperation,
)
from torch import Tensor

from benchmarks.contestants import Multiplication, Products
from benchmarks.operations import REGULARIZATION
from benchmarks.problems import Problem


def _applied(operation: Any, problem: Problem, v: Tensor) -> Multiplication:
    batch = TorchBatch(*problem.batch)
    return Multiplication(
        lambda: operation.apply(batch, v), lambda product: product.reshape(v.shape)
    )  # it may be (1, D) for (D,)


PRODUCTS: Products = {
    "hessian": lambda p, v: _applied(HessianBatchOperation(p.model, p.criterion), p, v),
    "gauss_newton": lambda p, v: _applied(GaussNewtonBatchOperation(p.model, p.criterion), p, v),
    "inverse_harmonic_mean": lambda p, v: _applied(
        InverseHarmonicMeanBatchOperation(p.model, p.criterion, REGULARIZATION), p, v
    ),
}
