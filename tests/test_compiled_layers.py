"""Compiled, the gradients of samples come from one pass over the batch, by layer, where they are too many to hold."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812  # its usual name

import pure_batchops as pb
from pure_batchops.gradients import compiled

pytestmark = pytest.mark.skipif(torch.__version__ < "2.7", reason="the compiler cannot trace the pass before torch 2.7")


class Own(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(5, 4), nn.Linear(4, 3)

    def forward(self, x):
        return self.b(F.relu(self.a(x), inplace=True))


class Hidden(Own):
    def forward(self, x):  # the compiler shows no read of an attribute to a mode
        return F.relu(self.a(x)) @ self.b.weight.T + self.b.bias


def setting(model):
    torch.manual_seed(0)
    params, buffers = pb.functional_state(model.double())
    return params, buffers, (torch.randn(7, 5).double(), torch.randint(3, (7,))), torch.randn(39).double()


def product(loss, point):
    torch.compiler.reset()
    return torch.compile(pb.inverse_harmonic_mean(loss, 0.5, held=1), fullgraph=True, backend="aot_eager")(*point)


@pytest.mark.parametrize(("model", "takes"), [(Own, True), (Hidden, False)])
def test_compiled_is_eager(model, takes, monkeypatch):
    model, taken = model(), []
    point, loss, of_layers = setting(model), pb.sample_losses(model, F.cross_entropy), compiled.of_layers
    monkeypatch.setattr(compiled, "of_layers", lambda *a: (taken.append(1), of_layers(*a))[1])
    torch.testing.assert_close(product(loss, point), pb.inverse_harmonic_mean(loss, 0.5, held=10**6)(*point))
    assert bool(taken) == takes


def test_compiled_mixed_samples_are_nan():
    model = Own()
    forward = pb.pure_forward(model)

    def loss(params, buffers, batch):
        outputs = forward(params, buffers, batch[0])
        return F.cross_entropy(outputs - outputs.mean(0), batch[1], reduction="none")

    assert product(loss, setting(model)).isnan().all()
