"""Parameters that enter a batch in any known way: one pass gives the gradients of plain autograd, for each of them."""

import logging

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812  # its usual name
from torch.testing import assert_close

import pure_batchops as pb
from pure_batchops.gradients import elements, matrices
from tests.layers import dense_gradients
from tests.marks import TELLS

N, T = 5, 3


def params_of(**shapes):
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=generator).double() for name, shape in shapes.items()}


def heads(p, x):
    """Attention with its positions first, and samples merged with heads."""
    y = (x @ p["w"]).transpose(0, 1)  # (T, n, 4)
    q = y.reshape(T, len(x) * 2, 2).transpose(0, 1)  # (n · heads, T, 2)
    a = torch.bmm(q, q.transpose(1, 2)).softmax(-1) @ q
    return (
        F.linear(a.transpose(0, 1).reshape(T * len(x), 4), p["v"], p["b"]).view(T, len(x), 2).transpose(0, 1).sum((1, 2)).sin()
    )


ENTRIES = {  # losses of x (N, T, 4), and the shapes of the parameters
    "shift": (lambda p, x: (x.tanh() + p["b"]).square().sum((1, 2)), {"b": (4,)}),
    "shift of positions": (lambda p, x: (p["b"][:T] - x).tanh().square().sum((1, 2)), {"b": (7, 4)}),
    "scale": (lambda p, x: (x * p["a"]).tanh().sum((1, 2)), {"a": (T, 1)}),
    "quotient": (lambda p, x: (x / (2 + p["a"].square())).tanh().sum((1, 2)), {"a": (4,)}),
    "quotient by the parameter": (lambda p, x: (x / p["a"]).tanh().sum((1, 2)), {"a": (4,)}),
    "choice": (lambda p, x: torch.where(x > 0, x, p["a"] * x).square().sum((1, 2)), {"a": ()}),
    "a function of elements": (lambda p, x: torch.lerp(x, p["b"], p["a"]).square().sum((1, 2)), {"a": (4,), "b": (T, 1)}),
    "in place": (lambda p, x: (x * 2).add_(p["b"]).sin().sum((1, 2)), {"b": (4,)}),
    "matmul": (lambda p, x: (x @ p["w"]).sin().sum((1, 2)), {"w": (4, 2)}),
    "matmul with a transpose": (lambda p, x: (x @ p["w"].mT).sin().sum((1, 2)), {"w": (2, 4)}),
    "a vector": (lambda p, x: (x @ p["w"]).sin().sum(1), {"w": (4,)}),
    "addmm": (lambda p, x: torch.addmm(p["b"], x[:, 0], p["w"]).sin().sum(1), {"b": (2,), "w": (4, 2)}),
    "layer norm": (lambda p, x: F.layer_norm(x, (4,), p["a"], p["b"]).sin().sum((1, 2)), {"a": (4,), "b": (4,)}),
    "group norm": (lambda p, x: F.group_norm(x, 1, p["a"], p["b"]).sin().sum((1, 2)), {"a": (T,), "b": (T,)}),
    "batch norm": (
        lambda p, x: F.batch_norm(x, 0.1 + torch.zeros(T).double(), torch.ones(T).double(), p["a"], p["b"]).sin().sum((1, 2)),
        {"a": (T,), "b": (T,)},
    ),
    "token": (lambda p, x: torch.cat([p["c"].expand(len(x), -1, -1), x], 1).softmax(1).sin().sum((1, 2)), {"c": (1, 1, 4)}),
    "low rank": (lambda p, x: F.linear(x, 2.0 + p["b"] @ p["a"]).sin().sum((1, 2)), {"a": (1, 4), "b": (2, 1)}),
    "weight norm": (lambda p, x: F.linear(x, p["g"] * p["v"] / p["v"].norm()).sin().sum((1, 2)), {"g": (), "v": (2, 4)}),
    "tied": (lambda p, x: F.linear(F.linear(x, p["w"]).sin(), p["w"].mT).sum((1, 2)), {"w": (2, 4)}),
    "used twice": (lambda p, x: (F.linear(F.linear(x, p["w"]).sin(), p["w"]) * p["w"][0]).sum((1, 2)), {"w": (4, 4)}),
    "bias alone": (lambda p, x: F.linear(x, torch.ones(2, 4).double(), p["b"]).sin().sum((1, 2)), {"b": (2,)}),
    "unused": (lambda p, x: F.linear(x, p["w"]).sin().sum((1, 2)), {"w": (2, 4), "z": (3,)}),
    "merged rows": (lambda p, x: F.linear(x.reshape(-1, 4), p["w"]).sin().view(-1, T, 2).sum((1, 2)), {"w": (2, 4)}),
    "merged images": (
        lambda p, x: F.conv1d(x.reshape(-1, 1, 4), p["w"], p["b"]).sin().view(len(x), -1).sum(1),
        {"w": (2, 1, 2), "b": (2,)},
    ),
    "positions first": (lambda p, x: F.linear(x.transpose(0, 1), p["w"], p["b"]).sin().sum((0, 2)), {"w": (2, 4), "b": (2,)}),
    "heads": (heads, {"w": (4, 4), "v": (2, 4), "b": (2,)}),
    "inner vmap": (lambda p, x: torch.vmap(lambda row: F.linear(row, p["w"]).sin().sum())(x), {"w": (2, 4)}),
}
NOT_TAKEN = {"inner vmap"}


