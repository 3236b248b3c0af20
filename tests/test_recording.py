"""Where plain autograd serves, it gives what torch.func gives; where the caller's derivatives need torch.func, that serves."""

import logging
from functools import partial

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad
from torch.nn import functional as F  # noqa: N812  # its usual name
from torch.testing import assert_close

import pure_batchops as pb
from pure_batchops.models import row_by_row as independence
from tests.layers import CHAINS, NOT_RECORDED, RECORDED, agrees, perceptron, problem
from tests.marks import TELLS


@pytest.fixture
def said(caplog):
    """When called with beginnings, the routes that were logged, in order: what follows the beginning."""
    caplog.set_level(logging.DEBUG, "pure_batchops")
    return lambda *starts: [m for m in caplog.messages if m.startswith(starts)]


@pytest.fixture
def recorded(said):
    """When called, whether each single pass was made, and what was kept."""
    ends = {"gradients of samples: held, by one pass": "held", "gradients of samples: by layer, by one pass": "by layer"}
    return lambda: [ends.get(message) for message in said(*ends, "one pass refused")]


@pytest.mark.parametrize("name", CHAINS)
def test_gradients_of_a_chain_are_recorded_and_right(name, recorded, said):
    loss, params, buffers, batch = problem(*CHAINS[name]())
    for held in (10**6, 1):
        agrees(loss, params, buffers, batch, held=held)
    weights = [number for number, leaf in enumerate(params.values()) if leaf.dim() > 1]
    assert recorded() == (["held", "held", "by layer", "by layer"] if TELLS else [None] * 4)
    if TELLS:  # otherwise vmap keeps by layer what has no other parameters
        assert said("weights by layer") == [f"weights by layer: leaves {weights}"] * 2


@pytest.mark.parametrize("name", RECORDED)
def test_chain_with_a_write_or_a_norm_is_recorded_and_right(name, recorded):
    loss, params, buffers, batch = problem(RECORDED[name](), torch.randn(5, 3))
    agrees(loss, params, buffers, batch, held=10**6)
    assert recorded() == (["held", "held"] if TELLS else [None, None])


@pytest.mark.parametrize("name", NOT_RECORDED)
def test_chain_that_cannot_be_recorded_is_right(name, recorded):
    loss, params, buffers, batch = problem(NOT_RECORDED[name](), torch.randn(5, 3))
    agrees(loss, params, buffers, batch, held=10**6)
    assert recorded() == [None, None]


@pytest.mark.parametrize("names", [["0.weight"], ["0.bias"], ["2.*"], ["0.bias", "2.weight"]])
def test_frozen_parts_of_layers_stay_out(names):
    model, x = perceptron()
    loss, _, _, batch = problem(model, x)
    params, buffers = pb.functional_state(model, restrict_to=names)
    for held in (10**6, 1):
        agrees(loss, params, buffers, batch, held=held)


@pytest.fixture
def made(said):
    """When called, whether each Hessian was recorded."""
    return lambda: [message == "hessian: plain autograd" for message in said("hessian: ")]


@pytest.fixture
def along(said):
    """When called, whether each single product of a chain was taken along v."""
    ways = ("jacobian: forward mode of plain autograd", "forward mode refused")
    return lambda: [message == ways[0] for message in said(*ways)]


def losses(params, buffers, batch):
    return (batch @ params["w"] * buffers).sin() + params["w"].pow(3).sum()


def point():
    return {"w": torch.randn(3).double()}, torch.randn(()).double(), torch.randn(4, 3).double()


OPERATIONS = {
    "hessian": pb.hessian,
    "gauss_newton": pb.gauss_newton,
    "gauss_newton_unheld": partial(pb.gauss_newton, held=0),
    "inverse_harmonic_mean": partial(pb.inverse_harmonic_mean, regularization=0.3),
    "generalized_gauss_newton": lambda loss: pb.generalized_gauss_newton(
        lambda params, buffers, x: loss(params, buffers, x)[:, None], nn.MSELoss()
    ),
}


