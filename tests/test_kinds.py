"""Kinds of layers, added as the page of `pure_batchops.gradients` says: the weight stands anywhere, and bugs are raised."""

import logging

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812  # its usual name
from torch.testing import assert_close

import pure_batchops as pb
from pure_batchops.gradients.kinds import KINDS
from pure_batchops.gradients.layer import LayerKind, call_of
from pure_batchops.testing import gradient_route, only_torch_func
from tests.layers import agrees
from tests.marks import TELLS


def read_group_norm(args, kwargs):
    return call_of(F.group_norm, ("input", "num_groups", "weight", "bias", "eps"), args, kwargs)


def group_norm(x, weight, options):
    return F.group_norm(x.flatten(0, 1), weight=weight, **options).unflatten(0, x.shape[:2])


def read_batch_norm(args, kwargs):
    names = ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")
    call = call_of(F.batch_norm, names, args, kwargs)
    return None if call.options.get("training") else call


def batch_norm(x, weight, options):
    return F.batch_norm(x.flatten(0, 1), weight=weight, **options).unflatten(0, x.shape[:2])


def read_product(args, kwargs):  # an input on the right of its weight
    return call_of(torch.mul, ("input", "other"), args, kwargs, x="other", weight="input")


def mean_and_variance():
    return torch.randn(4, dtype=torch.float64), torch.rand(4, dtype=torch.float64) + 0.5


NEW = {
    "group norm by position": (
        (F.group_norm, LayerKind(read_group_norm, group_norm)),
        lambda p, b, x: F.group_norm(x, 2, p["w"], p["b"]),
    ),
    "group norm by keyword": (
        (F.group_norm, LayerKind(read_group_norm, group_norm)),
        lambda p, b, x: F.group_norm(x, bias=p["b"], num_groups=2, weight=p["w"]) + 0 * p["b"][:1],
    ),
    "one tensor as weight and bias": (
        (F.group_norm, LayerKind(read_group_norm, group_norm)),
        lambda p, b, x: F.group_norm(x, 2, p["w"], p["w"]) * p["b"].sum(),
    ),
    "batch norm": (
        (F.batch_norm, LayerKind(read_batch_norm, batch_norm)),
        lambda p, b, x: F.batch_norm(x, *b, p["w"], p["b"]),
    ),
    "scale before its input": (
        (torch.mul, LayerKind(read_product, lambda x, weight, options: x * weight)),
        lambda p, b, x: torch.mul(p["w"], x.mT).mT + p["b"][:, None],
    ),
}


def problem(forward, independent):
    def loss(params, buffers, x):
        return forward(params, buffers, x).sin().square().flatten(1).sum(1)

    loss = pb.declared(loss, independent=independent)
    params = {"w": torch.randn(4, dtype=torch.float64), "b": torch.randn(4, dtype=torch.float64)}
    return loss, params, mean_and_variance(), torch.randn(5, 4, 3, dtype=torch.float64)


@pytest.mark.parametrize("independent", [False, True])
@pytest.mark.parametrize("name", NEW)
def test_kind_with_its_weight_anywhere_is_tapped_and_right(name, independent, monkeypatch, caplog):
    (function, kind), forward = NEW[name]
    monkeypatch.setitem(KINDS, function, kind)
    caplog.set_level(logging.DEBUG, "pure_batchops")
    loss, *point = problem(forward, independent)
    agrees(loss, *point, held=5 * 4)
    is_by_layer = name != "one tensor as weight and bias"
    assert ("weights by layer: leaves [0]" in caplog.messages) == is_by_layer
    agrees(loss, *point, held=2**22)


@pytest.mark.parametrize("name", ["group norm by position", "batch norm"])
def test_new_kind_comes_by_one_pass(name, monkeypatch, caplog):
    (function, kind), forward = NEW[name]
    monkeypatch.setitem(KINDS, function, kind)
    caplog.set_level(logging.DEBUG, "pure_batchops")
    loss, *point = problem(forward, True)
    way = "by one pass" if hasattr(torch._C._functorch, "get_interpreter_stack") else "by vmap"
    assert gradient_route(loss, *point) == "held"
    assert gradient_route(loss, *point, held=20) == "by layer"
    assert [m for m in caplog.messages if m.startswith("gradients")] == [
        f"gradients of samples: held, {way}",
        f"gradients of samples: by layer, {way}",
    ]


KNOWN = {
    "linear": (lambda p, x: F.linear(weight=p["w"], bias=p["b"], input=x), (4, 3), (5, 3)),
    "linear with the bias alone by keyword": (lambda p, x: F.linear(x, p["w"], bias=p["b"]), (4, 3), (5, 3)),
    "convolution": (lambda p, x: F.conv1d(bias=p["b"], weight=p["w"], input=x, padding=1), (4, 2, 3), (5, 2, 6)),
    "embedding": (lambda p, x: F.embedding(weight=p["w"], input=x, padding_idx=1) + p["b"][:3], (6, 3), None),
}


