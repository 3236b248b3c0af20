"""λ, widths and scales that come as tensors are checked where they can be read, and NaN where they cannot."""

import pytest
import torch
from torch.testing import assert_close

import pure_batchops as pb
from tests.marks import compiles
from tests.matrices import at_matrix, multiplication, symmetric
from tests.strategies import flat, problem, vectors

PROBLEM = problem("perceptron")
OP, VECTOR = pb.gauss_newton(PROBLEM.loss), flat(vectors(PROBLEM.params, 2, 0), 2)
POINT = (PROBLEM.params, PROBLEM.buffers, PROBLEM.batch)
MATRIX = symmetric(torch.linspace(0.1, 1, 12))


def solution(regularization):
    return pb.conjugate_gradient_solution(OP, regularization)(*POINT, VECTOR).solution


def density(width):
    return pb.spectral_density(multiplication, samples=2, steps=4, points=9, width=width)(*at_matrix(MATRIX)).density


TAKES = {  # the function of the option, the option, whether zero is allowed
    "damped": (lambda x: pb.damped(OP, x)(*POINT, VECTOR), "regularization", False),
    "inverse_harmonic_mean": (lambda x: pb.inverse_harmonic_mean(PROBLEM.loss, x)(*POINT, VECTOR), "regularization", False),
    "conjugate_gradient": (lambda x: pb.conjugate_gradient(OP, x)(*POINT, VECTOR), "regularization", True),
    "conjugate_gradient_solution": (solution, "regularization", True),
    "lissa": (lambda x: pb.lissa(OP, x, depth=30, scale=20.0)(*POINT, VECTOR), "regularization", True),
    "lissa's scale": (lambda x: pb.lissa(OP, 1.0, depth=30, scale=9 + x)(*POINT, VECTOR), "scale", None),
    "nystroem": (lambda x: pb.nystroem(OP, x, rank=3)(*POINT, VECTOR), "regularization", False),
    "direct": (lambda x: pb.direct(OP, x)(*POINT, VECTOR), "regularization", True),
    "spectral_density": (density, "width", False),
}
every_option = pytest.mark.parametrize(("take", "name", "zero"), TAKES.values(), ids=TAKES)


def invalid(zero):
    return [-20.0, torch.nan, torch.inf, *([0.0] if zero is False else [])]


@every_option
def test_tensor_that_can_be_read_is_refused_as_a_number_is(take, name, zero):
    for value in invalid(zero):
        with pytest.raises(ValueError, match=f"{name} must be (positive|nonnegative) and finite, got") as told:
            take(value)
        with pytest.raises(ValueError, match=f"{name} must be") as told_of_tensor:
            take(torch.tensor(value, dtype=torch.float64))
        assert str(told_of_tensor.value) == str(told.value)


@every_option
def test_member_that_cannot_be_read_is_nan_and_the_others_are_right(take, name, zero):
    for value in invalid(zero):
        values = torch.tensor([0.5, value, 2.0], dtype=torch.float64)
        together = torch.vmap(take)(values)
        assert together[1].isnan().all()
        assert_close(together[[0, 2]], torch.stack([take(0.5), take(2.0)]))


@every_option
def test_derivatives_by_it_are_right(take, name, zero):
    at = torch.tensor(0.7, dtype=torch.float64)
    step = 1e-5
    difference = (take(0.7 + step).sum() - take(0.7 - step).sum()) / (2 * step)
    assert_close(torch.func.grad(lambda x: take(x).sum())(at), difference, rtol=1e-4, atol=1e-6)
    together = torch.vmap(torch.func.grad(lambda x: take(x).sum()))(torch.stack([at, torch.tensor(-20.0).double()]))
    assert_close(together[0], difference, rtol=1e-4, atol=1e-6)
    leaf = at.clone().requires_grad_()
    (slope,) = torch.autograd.grad(take(leaf).sum(), leaf)
    assert_close(slope, difference, rtol=1e-4, atol=1e-6)


@compiles
@pytest.mark.parametrize("name", ["damped", "direct", "nystroem"])
def test_compiled_it_is_nan_where_it_is_invalid(name):
    def loss(params, buffers, batch):
        return (batch @ params).cosh().log()

    make = {"damped": pb.damped, "direct": pb.direct, "nystroem": lambda op, x: pb.nystroem(op, x, rank=2)}[name]
    point, v = (torch.randn(3), {}, torch.randn(4, 3)), torch.randn(3)
    torch._dynamo.reset()
    compiled = torch.compile(
        lambda regularization: make(pb.gauss_newton(loss), regularization)(*point, v), fullgraph=True, backend="aot_eager"
    )
    assert compiled(torch.tensor(-2.0)).isnan().all()
    assert_close(compiled(torch.tensor(2.0)), make(pb.gauss_newton(loss), 2.0)(*point, v))