def operation(name, loss=losses):
    op = OPERATIONS[name](loss)
    if name != "generalized_gauss_newton":
        return op
    return lambda params, buffers, batch, v: op(params, buffers, (batch, torch.zeros(len(batch), 1, dtype=v.dtype)), v)


def test_hessian_is_recorded_where_nothing_looks_on(made):
    params, buffers, batch = point()
    v = torch.randn(3, dtype=torch.float64)
    op = pb.hessian(losses)
    product = op(params, buffers, batch, v)
    assert made() == [TELLS]
    assert not product.requires_grad
    assert_close(torch.vmap(op, (None, None, None, 0))(params, buffers, batch, v[None])[0], product)
    assert made() == [TELLS, False]
    with torch.no_grad():
        assert_close(op(params, buffers, batch, v), product)
    assert made() == [TELLS, False, TELLS]


@pytest.mark.parametrize("name", OPERATIONS)
def test_inference_mode_gives_the_product_or_an_error(name):
    params, buffers, batch = point()
    op, v = operation(name), torch.randn(3, dtype=torch.float64)
    product = op(params, buffers, batch, v)
    with torch.inference_mode():
        works = torch.func.grad(torch.square)(torch.ones(())) == 2
        if works:
            assert_close(op(params, buffers, batch, v), product)
            return
        with pytest.raises(RuntimeError, match=r"must be taken outside of torch.inference_mode, .* use torch.no_grad"):
            op(params, buffers, batch, v)


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("what", ["params", "buffers", "batch", "v", "closure"])
def test_product_has_the_derivative_that_the_caller_asks_autograd_for(name, what):
    params, buffers, batch = point()
    v, w, factor = torch.randn(3, dtype=torch.float64), torch.randn(3, dtype=torch.float64), torch.tensor(1.5).double()
    arguments = {"params": params["w"], "buffers": buffers, "batch": batch, "v": v, "closure": factor}

    def number(leaf):
        a = {**arguments, what: leaf}
        op = operation(name, lambda *point: a["closure"] * losses(*point))
        return op({"w": a["params"]}, a["buffers"], a["batch"], a["v"]) @ w

    leaf = arguments[what].clone().requires_grad_()
    (by_autograd,) = torch.autograd.grad(number(leaf), leaf)
    assert_close(by_autograd, torch.func.grad(number)(arguments[what]))
    assert by_autograd.norm() > 0


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("what", ["params", "buffers", "v"])
def test_product_carries_tangents_of_forward_mode(name, what):
    params, buffers, batch = point()
    arguments = {"params": params["w"], "buffers": buffers, "v": torch.randn(3, dtype=torch.float64)}
    op, tangent = operation(name), torch.randn_like(arguments[what])

    def product(leaf):
        a = {**arguments, what: leaf}
        return op({"w": a["params"]}, a["buffers"], batch, a["v"])

    with forward_ad.dual_level():
        found = forward_ad.unpack_dual(product(forward_ad.make_dual(arguments[what], tangent))).tangent
    assert_close(found, torch.func.jvp(product, (arguments[what],), (tangent,))[1])


@pytest.mark.parametrize("name", ["hessian", "gauss_newton", "gauss_newton_unheld", "inverse_harmonic_mean"])
def test_product_of_at_is_transformed_from_outside(name):
    params, buffers, batch = point()
    v, w = torch.randn(2, 3, dtype=torch.float64)
    multiply = OPERATIONS[name](losses).at(params, buffers, batch)
    other = multiply(w)
    assert_close(torch.func.grad(lambda u: multiply(u) @ w)(v), other)
    assert_close(torch.func.jvp(multiply, (v,), (w,))[1], other)
    assert_close(torch.vmap(multiply)(torch.stack([v, w])), torch.stack([multiply(v), other]))
    assert_close(torch.vmap(torch.func.grad(lambda u: multiply(u) @ w))(v[None])[0], other)
    leaf = v.clone().requires_grad_()
    assert_close(torch.autograd.grad(multiply(leaf) @ w, leaf)[0], other)