@pytest.mark.parametrize("name", KNOWN)
@pytest.mark.parametrize("independent", [False, True])
def test_known_layers_called_with_keywords_are_kept_by_layer(name, independent, caplog):
    forward, shape, size = KNOWN[name]
    caplog.set_level(logging.DEBUG, "pure_batchops")

    def loss(params, buffers, x):
        return forward(params, x).sin().square().flatten(1).sum(1)

    loss = pb.declared(loss, independent=independent)
    params = {"w": torch.randn(shape, dtype=torch.float64), "b": torch.randn(4, dtype=torch.float64)}
    x = torch.randint(6, (5, 2)) if size is None else torch.randn(size, dtype=torch.float64)
    agrees(loss, params, {}, x, held=20)
    assert caplog.messages.count("weights by layer: leaves [0]") == 2
    agrees(loss, params, {}, x, held=2**22)


def broken(args, kwargs):
    msg = "a bug of ours"
    raise KeyError(msg)


@pytest.mark.parametrize("independent", [False, True])
def test_bug_in_a_kind_of_layer_is_raised(independent, monkeypatch):
    monkeypatch.setitem(KINDS, F.linear, KINDS[F.linear]._replace(read=broken))
    loss = pb.sample_losses(nn.Linear(3, 2), nn.MSELoss())
    loss = pb.declared(loss, independent=independent)
    params, buffers = pb.functional_state(nn.Linear(3, 2))
    batch = torch.randn(4, 3), torch.randn(4, 2)
    with pytest.raises(KeyError, match="a bug of ours"):
        gradient_route(loss, params, buffers, batch, held=8)


def scaled(params, x):
    """A parameter that enters in a way which no single pass takes."""
    return torch.einsum("n,->n", F.linear(x, params["w"]).sum(1), params["scale"])


def unmappable(params, buffers, x):
    return scaled(params, x) * (2.0 if bool(x.sum() > 0) else 1.0)


def needs_many(params, buffers, x):
    assert len(x) > 1, "one sample is not enough"
    return scaled(params, x)


REFUSED = {
    "the loss cannot be mapped over samples: RuntimeError: vmap": unmappable,
    "the loss cannot be mapped over samples: AssertionError: one sample is not enough": needs_many,
    "samples depend on each other": lambda p, b, x: scaled(p, x - x.mean(0)),
    "gradients outside of known layers have more than 6 numbers": lambda p, b, x: (p["w"][0] * x).sum(1) * p["scale"],
    "no tensor of the batch has 5 samples along axis 0": lambda p, b, x: scaled(p, x[:5]),
}


@pytest.mark.parametrize("why", REFUSED)
@pytest.mark.parametrize("held", [6, 2**22])
def test_refused_route_says_why(why, held, caplog):
    if held > 6 and "outside" in why:
        return
    loss, params = REFUSED[why], {"w": torch.randn(2, 3), "scale": torch.tensor(0.7)}
    caplog.set_level(logging.DEBUG, "pure_batchops")
    x = torch.rand(6 if "no tensor" in why else 5, 3)
    assert gradient_route(loss, params, {}, x, held=held) == "unformed"
    assert caplog.messages[0].startswith("one pass refused: ")
    whys = (
        "uses a parameter, not as the weight of a known layer",
        "gradients of tensors made of params have more than 6 numbers",
        "a use of a parameter was not seen",
    )
    assert any(reason in caplog.messages[0] for reason in whys) or not TELLS
    assert caplog.messages[1].startswith(f"by vmap refused: {why}")
    assert caplog.messages[2] == "gradients of samples: unformed"
    v = torch.randn(7)
    assert_close(pb.gauss_newton(loss, held=held)(params, {}, x, v), pb.gauss_newton(loss, held=0)(params, {}, x, v))


def test_only_torch_func_takes_no_plain_autograd(caplog):
    caplog.set_level(logging.DEBUG, "pure_batchops")
    loss = pb.sample_losses(nn.Linear(3, 2), nn.MSELoss())
    params, buffers = pb.functional_state(nn.Linear(3, 2))
    batch = torch.randn(4, 3), torch.randn(4, 2)
    operations = {
        "hessian": pb.hessian(loss),
        "held": pb.gauss_newton(loss),
        "unformed": pb.gauss_newton(loss, held=0),
        "along": pb.generalized_gauss_newton(nn.Linear(3, 2), nn.MSELoss()),
        "gradient": lambda params, buffers, batch, v: pb.gradient(loss)(params, buffers, batch),
    }
    for op in operations.values():
        usual = op(params, buffers, batch, torch.ones(8))
        caplog.clear()
        with only_torch_func():
            assert_close(op(params, buffers, batch, torch.ones(8)), usual)
        assert not any("plain autograd" in m and "refused" not in m or m.endswith("by one pass") for m in caplog.messages)
