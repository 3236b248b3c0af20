"""Gradients of samples, their norms and the gradient of the mean loss are those of a loop of plain autograd."""

import logging
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812  # its usual name
from torch.testing import assert_close

import pure_batchops as pb
from pure_batchops.testing import gradient_route
from pure_batchops.trees import leaves
from tests.marks import compiles


class Own(nn.Module):
    """A module of one's own with functional calls, an embedding tied to its head, and a scale outside of any layer."""

    def __init__(self):
        super().__init__()
        self.embedding, self.layer = nn.Embedding(6, 3), nn.Linear(3, 3)
        self.head = nn.Linear(3, 6, bias=False)
        self.head.weight = self.embedding.weight
        self.scale = nn.Parameter(torch.tensor(0.7))

    def forward(self, x):
        hidden = F.gelu(F.linear(F.embedding(x, self.embedding.weight), self.layer.weight, bias=self.layer.bias))
        return (self.scale * self.head(hidden.tanh())).mean(1)


def chain():
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


def problem(name):
    if name == "own":
        model, x, y = Own(), torch.randint(6, (5, 4)), torch.randint(6, (5,))
    elif name == "convolution":
        model = nn.Sequential(nn.Conv1d(2, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(12, 4))
        x, y = torch.randn(5, 2, 5).double(), torch.randint(4, (5,))
    else:
        n = 1 if name == "one sample" else 5
        model, x, y = chain(), torch.randn(n, 3).double(), torch.randint(2, (n,))
    loss = pb.sample_losses(model, nn.CrossEntropyLoss())
    return loss, *pb.functional_state(model.double().eval()), (x, y)


def plain_rows(loss, params, buffers, batch):
    """∇ℓᵢ one by one, as trees."""
    own = {name: leaf.detach().clone().requires_grad_() for name, leaf in params.items()}
    losses = loss(own, buffers, batch)
    rows = [torch.autograd.grad(value, [*own.values()], retain_graph=True, materialize_grads=True) for value in losses]
    return {name: torch.stack(parts) for name, parts in zip(own, zip(*rows, strict=True), strict=True)}


def plain_norms(rows):
    return torch.stack([row.double().reshape(len(row), -1).square().sum(1) for row in rows.values()]).sum(0).sqrt()


PROBLEMS = ["own", "convolution", "chain", "one sample"]


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("name", PROBLEMS)
def test_gradients_and_norms_are_those_of_a_loop(name, wrapped, monkeypatch):
    loss, *point = problem(name)
    loss = pb.declared(loss, independent=False) if wrapped else loss
    rows = plain_rows(loss, *point)
    assert_close(pb.sample_gradients(loss)(*point), rows)
    assert_close(pb.gradient_norms(loss)(*point), plain_norms(rows))
    assert_close(pb.gradient_norms(loss, sample_chunk_size=2)(*point), plain_norms(rows))
    mean = {name: row.mean(0) for name, row in rows.items()}
    assert_close(pb.gradient(loss)(*point), mean)
    assert_close(pb.value_and_gradient(loss)(*point), (loss(*point).mean(), mean))
    for held in (1, 5 * 20):
        monkeypatch.setattr("pure_batchops.gradients.norms.HELD", held)
        norms = pb.gradient_norms(loss)(*point)
        assert_close(norms, plain_norms(rows))
        assert not norms.requires_grad  # no graph of the package's own is left behind


def test_norms_of_large_layers_never_form_the_gradients(caplog):
    caplog.set_level(logging.DEBUG, "pure_batchops")
    loss = pb.sample_losses(nn.Linear(300, 300), nn.MSELoss())
    params, buffers = pb.functional_state(nn.Linear(300, 300).double())
    batch = torch.randn(50, 300).double(), torch.randn(50, 300).double()
    norms = pb.gradient_norms(loss)(params, buffers, batch)
    assert caplog.messages[-2].startswith("gradients of samples: by layer")
    assert_close(norms, pb.gradient_norms(loss, sample_chunk_size=7)(params, buffers, batch))
    assert gradient_route(loss, params, buffers, batch) == "by layer"
    assert not norms.requires_grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_norms_of_half_precision_are_in_single_precision(dtype):
    def loss(params, buffers, x):
        return (x * params["w"]).sum(1)

    x = 300 * torch.ones(3, 8, dtype=dtype)  # the square of 300 overflows in float16
    norms = pb.gradient_norms(loss)({"w": torch.zeros(8, dtype=dtype)}, {}, x)
    assert_close(norms, x.float().norm(dim=1))
    gradients = pb.sample_gradients(loss)({"w": torch.zeros(8, dtype=dtype)}, {}, x)["w"]
    assert_close(gradients, x)


def test_samples_along_another_axis():
    def running_mean(params, buffers, x):  # over time, along axis 0
        return F.linear(x, params["w"]).tanh().cumsum(0)

    loss = pb.sample_losses(running_mean, lambda output, target: (output - target).pow(2).sum(), batch_dim=1)
    params = {"w": torch.randn(3, 2).double()}
    batch = torch.randn(4, 5, 2).double(), torch.randn(4, 5, 3).double()
    rows = plain_rows(loss, params, {}, batch)
    assert_close(pb.sample_gradients(loss)(params, {}, batch), rows)
    assert_close(pb.gradient_norms(loss)(params, {}, batch), plain_norms(rows))


def test_params_of_several_dtypes_and_a_bare_tensor():
    def loss(params, buffers, x):
        return (x * params["a"].double() * params["b"]).sin()

    params = {"a": torch.tensor(0.3), "b": torch.tensor(0.5).double()}
    x = torch.randn(4).double()
    rows = plain_rows(loss, params, {}, x)
    assert_close(pb.sample_gradients(loss)(params, {}, x), rows)
    assert_close(pb.gradient_norms(loss)(params, {}, x), plain_norms(rows))
    assert_close(pb.sample_gradients(lambda p, b, x: p * x)(torch.tensor(2.0), {}, x.float()), x.float())


@pytest.mark.parametrize("name", ["own", "chain", "one sample"])
def test_over_an_ensemble_is_the_loop(name):
    loss, params, buffers, batch = problem(name)
    members = [({name: scale * leaf for name, leaf in params.items()}, buffers) for scale in (1, 2)]
    for function in (pb.sample_gradients(loss), pb.gradient_norms(loss), pb.gradient(loss), pb.value_and_gradient(loss)):
        together = torch.vmap(function, (0, 0, None))(*pb.stack_states(members), batch)
        alone = [leaves(function(*member, batch)) for member in members]
        assert_close(leaves(together), [torch.stack(parts) for parts in zip(*alone, strict=True)])


@pytest.mark.parametrize("name", ["own", "chain"])
def test_derivatives_go_through(name):
    loss, params, buffers, batch = problem(name)
    tangent = {name: torch.randn_like(leaf) for name, leaf in params.items()}
    product = pb.hessian(loss)(params, buffers, batch, tangent)
    along = torch.func.jvp(lambda p: pb.gradient(loss)(p, buffers, batch), (params,), (tangent,))[1]
    assert_close(along, product)

    def slope(p):
        return sum((g * t).sum() for g, t in zip(pb.gradient(loss)(p, buffers, batch).values(), tangent.values(), strict=True))

    own = {name: leaf.clone().requires_grad_() for name, leaf in params.items()}
    assert_close(dict(zip(own, torch.autograd.grad(slope(own), [*own.values()]), strict=True)), product)

    def by_hand(p):
        def of_one(x, y):
            gradient = torch.func.grad(lambda q: loss(q, buffers, (x[None], y[None])).sum())(p)
            return sum(leaf.square().sum() for leaf in gradient.values()).sqrt()

        return torch.vmap(of_one)(*batch)

    expected = torch.func.grad(lambda p: by_hand(p).sum())(params)
    assert_close(torch.func.grad(lambda p: pb.gradient_norms(loss)(p, buffers, batch).sum())(params), expected)
    norms = pb.gradient_norms(loss)(own, buffers, batch).sum()
    assert_close(dict(zip(own, torch.autograd.grad(norms, [*own.values()]), strict=True)), expected)


def test_norm_that_is_zero_has_derivative_zero():
    def loss(params, buffers, x):
        return (params - x).square() / 2

    x = torch.tensor([2.0, 3.0])
    assert_close(torch.func.grad(lambda w: pb.gradient_norms(loss)(w, {}, x).sum())(torch.tensor(2.0)), torch.tensor(-1.0))


def test_loss_that_is_one_number_is_taken_as_it_is():
    params = {"w": torch.randn(3).double(), "unused": torch.randn(2).double()}
    value, gradient = pb.value_and_gradient(lambda p, b, x: (x @ p["w"]).sin().sum())(params, {}, torch.ones(4, 3).double())
    slope = 4 * params["w"].sum().cos().expand(3)
    assert_close(value, 4 * params["w"].sum().sin())
    assert_close(gradient, {"w": slope, "unused": torch.zeros(2).double()})
    assert not value.requires_grad


def test_loss_that_depends_on_no_parameter_is_refused():
    params, x = {"w": torch.ones(2)}, torch.ones(3)
    for function in (pb.gradient, pb.sample_gradients, pb.gradient_norms):
        with pytest.raises(ValueError, match="loss must depend on params"):
            function(lambda p, b, x: x)(params, {}, x)


MIXES = {"a mean": lambda p, b, x: p["w"] * x - (p["w"] * x).mean(), "norm": lambda p, b, x: p["w"] * x / x.norm()}


@pytest.mark.parametrize("function", [pb.sample_gradients, pb.gradient_norms, partial(pb.gradient_norms, sample_chunk_size=2)])
@pytest.mark.parametrize("loss", MIXES.values(), ids=MIXES)
def test_loss_that_mixes_samples_is_refused(function, loss):
    params, x = {"w": torch.tensor(2.0)}, torch.tensor([1.0, 3.0, 8.0])
    with pytest.raises(ValueError, match="samples must not depend on each other"):
        function(loss)(params, {}, x)
    ensemble = torch.vmap(function(loss), (0, None, None))({"w": torch.ones(2)}, {}, x)
    assert all(leaf.isnan().all() for leaf in leaves(ensemble))


@pytest.mark.parametrize("function", [pb.sample_gradients, pb.gradient_norms, pb.gradient, pb.value_and_gradient])
def test_what_does_not_fit_is_refused(function):
    with pytest.raises(TypeError, match="loss must be a function"):
        function(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="loss must return"):
        function(lambda p, b, x: x[None] * p)(torch.ones(()), {}, torch.ones(3))
    with pytest.raises(ValueError, match="params must hold at least one tensor"):
        function(lambda p, b, x: x)({}, {}, torch.ones(3))


@pytest.mark.parametrize(("size", "error"), [(0, ValueError), (1.5, TypeError)])
def test_chunk_size_that_is_no_number_of_samples_is_refused(size, error):
    with pytest.raises(error, match="sample_chunk_size must be"):
        pb.gradient_norms(lambda p, b, x: x, sample_chunk_size=size)


def test_several_losses_for_one_sample_are_no_samples():
    def loss(params, buffers, x):  # one number for each position, not for each sample
        return (x * params["w"]).flatten()

    loss = pb.declared(loss, independent=True)
    params, x, v = {"w": torch.tensor(2.0)}, torch.randn(3, 4), torch.ones(1)
    assert gradient_route(loss, params, {}, x) == "unformed"
    assert_close(pb.gauss_newton(loss)(params, {}, x, v), x.square().mean()[None])


@compiles
@pytest.mark.parametrize("name", ["own", "chain"])
@pytest.mark.parametrize("function", [pb.sample_gradients, pb.gradient_norms, pb.gradient, pb.value_and_gradient])
def test_compiled_is_eager(function, name):
    loss, *point = problem(name)
    torch._dynamo.reset()
    compiled = torch.compile(function(loss), fullgraph=True, backend="aot_eager")
    assert_close(compiled(*point), function(loss)(*point))