def test_product_is_the_callers_own():
    def square(params, buffers, batch):
        return params["w"].square().sum()[None] / 2

    params, v = {"w": torch.randn(3)}, torch.randn(3)
    product = pb.hessian(square)(params, {}, None, v)
    assert_close(product, v)
    product += 1
    assert not torch.equal(product, v)


def test_linear_loss_and_unused_parameter_have_zero_hessian_and_no_parameter_is_refused():
    params = {"w": torch.randn(3), "unused": torch.randn(2)}
    op = pb.hessian(lambda params, buffers, x: x @ params["w"])
    assert_close(op(params, {}, torch.randn(4, 3), torch.ones(5)), torch.zeros(5))
    assert_close(op(params, {}, torch.randn(4, 3), torch.ones(2, 5)), torch.zeros(2, 5))
    with pytest.raises(ValueError, match="loss must depend on params"):
        pb.hessian(lambda params, buffers, x: x)(params, {}, torch.randn(4), torch.ones(5))


class Stops(nn.Module):
    """Forward mode goes on where this stops."""

    def forward(self, x):
        with torch.no_grad():
            stopped = x.square()
        return x + stopped


def curved(model, x):
    model, x = model.double(), x.double() if x.is_floating_point() else x
    params, buffers = pb.functional_state(model)
    targets = torch.randn_like(model(x)).detach()
    op = pb.generalized_gauss_newton(model, lambda output, target: (output - target).pow(4).sum())
    return op, params, buffers, (x, targets)


@pytest.mark.parametrize("name", CHAINS)
def test_single_product_of_a_chain_is_taken_along_v_in_one_pass_and_right(name, along):
    model, x = CHAINS[name]()
    op, *point = curved(model, x)
    v = torch.randn(sum(leaf.numel() for leaf in point[0].values()), dtype=torch.float64)
    assert_close(op(*point, v), op.at(*point)(v))
    tree = {key: torch.randn_like(leaf) for key, leaf in point[0].items()}
    assert_close(op(*point, tree), op.at(*point)(tree))
    assert_close(op(*point, point[0]), op.at(*point)(point[0]))
    assert along() == [TELLS] * 3


OF_CHANNELS = [nn.GroupNorm(2, 4), nn.BatchNorm1d(4), nn.BatchNorm2d(4), nn.BatchNorm3d(4), nn.LayerNorm(4)]
CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


def inside_a_chain(kind):
    """A chain around a module of this kind, with as many axes as its name says, and an input."""
    axes = next((axes for axes in CONVOLUTIONS if kind.__name__.endswith(f"{axes}d")), 1)
    given = {type(module): module for module in OF_CHANNELS}
    if kind in CONVOLUTIONS.values():
        given[kind] = kind(4, 4, 1)
    if "Pool" in kind.__name__:
        given[kind] = kind(2)
    given |= {nn.Linear: nn.Linear(4, 4), nn.Embedding: nn.Identity(), nn.Flatten: nn.Flatten(2)}
    module = given[kind] if kind in given else kind()
    first = nn.Embedding(5, 2) if kind is nn.Embedding else CONVOLUTIONS[axes](2, 4, 1)
    x = torch.randint(5, (3, 2)) if kind is nn.Embedding else torch.randn(3, 2, *[4] * axes)
    parts = nn.Sequential(first, module, nn.Flatten()).eval()
    return nn.Sequential(*parts, nn.Linear(parts(x).shape[1], 2)), x


