"""The gradients of single samples, kept layer by layer: which layers, and that no use of a weight goes unseen."""

import ast
import logging
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812  # its usual name
from torch.testing import assert_close

import pure_batchops as pb
from tests.layers import LAYERS, MIXING, agrees, dense_gradients, problem
from tests.tables import each


@pytest.fixture
def tapped(caplog):
    """When called, the numbers of the leaves that were kept by layer, product by product."""
    caplog.set_level(logging.DEBUG, "pure_batchops")
    start = "weights by layer: leaves "
    return lambda: [set(ast.literal_eval(m.removeprefix(start))) for m in caplog.messages if m.startswith(start)]


@pytest.mark.parametrize("joined", [0, 2**18])
@pytest.mark.parametrize("name", ["linear", "conv2d", "used twice"])
def test_gradients_held_in_one_matrix_or_leaf_by_leaf_are_the_same(name, joined, monkeypatch):
    monkeypatch.setattr("pure_batchops.gradients.maps.NUMBERS_JOINED", joined)
    agrees(*problem(*LAYERS[name]()), held=2**22)


@pytest.mark.parametrize("name", LAYERS)
def test_weights_of_known_layers_are_tapped_and_right(name, tapped):
    loss, params, buffers, batch = problem(*LAYERS[name]())
    weights = {number for number, leaf in enumerate(params.values()) if leaf.dim() > 1}
    rest = sum(leaf.numel() for leaf in params.values() if leaf.dim() == 1)
    agrees(pb.declared(loss, independent=False), params, buffers, batch, held=max(1, 5 * rest))
    found = tapped()  # by one pass, scales and shifts are kept by layer too
    assert len(found) == 2
    assert all(weights <= numbers for numbers in found)


@pytest.mark.parametrize("name", ["linear at few positions", "conv2d", "embedding"])
def test_over_an_ensemble_by_layer_is_the_loop(name, tapped):
    loss, params, buffers, batch = problem(*LAYERS[name]())
    states = pb.stack_states([({k: scale * leaf for k, leaf in params.items()}, buffers) for scale in (1, 2)])
    op = pb.inverse_harmonic_mean(pb.declared(loss, independent=False), 0.3, held=40)
    v = torch.randn(sum(leaf.numel() for leaf in params.values()), dtype=torch.float64)
    products = torch.vmap(op, in_dims=(0, 0, None, None))(*states, batch, v)
    for scale, product in zip((1, 2), products, strict=True):
        assert_close(product, op({k: scale * leaf for k, leaf in params.items()}, buffers, batch, v))
    assert len(tapped()) == 3
    assert all(tapped())


