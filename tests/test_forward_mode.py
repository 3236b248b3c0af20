"""J v by forward mode serves any model: where a rule of forward mode is wrong, the product is that of reverse mode."""

import logging

import pytest
import torch
from torch import nn
from torch.autograd import Function, forward_ad
from torch.testing import assert_close

import pure_batchops as pb
from tests.marks import TELLS

N = 128


def cube_with(tangent_of):
    """x³, whose tangent of forward mode is spoiled."""

    def cube(x):
        primal, tangent = forward_ad.unpack_dual(x**3)
        return primal if tangent is None else forward_ad.make_dual(primal, tangent_of(tangent))

    return cube


class Cube(Function):
    """x³, by a function of the user's own, whose rule of forward mode is wrong for one sample."""

    @staticmethod
    def forward(x):
        return x**3

    @staticmethod
    def setup_context(ctx, inputs, output):  # torch's signature
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx, gradient):
        return 3 * ctx.saved_tensors[0] ** 2 * gradient

    @staticmethod
    def jvp(ctx, tangent):
        return at(77, 2.0)(3 * ctx.saved_tensors[0] ** 2 * tangent)


def at(index, factor):
    def spoiled(tangent):
        factors = torch.ones_like(tangent)
        factors[index] = factor
        return tangent * factors

    return spoiled


HALF = (slice(None), slice(0, 2))
SPOILED = {
    "one sample doubled": at(77, 2.0),
    "one sample of the other sign": at(3, -1.0),
    "one sample lost": at(5, 0.0),
    "half of the features lost": at(HALF, 0.0),
    "half of the features of one sample lost": at((9, slice(0, 2)), 0.0),
    "one entry of one sample lost": at((9, 1), 0.0),
    "all lost": torch.zeros_like,
    "all scaled": lambda tangent: 1.01 * tangent,
    "rows of other samples": lambda tangent: tangent.flip(0),
}
# Of a sample that hardly counts, or of one of its numbers, the error may be as small as rounding in single precision.
HARDLY_WRONG = [
    ("one sample doubled", "fourth powers", torch.float32),
    ("one entry of one sample lost", "cross entropy", torch.float32),
]


class Network(nn.Module):
    """The spoiled function stands inside, or at the end."""

    def __init__(self, function, *, inside):
        super().__init__()
        self.first, self.second = nn.Linear(3, 4), nn.Linear(4, 4)
        self.function, self.inside = function, inside

    def forward(self, x):
        hidden = self.first(x)
        if self.inside:
            return self.second(hidden + self.function(hidden).tanh())
        return self.function(self.second(hidden.tanh()))


CRITERIA = {
    "squares": (nn.MSELoss(), lambda: torch.randn(N, 4)),
    "cross entropy": (nn.CrossEntropyLoss(), lambda: torch.randint(4, (N,))),
    "fourth powers": (lambda o, t: (o - t).pow(4).sum(), lambda: torch.randn(N, 4)),
}


def curved(model, criterion, dtype):
    criterion, targets = CRITERIA[criterion]
    y = targets()
    model = model.to(dtype)
    params, buffers = pb.functional_state(model)
    v = torch.randn(sum(leaf.numel() for leaf in params.values()), dtype=dtype)
    batch = torch.randn(N, 3, dtype=dtype), y.to(dtype) if y.is_floating_point() else y
    return pb.generalized_gauss_newton(model, criterion), (params, buffers, batch), v


@pytest.fixture
def by_forward_mode(caplog):
    """When called, whether each product since the last call was taken by forward mode."""
    caplog.set_level(logging.DEBUG, "pure_batchops")

    def taken():
        ways = "jacobian: forward mode of plain autograd", "forward mode refused"
        found = [message == ways[0] for message in caplog.messages if message.startswith(ways)]
        caplog.clear()
        return found

    return taken


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("inside", [True, False], ids=["inside", "at the end"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("bug", SPOILED)
def test_wrong_rule_of_forward_mode_is_noticed(bug, dtype, inside, criterion, by_forward_mode):
    torch.manual_seed(0)
    op, point, v = curved(Network(cube_with(SPOILED[bug]), inside=inside), criterion, dtype)
    product, right = op(*point, v), op.at(*point)(v)
    if (bug, criterion, dtype) in HARDLY_WRONG:
        assert (product - right).norm() < 1e-3 * right.norm()
        return
    assert by_forward_mode() == [False]
    assert_close(product, right)


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("inside", [True, False], ids=["inside", "at the end"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_right_rule_of_forward_mode_serves(dtype, inside, criterion, by_forward_mode):
    torch.manual_seed(0)
    op, point, v = curved(Network(cube_with(lambda tangent: tangent), inside=inside), criterion, dtype)
    product = op(*point, v)
    assert by_forward_mode() == [TELLS]
    assert_close(product, op.at(*point)(v))


@pytest.mark.parametrize("criterion", CRITERIA)
def test_wrong_rule_of_a_function_of_the_users_is_noticed(criterion, by_forward_mode):
    op, point, v = curved(Network(Cube.apply, inside=True), criterion, torch.float32)
    product = op(*point, v)
    assert by_forward_mode() == [False]
    assert_close(product, op.at(*point)(v))
