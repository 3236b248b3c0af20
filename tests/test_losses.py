"""From a model and a criterion to the loss of each sample."""

import re
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812
from torch.testing import assert_close
from torch.utils.data import DataLoader

import pure_batchops as pb
from pure_batchops.models.forward import pure_forward
from tests import dense
from tests.strategies import KINDS, problem


def identity(params, buffers, inputs):
    return inputs * params


ONE = torch.ones((), dtype=torch.float64)


def losses_of(criterion, output, target, batch_dim=0):
    return pb.sample_losses(identity, criterion, batch_dim)(ONE, {}, (output, target))


@pytest.mark.parametrize("kind", KINDS)
def test_loss_of_each_sample_is_its_loss_alone(kind):
    for n in (1, 4):
        p = problem(kind, n, seed=n)
        values = p.loss(p.params, p.buffers, p.batch)
        assert values.shape == (n,)
        assert_close(values, torch.stack(dense.losses(p.model, p.criterion, p.batch, p.batch_dim)).detach())


LOSSES = {
    "cross entropy of classes": (nn.CrossEntropyLoss(), lambda x: x.argmax(1)),
    "cross entropy of probabilities": (nn.CrossEntropyLoss(), lambda x: x.softmax(1)),
    "negative log-likelihood": (lambda o, t: F.nll_loss(o.log_softmax(1), t), lambda x: x.argmax(1)),
    "squares": (nn.MSELoss(), torch.sin),
    "sums of squares": (nn.MSELoss(reduction="sum"), torch.sin),
    "absolute": (nn.L1Loss(), torch.sin),
    "huber": (nn.HuberLoss(), torch.sin),
    "smooth": (nn.SmoothL1Loss(), torch.sin),
    "binary": (nn.BCEWithLogitsLoss(), torch.sigmoid),
    "binary with weights of positives": (nn.BCEWithLogitsLoss(pos_weight=torch.full((3,), 2.0)), torch.sigmoid),
    "soft margin": (nn.SoftMarginLoss(), torch.sign),
    "divergence": (nn.KLDivLoss(reduction="batchmean"), lambda x: x.softmax(1)),
    "poisson": (nn.PoissonNLLLoss(), torch.exp),
    "one of torch's functions": (F.mse_loss, torch.sin),
    "a partial": (partial(F.smooth_l1_loss, beta=0.5), torch.sin),
}


@pytest.mark.parametrize(("criterion", "target"), LOSSES.values(), ids=LOSSES)
def test_mean_of_the_losses_is_torchs_loss_of_the_batch(criterion, target):
    x = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    y = target(x.flip(0))
    values = losses_of(criterion, x, y)
    assert_close(values, torch.stack([criterion(x[i : i + 1], y[i : i + 1]) for i in range(5)]))
    whole = criterion(x, y)
    assert_close(values.sum() if getattr(criterion, "reduction", "") == "sum" else values.mean(), whole)
    ensemble = torch.vmap(torch.vmap(lambda s: losses_of(criterion, x * s, y)))(torch.ones(2, 2, dtype=torch.float64))
    assert_close(ensemble[1, 1], values)


def test_class_weights_with_reduction_none_or_sum_are_those_of_the_sample():
    weight = torch.tensor([1.0, 2.0, 5.0], dtype=torch.float64)
    x = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    y = torch.tensor([0, 1, 2, 2])
    expected = F.cross_entropy(x, y, weight, reduction="none")
    for reduction in ("none", "sum"):
        assert_close(losses_of(nn.CrossEntropyLoss(weight, reduction=reduction), x, y), expected)
        assert_close(losses_of(partial(F.cross_entropy, weight=weight, reduction=reduction), x, y), expected)