class Square(torch.autograd.Function):
    """A function of one's own, by NumPy: no function of torch is seen to take x to a tensor."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x):
        return torch.from_numpy(x.numpy() ** 2)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(inputs[0])

    @staticmethod
    def backward(ctx, gradient):
        return 2 * gradient * ctx.saved_tensors[0]


OUTSIDE = {
    "pow": lambda w: w**2,
    "hidden": Square.apply,
    "listed": lambda w: torch.cat([w, w]),
    "transposed": lambda w: w.mT,
    "below": torch.ops.aten.sin.default,
}


def loss_with(how, params, buffers, x):
    return (F.linear(x, params["w"]).tanh() * OUTSIDE[how](params["w"]).sin().sum()).sum(1)


@pytest.mark.parametrize("how", OUTSIDE)
def test_weight_that_is_used_outside_of_layers_too_is_right(how):
    params = {"w": torch.randn(3, 4, dtype=torch.float64)}
    agrees(partial(loss_with, how), params, {}, torch.randn(5, 4, dtype=torch.float64), held=1)


@pytest.mark.parametrize("how", [how for how in OUTSIDE if how != "hidden"])  # NumPy cannot be mapped
def test_over_an_ensemble_weight_that_is_used_outside_of_layers_too_is_right(how):
    op = pb.inverse_harmonic_mean(partial(loss_with, how), 0.3, held=1)
    w, x, v = torch.randn(2, 3, 4), torch.randn(5, 4), torch.randn(12)
    products = torch.vmap(op, in_dims=(0, None, None, None))({"w": w}, {}, x, v)
    assert_close(products, torch.stack([op({"w": member}, {}, x, v) for member in w]))


def test_same_tensor_given_for_two_parameters_is_two_parameters():
    w = torch.randn(3, 3, dtype=torch.float64)

    def loss(params, buffers, x):
        return F.linear(F.linear(x, params["a"]).tanh(), params["b"] + buffers["c"]).sum(1)

    agrees(loss, {"a": w, "b": w}, {"c": w}, torch.randn(5, 3, dtype=torch.float64), held=5 * 9)


def test_input_that_is_written_over_later_is_kept_as_it_was():
    def loss(params, buffers, x):
        hidden = F.linear(x, params["a"])
        output = F.linear(hidden, params["b"])
        hidden.mul_(0)
        return (output.tanh() + hidden).sum(1)

    params = {"a": torch.randn(3, 3), "b": torch.randn(3, 3)}
    x, v = torch.randn(5, 3), torch.randn(18)
    expected = {name: leaf.double() for name, leaf in params.items()}

    def safe(params, buffers, x):
        return F.linear(F.linear(x, params["a"]), params["b"]).tanh().sum(1)

    right = pb.gauss_newton(safe, held=0)(expected, {}, x.double(), v.double())
    assert_close(pb.gauss_newton(loss, held=1)(params, {}, x, v), right.float())


def test_loss_that_mixes_samples_is_that_of_the_batch_for_gauss_newton():
    def loss(params, buffers, x):
        values = params["w"] * x
        return values**2 - values.mean()

    params, x, v = {"w": torch.tensor([2.0])}, torch.tensor([1.0, 3.0]), torch.ones(1)
    assert_close(pb.gauss_newton(loss)(params, {}, x, v), pb.gauss_newton(loss, held=0)(params, {}, x, v))
    ensemble = torch.vmap(pb.gauss_newton(loss), in_dims=({"w": 0}, None, None, None))
    assert ensemble({"w": torch.ones(2, 1)}, {}, x, v).isnan().all()


def test_loss_that_vmap_cannot_map_has_a_gauss_newton_product():
    def loss(params, buffers, x):
        return params["w"] * x * (2.0 if bool(x.sum() > 0) else 1.0)

    params, x, v = {"w": torch.tensor([2.0])}, torch.tensor([1.0, 3.0]), torch.ones(1)
    assert_close(pb.gauss_newton(loss)(params, {}, x, v), torch.tensor([20.0]))


@pytest.mark.parametrize("factory", [pb.gauss_newton, partial(pb.inverse_harmonic_mean, regularization=1.0)])
@pytest.mark.parametrize(("held", "error"), [(-1, ValueError), (1.5, TypeError), (True, TypeError)])
def test_held_that_is_no_number_of_numbers_is_refused(factory, held, error):
    with pytest.raises(error, match="held must be"):
        factory(lambda params, buffers, x: x, held=held)


@each(MIXING, "build")
def test_model_that_mixes_samples_is_noticed(build):
    model = build()
    loss = pb.sample_losses(model, nn.MSELoss())
    point = *pb.functional_state(model), (torch.randn(4, 3), torch.randn(4, 2))
    v = torch.ones(8)
    assert_close(pb.gauss_newton(loss)(*point, v), pb.gauss_newton(loss, held=0)(*point, v))
    with pytest.raises(ValueError, match="samples must not depend on each other"):
        pb.inverse_harmonic_mean(loss, 1.0)(*point, v)


def test_modules_that_mix_the_first_axis_for_some_inputs_are_not_taken_for_row_by_row():
    over_all = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm((4, 3), elementwise_affine=False), nn.Linear(3, 1)).double()
    unbatched = nn.Sequential(nn.Linear(4, 4), nn.Conv2d(4, 4, 3, padding=1), nn.Flatten(), nn.Linear(20, 1)).double()
    for model, x in ((over_all, torch.randn(4, 3).double()), (unbatched, torch.randn(4, 5, 4).double())):
        loss = pb.sample_losses(model, nn.MSELoss())
        params, buffers = pb.functional_state(model, ["0.*", "?.weight", "2.*"] if model is over_all else ["0.*", "3.*"])
        point = params, buffers, (x, torch.zeros(4, 1).double())
        found = pb.dense(pb.gauss_newton(loss))(*point)
        assert_close(found, pb.dense(pb.gauss_newton(loss, held=0))(*point))
        assert_close(found, dense_gradients(loss, *point).T @ dense_gradients(loss, *point) / 4)


def test_under_autocast_by_layer_is_near():
    loss, params, buffers, batch = problem(nn.Linear(3, 4), torch.randn(5, 3))
    params, batch = {name: leaf.float() for name, leaf in params.items()}, tuple(part.float() for part in batch)
    v = torch.randn(16)
    right = pb.gauss_newton(loss, held=0)(params, buffers, batch, v)
    with torch.autocast("cpu", torch.bfloat16):
        near = pb.gauss_newton(loss, held=20)(params, buffers, batch, v)
    assert near.dtype == torch.float32
    assert (near - right).norm() < 0.05 * right.norm()
