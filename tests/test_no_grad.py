"""Inside the caller's `torch.no_grad`, everything gives the numbers that it gives outside."""

from typing import Any

import pytest
import torch
from torch.testing import assert_close

import pure_batchops as pb
from tests.strategies import flat, problem, vectors
from tests.tables import Row, each, every_row


@every_row
@pytest.mark.parametrize("kind", ["perceptron", "convolution"])
def test_product_inside_no_grad_is_the_one_outside(row: Row, kind: str) -> None:
    p = problem(kind, 3)
    op, v = row.operation(p), flat(vectors(p.params, 2, 0), 2)
    for u in (v, v[0]):
        expected = op(p.params, p.buffers, p.batch, u)
        with torch.no_grad():
            assert_close(op(p.params, p.buffers, p.batch, u), expected)
            assert_close(op.at(p.params, p.buffers, p.batch)(u), expected)


def influences(function: Any, *test: str) -> Any:
    def found(p: Any) -> Any:
        inverse = pb.conjugate_gradient(pb.averaged(pb.gauss_newton(p.loss)), 0.1)
        return function(inverse, p.loss)(p.params, p.buffers, [p.batch], *(p.batch for _ in test))

    return found


def of_samples(function: Any) -> Any:
    return lambda p: function(p.loss)(p.params, p.buffers, p.batch)


RESULTS = {
    "influence": influences(pb.influence, "test"),
    "self_influence": influences(pb.self_influence),
    "perturbation_influence": influences(pb.perturbation_influence, "test"),
    "gradient_norms": of_samples(pb.gradient_norms),
    "sample_gradients": of_samples(pb.sample_gradients),
}


@each(RESULTS, "result")
def test_result_inside_no_grad_is_the_one_outside(result: Any) -> None:
    p = problem("perceptron", 3)
    expected = result(p)
    with torch.no_grad():
        assert_close(result(p), expected)