def case(name):
    of_x, shapes = ENTRIES[name]
    x = torch.randn(N, T, 4, generator=torch.Generator().manual_seed(1)).double()
    return (lambda params, buffers, x: of_x(params, x)), params_of(**shapes), {}, x


@pytest.mark.parametrize("name", ENTRIES)
@pytest.mark.parametrize("held", [40, 2**22])
def test_gradients_of_each_entry_are_those_of_plain_autograd(name, held, caplog):
    caplog.set_level(logging.DEBUG, "pure_batchops")
    loss, *point = case(name)
    rows = dense_gradients(loss, *point)
    v = torch.randn(2, rows.shape[1]).double()
    assert_close(pb.gauss_newton(loss, held=held)(*point, v), v @ rows.T @ rows / N)
    assert any(message.endswith("by one pass") for message in caplog.messages) == (TELLS and taken(name, held, rows))
    inverses = [torch.linalg.inv(torch.outer(g, g) + 0.3 * torch.eye(len(g)).double()) for g in rows]
    assert_close(pb.inverse_harmonic_mean(loss, 0.3, held=held)(*point, v), v @ sum(inverses) / N)
    for row, single in zip(v, pb.gauss_newton(loss, held=held)(*point, v), strict=True):
        assert_close(pb.gauss_newton(loss, held=held)(*point, row), single)


def taken(name, held, rows):
    """Whether one pass takes it: tensors made of params need their gradients formed."""
    made = {"shift of positions", "matmul with a transpose", "low rank", "weight norm", "tied", "used twice", "quotient"}
    return name not in NOT_TAKEN and (held > 40 or name not in made or rows.numel() <= 40)


@pytest.mark.parametrize(
    ("name", "module", "kind"),
    [("scale", elements, "KIND"), ("matmul", matrices, "KIND"), ("a vector", matrices, "OF_VECTOR")],
)
@pytest.mark.skipif(not TELLS, reason="plain autograd never serves where torch does not tell its transforms")
def test_a_wrong_row_of_a_kind_falls(name, module, kind, monkeypatch):
    right = getattr(module, kind)

    def gradients(x, delta, like, options):
        rows = right.gradients(x, delta, like, options)
        return torch.cat([rows[:-1], 2 * rows[-1:]])

    monkeypatch.setattr(module, kind, right._replace(gradients=gradients))
    loss, *point = case(name)
    rows = dense_gradients(loss, *point)
    v = torch.randn(rows.shape[1]).double()
    with pytest.raises(AssertionError):
        assert_close(pb.gauss_newton(loss)(*point, v), rows.T @ (rows @ v) / N)


def test_a_module_of_ones_own_goes_by_one_pass(caplog):
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.scale = nn.Linear(4, 6), nn.Linear(6, 4), nn.Parameter(torch.ones(4))

        def forward(self, x):
            x = x + self.b(F.gelu(self.a(x))) * self.scale
            return x.mean(1)

    caplog.set_level(logging.DEBUG, "pure_batchops")
    model = Own().double()
    loss = pb.sample_losses(model, lambda output, target: (output - target).square().mean())
    point = *pb.functional_state(model), (torch.randn(N, T, 4).double(), torch.randn(N, 4).double())
    rows = dense_gradients(loss, *point)
    v = torch.randn(rows.shape[1]).double()
    assert_close(pb.gauss_newton(loss)(*point, v), rows.T @ (rows @ v) / N)
    assert not TELLS or "gradients of samples: held, by one pass" in caplog.messages
    assert not any(message.startswith("samples apart by calls refused") for message in caplog.messages)