@pytest.mark.parametrize("kind", [*independence._ROW_BY_ROW, nn.LayerNorm, nn.Flatten], ids=lambda kind: kind.__name__)
def test_every_module_of_a_chain_is_right_along_v_and_by_layer(kind, along):
    model, x = inside_a_chain(kind)
    op, *point = curved(model, x)
    assert independence.is_row_by_row(model)
    v = torch.randn(sum(leaf.numel() for leaf in point[0].values()), dtype=torch.float64)
    assert_close(op(*point, v), op.at(*point)(v))
    assert along() == [TELLS]
    loss = pb.sample_losses(model, nn.MSELoss())
    assert_close(pb.gauss_newton(loss)(*point, v), pb.gauss_newton(loss, held=0)(*point, v))


def test_input_that_the_model_writes_into_is_not_the_callers():
    model = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(3, 2)).double()
    x, y = torch.randn(5, 3).double(), torch.zeros(5, 2).double()
    before = x.clone()
    loss = pb.sample_losses(model, nn.MSELoss())
    params, buffers = pb.functional_state(model)
    v = torch.ones(8, dtype=torch.float64)
    for op in (pb.hessian(loss), pb.gauss_newton(loss), pb.generalized_gauss_newton(model, nn.MSELoss())):
        product = op(params, buffers, (x, y), v)
        ensemble = {name: leaf[None] for name, leaf in params.items()}
        assert_close(torch.vmap(op, (0, None, None, None))(ensemble, buffers, (x, y), v)[0], product)
    assert torch.equal(x, before)


def test_module_that_stops_gradients_is_not_taken_along_v(along):
    op, *point = curved(nn.Sequential(nn.Linear(3, 4), Stops(), nn.Linear(4, 2)), torch.randn(5, 3))
    v = torch.randn(26, dtype=torch.float64)
    assert_close(op(*point, v), op.at(*point)(v))
    assert along() == [False]


@pytest.mark.parametrize("what", ["params", "batch", "v"])
def test_single_product_of_a_chain_has_the_derivatives_that_the_caller_asks_for(what, along):
    op, params, buffers, (x, targets) = curved(*perceptron())
    arguments = {"params": params["0.weight"], "batch": x, "v": torch.randn(26, dtype=torch.float64)}
    w, tangent = torch.randn(26, dtype=torch.float64), torch.randn_like(arguments[what])

    def number(leaf):
        a = {**arguments, what: leaf}
        return op({**params, "0.weight": a["params"]}, buffers, (a["batch"], targets), a["v"]) @ w

    leaf = arguments[what].clone().requires_grad_()
    gradient = torch.func.grad(number)(arguments[what])
    assert_close(torch.autograd.grad(number(leaf), leaf)[0], gradient)
    assert_close(torch.func.jvp(number, (arguments[what],), (tangent,))[1], (gradient * tangent).sum())
    with forward_ad.dual_level():
        found = forward_ad.unpack_dual(number(forward_ad.make_dual(arguments[what], tangent))).tangent
    assert_close(found, (gradient * tangent).sum())
    with torch.no_grad():
        product = number(leaf)
    assert not product.requires_grad
    assert_close(product, number(arguments[what]))
    assert not any(along()[:-2])


def test_without_torch_telling_of_its_transforms_products_are_the_same(monkeypatch, made):
    params, buffers, batch = point()
    v = torch.randn(3, dtype=torch.float64)
    right = pb.hessian(losses)(params, buffers, batch, v)
    monkeypatch.setattr("pure_batchops.torch_privates.transforms", lambda: None)
    assert_close(pb.hessian(losses)(params, buffers, batch, v), right)
    assert made() == [TELLS, False]


def test_loss_in_other_layers_than_torchs_modules_is_not_taken_for_a_chain(recorded, said):
    def forward(params, buffers, x):
        return F.linear(x - x.mean(0), params["w"])

    loss = pb.sample_losses(forward, nn.MSELoss())
    point = {"w": torch.randn(2, 3)}, {}, (torch.randn(4, 3), torch.randn(4, 2))
    assert_close(pb.gauss_newton(loss)(*point, torch.ones(6)), pb.gauss_newton(loss, held=0)(*point, torch.ones(6)))
    assert recorded() == [None]
    assert said("one pass refused") == ["one pass refused: samples depend on each other"]