def test_ignored_samples_with_reduction_none_count_as_zero():
    x, y = torch.eye(3, dtype=torch.float64), torch.tensor([0, 9, 2])
    values = losses_of(nn.CrossEntropyLoss(ignore_index=9, reduction="none"), x, y)
    assert_close(values, F.cross_entropy(x, y, ignore_index=9, reduction="none"))
    assert values[1] == 0


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_batch_dim_moves_the_samples(reduction):
    x = torch.randn(2, 4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    values = losses_of(nn.MSELoss(reduction=reduction), x, 2 * x, batch_dim=1)
    assert_close(values, (x**2).mean((0, 2)) if reduction == "mean" else (x**2).sum((0, 2)))
    assert_close(losses_of(nn.MSELoss(reduction=reduction), x, 2 * x, batch_dim=-2), values)


def test_inputs_and_targets_may_be_trees():
    def forward(params, buffers, inputs):
        return {"mean": inputs["x"] * params, "spread": [inputs["more"][0]]}

    def criterion(output, target):
        return ((output["mean"] - target["y"]) ** 2 * output["spread"][0]).sum()

    x = torch.arange(3.0, dtype=torch.float64)
    loss = pb.sample_losses(forward, criterion)
    assert_close(loss(ONE, {}, ({"x": x, "more": (x,)}, {"y": -x})), 4 * x**3)
    assert_close(loss(ONE, {}, [{"x": x, "more": (x,)}, {"y": -x}]), 4 * x**3)  # a DataLoader yields lists


WEIGHTS = torch.ones(3)


@pytest.mark.parametrize(
    ("criterion", "error", "message"),
    [
        (nn.CrossEntropyLoss(WEIGHTS), ValueError, "must not have weights with reduction='mean'.*use reduction='sum'"),
        (nn.NLLLoss(WEIGHTS), ValueError, "must not have weights"),
        (partial(F.cross_entropy, weight=WEIGHTS), ValueError, "must not have weights"),
        (nn.BCEWithLogitsLoss(WEIGHTS), ValueError, "must not have weights.*loses its weight; weigh in"),
        (partial(F.binary_cross_entropy, weight=WEIGHTS, reduction="sum"), ValueError, "must not have weights"),
        (nn.CrossEntropyLoss(ignore_index=0), ValueError, "ignore_index=0 with reduction='mean'.*use reduction='sum'"),
        (partial(F.nll_loss, ignore_index=0), ValueError, "ignore_index=0"),
        (nn.AdaptiveLogSoftmaxWithLoss(4, 8, [2]), ValueError, "must not have parameters of its own"),
        (None, TypeError, "criterion must be a function, got NoneType"),
    ],
    ids=lambda value: str(value).split(" at 0x")[0],
)
def test_criterion_that_would_be_silently_wrong_is_refused_by_the_factory(criterion, error, message):
    with pytest.raises(error, match=message):
        pb.sample_losses(identity, criterion)
    with pytest.raises(error, match=message):
        pb.generalized_gauss_newton(identity, criterion)


@pytest.mark.parametrize(
    "criterion", [nn.MSELoss(reduction="none"), lambda o, t: (o - t)[0], lambda o, t: 1.0], ids=["none", "row", "float"]
)
def test_criterion_of_several_numbers_per_sample_is_refused(criterion):
    with pytest.raises(ValueError, match="criterion must return one number per sample, got"):
        losses_of(criterion, torch.ones(2, 3), torch.ones(2, 3))


X, Y = torch.ones(4, 3), torch.ones(4, 3)
BATCHES = {
    "unequal": ((X, Y[:3]), r"inputs and targets must have one number of samples .* \(4, 3\), \(3, 3\)"),
    "unequal within inputs": (({"a": X, "b": X[:2]}, Y), "inputs and targets must"),
    "empty": ((X[:0], Y[:0]), "empty batch"),
    "a tensor": (X, r"batch must be a pair \(inputs, targets\), got Tensor"),
    "three": ((X, Y, Y), "batch must be a pair .* got tuple of length 3"),
    "a dict": ({"x": X, "y": Y}, r"batch must be a pair .* got dict; make it one: \(batch\['x'\], batch\['y'\]\)"),
    "a dict of several inputs": (
        {"ids": X, "labels": Y, "mask": X},
        r"make it one: \(\{'ids': batch\['ids'\], 'mask': batch\['mask'\]\}, batch\['labels'\]\)",
    ),
    "a loader": (
        DataLoader([(X[0], Y[0])]),
        r"got DataLoader; .* use averaged\(op\) and for one batch next\(",
    ),
    "nothing": (None, "batch must be a pair .* got NoneType"),
    "without axes": ((torch.ones(()), torch.ones(())), "inputs and targets must"),
}


@pytest.mark.parametrize(("batch", "message"), BATCHES.values(), ids=BATCHES)
def test_batch_that_is_no_pair_of_equal_lengths_is_refused(batch, message):
    model = nn.Linear(3, 3)
    state = pb.functional_state(model)
    v = torch.ones(12)
    with pytest.raises(ValueError, match=message):
        pb.sample_losses(model, nn.MSELoss())(*state, batch)
    loss = pb.sample_losses(model, nn.MSELoss())
    operations = [pb.hessian(loss), pb.gauss_newton(loss), pb.inverse_harmonic_mean(loss, 1.0)]
    for op in [*operations, pb.generalized_gauss_newton(model, nn.MSELoss())]:
        with pytest.raises(ValueError, match=message):
            op(*state, batch, v)
        with pytest.raises(ValueError, match=message):
            op.at(*state, batch)


def test_outputs_of_another_length_than_the_targets_are_refused():
    def halved(params, buffers, inputs):
        return inputs[::2]

    with pytest.raises(ValueError, match="model's outputs and the targets"):
        pb.sample_losses(halved, nn.MSELoss())(ONE, {}, (X, Y))
    with pytest.raises(ValueError, match="output for each sample"):
        pb.sample_losses(lambda params, buffers, x: x.sum(), nn.MSELoss())(ONE, {}, (X, Y))


class Output(NamedTuple):
    """What a model of a library returns: more than the criterion needs."""

    loss: torch.Tensor
    logits: torch.Tensor


@dataclass
class Filled:
    """The same as a class that torch does not know as a tree."""

    logits: torch.Tensor


class Model(nn.Module):
    """A model with such outputs."""

    def __init__(self, make):
        super().__init__()
        self.layer, self.make = nn.Linear(3, 3), make

    def forward(self, x):
        return self.make(self.layer(x))


@pytest.mark.parametrize(
    ("make", "item", "seen"),
    [
        (lambda x: {"loss": x.sum(), "logits": x}, "['logits']", r"loss \(\), logits \(4, 3\)"),
        (lambda x: {"logits": x, "cache": object()}, "['logits']", r"logits \(4, 3\), cache object"),
        (lambda x: Output(x.sum(), x), ".logits", r"loss \(\), logits \(4, 3\)"),
        (Filled, ".logits", r"logits \(4, 3\)"),
    ],
    ids=["dict", "cache", "tuple", "dataclass"],
)
def test_outputs_with_more_than_samples_are_named_with_the_way_out(make, item, seen):
    model = Model(make)
    state, v = pb.functional_state(model), torch.ones(12)
    loss = pb.sample_losses(model, lambda o, t: F.mse_loss(o.logits if item == ".logits" else o["logits"], t))
    ops = [pb.hessian(loss), pb.generalized_gauss_newton(model, nn.MSELoss())]
    way = re.escape(f"forward = pure_batchops.pure_forward(model), give lambda p, b, x: forward(p, b, x){item} for the model")
    for op in ops:
        with pytest.raises(ValueError, match=f"output for each sample along axis 0, .*: {seen}; with {way}"):
            op(*state, (X, Y), v)
    pure = pure_forward(model)
    forward = {".logits": lambda p, b, x: pure(p, b, x).logits, "['logits']": lambda p, b, x: pure(p, b, x)["logits"]}[item]
    twin = pb.generalized_gauss_newton(nn.Linear(3, 3), nn.MSELoss())
    alike = {name.removeprefix("layer."): leaf for name, leaf in state[0].items()}
    assert_close(pb.generalized_gauss_newton(forward, nn.MSELoss())(*state, (X, Y), v), twin(alike, {}, (X, Y), v))


@pytest.mark.parametrize("operation", [pb.gauss_newton, lambda loss: pb.inverse_harmonic_mean(loss, 1.0)], ids=["gn", "ihm"])
def test_scalar_loss_is_refused_where_losses_of_samples_are_needed(operation):
    op = operation(lambda params, buffers, x: (params * x).square().mean())
    with pytest.raises(ValueError, match=r"loss must return the losses of the samples, of shape \(n,\), got the shape \(\)"):
        op(torch.ones(2), {}, torch.ones(3, 2), torch.ones(2))


def test_hessian_takes_a_scalar_loss_and_refuses_a_matrix_or_a_number():
    product = pb.hessian(lambda params, buffers, x: (params * x).square().sum(1).mean())
    assert_close(product(torch.ones(2), {}, torch.ones(3, 2), torch.ones(2)), torch.full((2,), 2.0))
    with pytest.raises(ValueError, match=r"loss must return a tensor of shape \(n,\) or \(\), got the shape \(3, 2\)"):
        pb.hessian(lambda params, buffers, x: params * x)(torch.ones(2), {}, torch.ones(3, 2), torch.ones(2))
    with pytest.raises(ValueError, match="got float"):
        pb.hessian(lambda params, buffers, x: 1.0)(torch.ones(2), {}, torch.ones(3, 2), torch.ones(2))


def test_loss_that_mixes_samples_is_refused_by_the_inverse_harmonic_mean():
    def centred(params, buffers, x):
        values = (x * params).sum(1)
        return (values - values.mean()).square()

    op, x = pb.inverse_harmonic_mean(centred, 1.0), torch.arange(6.0).reshape(3, 2)
    with pytest.raises(ValueError, match="same value alone as in its batch"):
        op(torch.ones(2), {}, x, torch.ones(2))
    # Under vmap no number can be read: the product is not a number instead of wrong.
    products = torch.vmap(op, in_dims=(0, None, None, None))(torch.ones(2, 2), {}, x, torch.ones(2))
    assert products.isnan().all()
