"""The curvature of a criterion in closed form is the Hessian of its mean over the samples, by double backward."""

from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F  # noqa: N812  # its usual name
from torch.testing import assert_close

import pure_batchops as pb
from pure_batchops.losses.criterion import output_losses
from pure_batchops.losses.curvature import closed_curvature
from tests.marks import compiles

N, CLASSES = 4, 5


def labels(shape):
    return torch.randint(CLASSES, (N, *shape))


def some_ignored(shape):
    return torch.where(torch.rand(N, *shape) < 0.5, -100, labels(shape))


def probabilities(shape):
    return torch.rand(N, CLASSES, *shape)


def values(shape):
    return torch.randn(N, CLASSES, *shape)


def of_classes(last=1.5):
    return torch.linspace(0.5, last, CLASSES)


CLOSED = {
    "squares": (F.mse_loss, values),
    "sum of squares": (partial(F.mse_loss, reduction="sum"), values),
    "module of squares": (nn.MSELoss(), values),
    "cross entropy": (F.cross_entropy, labels),
    "module of cross entropy": (nn.CrossEntropyLoss(), labels),
    "smoothed": (partial(F.cross_entropy, label_smoothing=0.3), labels),
    "ignored in a sum": (nn.CrossEntropyLoss(reduction="sum"), some_ignored),
    "ignored by another label": (nn.CrossEntropyLoss(reduction="sum", ignore_index=2, label_smoothing=0.2), labels),
    "weighted": (partial(F.cross_entropy, weight=of_classes(), reduction="sum"), labels),
    "weighted and smoothed": (
        nn.CrossEntropyLoss(weight=of_classes(), reduction="sum", label_smoothing=0.3),
        some_ignored,
    ),
    "probabilities": (nn.CrossEntropyLoss(), probabilities),
    "probabilities, weighted and smoothed": (
        partial(F.cross_entropy, weight=of_classes(), reduction="sum", label_smoothing=0.3),
        probabilities,
    ),
    "logistic": (nn.BCEWithLogitsLoss(), probabilities),
    "sum of logistic": (partial(F.binary_cross_entropy_with_logits, reduction="sum"), probabilities),
    "logistic, positives weighted": (
        lambda shape: nn.BCEWithLogitsLoss(pos_weight=of_classes(3.0).reshape(-1, *[1] * len(shape))),
        probabilities,
    ),
}


def built(name, shape, dtype):
    """The criterion, outputs, targets and u."""
    criterion, targets = CLOSED[name]
    if name == "logistic, positives weighted":
        criterion = criterion(shape)
    if isinstance(criterion, nn.Module):
        criterion = criterion.to(dtype)
    elif isinstance(criterion, partial) and "weight" in criterion.keywords:
        criterion = partial(criterion, weight=criterion.keywords["weight"].to(dtype))
    y = targets(shape)
    outputs, u = 2 * torch.randn(2, N, CLASSES, *shape, dtype=dtype)
    return criterion, outputs, y.to(dtype) if y.is_floating_point() else y, u


def double_backward(criterion, outputs, targets, u):
    leaf = outputs.detach().requires_grad_()
    value = output_losses(criterion, 0)(leaf, targets).mean()
    (slope,) = torch.autograd.grad(value, leaf, create_graph=True)
    return torch.autograd.grad(slope, leaf, u)[0]


@pytest.mark.parametrize("name", CLOSED)
@given(seed=st.integers(0, 10**6), shape=st.sampled_from([(), (1,), (3,), (2, 3)]), classes_last=st.booleans())
def test_closed_form_is_double_backward(name, seed, shape, classes_last):
    torch.manual_seed(seed)
    for dtype in (torch.float64, torch.float32):
        criterion, outputs, targets, u = built(name, shape, dtype)
        if classes_last:  # in memory, as a language model gives them
            outputs, u = (t.movedim(1, -1).contiguous().movedim(-1, 1) for t in (outputs, u))
        before = outputs.clone(), u.clone()
        found = closed_curvature(criterion, 0)(outputs, targets)(u)
        expected = double_backward(criterion, outputs, targets, u)
        assert found.dtype == expected.dtype
        assert_close(found, expected, **({} if dtype == torch.float64 else {"rtol": 1e-4, "atol": 1e-6}))
        assert torch.equal(outputs, before[0])
        assert torch.equal(u, before[1])


def model_of(shape):
    """A linear model with outputs of this shape after the classes."""
    size = torch.Size(shape).numel()

    def forward(params, buffers, x):
        return (x @ params["w"]).sin().reshape(len(x), CLASSES, *shape)

    return forward, {"w": torch.randn(3, CLASSES * size).double()}


@pytest.mark.parametrize("name", CLOSED)
def test_products_nest_and_map_and_have_derivatives(name):
    torch.manual_seed(0)
    shape = (2,)
    criterion, _, targets, _ = built(name, shape, torch.float64)
    forward, params = model_of(shape)
    op = pb.generalized_gauss_newton(forward, criterion)
    slow = pb.generalized_gauss_newton(forward, lambda o, t: criterion(o, t))  # a criterion that nobody knows
    x, numbers = torch.randn(N, 3).double(), params["w"].numel()
    v, w = torch.randn(2, numbers).double()
    assert_close(op(params, {}, (x, targets), v), slow(params, {}, (x, targets), v))
    rows = torch.randn(3, numbers).double()
    assert_close(op(params, {}, (x, targets), rows), slow(params, {}, (x, targets), rows))
    members = {"w": torch.stack([params["w"], params["w"] + 0.1])}
    by_vmap = [torch.vmap(o, (0, None, None, None))(members, {}, (x, targets), v) for o in (op, slow)]
    assert_close(*by_vmap)

    def slope(o):
        return torch.func.grad(lambda p: o(p, {}, (x, targets), v) @ w)(params)["w"]

    assert_close(slope(op), slope(slow))
    tangents = [
        torch.func.jvp(lambda p, o=o: o(p, {}, (x, targets), v), (params,), ({"w": torch.ones_like(params["w"])},))[1]
        for o in (op, slow)
    ]
    assert_close(*tangents)
    if targets.is_floating_point():
        of_targets = [torch.func.grad(lambda t, o=o: o(params, {}, (x, t), v) @ w)(targets) for o in (op, slow)]
        assert_close(*of_targets)
        leaf = targets.clone().requires_grad_()
        product = op(params, {}, (x, leaf), v)
        found = torch.autograd.grad(product @ w, leaf)[0] if product.requires_grad else torch.zeros_like(leaf)
        assert_close(found, of_targets[1])


@compiles
@pytest.mark.parametrize("name", ["cross entropy", "weighted and smoothed", "logistic, positives weighted"])
def test_compiled_product_is_the_eager_one(name):
    torch._dynamo.reset()
    torch.manual_seed(0)
    criterion, _, targets, _ = built(name, (2,), torch.float64)
    forward, params = model_of((2,))
    op = pb.generalized_gauss_newton(forward, criterion)
    point = params, {}, (torch.randn(N, 3).double(), targets), torch.randn(params["w"].numel()).double()
    assert_close(torch.compile(op, fullgraph=True, backend="aot_eager")(*point), op(*point))


def hooked():
    criterion = nn.CrossEntropyLoss()
    criterion.register_forward_hook(lambda module, arguments, output: 2 * output)
    return criterion


class Own(nn.CrossEntropyLoss):
    def forward(self, output, target):
        return 2 * super().forward(output, target)


@pytest.mark.parametrize(
    "criterion",
    [
        F.huber_loss,
        F.nll_loss,
        hooked(),
        Own(),
        lambda output, target: F.cross_entropy(output, target),
        partial(F.cross_entropy, weight=of_classes().double(), reduction="sum"),  # of another dtype
        partial(F.cross_entropy, label_smoothing=torch.tensor(0.1)),
        partial(F.cross_entropy, reduction="sum", weight=of_classes().requires_grad_()),
    ],
)
def test_other_criteria_and_options_have_no_closed_form(criterion):
    assert closed_curvature(criterion, 0)(torch.randn(N, CLASSES), labels(())) is None


@pytest.mark.parametrize(
    ("outputs", "targets"),
    [((N, CLASSES), torch.randn(N, CLASSES).double()), ((N, CLASSES), torch.randn(N, 1)), ((N,), torch.randn(N, 1))],
)
def test_shapes_and_dtypes_that_have_to_be_brought_together_have_no_closed_form(outputs, targets):
    assert closed_curvature(F.mse_loss, 0)(torch.randn(outputs), targets) is None
    assert closed_curvature(F.mse_loss, 1)(torch.randn(N, CLASSES), torch.randn(N, CLASSES)) is None


@pytest.mark.parametrize("label", [-1, CLASSES, -100])
def test_strange_labels_are_refused_in_the_words_of_the_criterion(label):
    targets = labels(())
    targets[1] = label
    forward, params = model_of(())
    batch, v = (torch.randn(N, 3).double(), targets), torch.ones(15).double()
    loss = pb.sample_losses(forward, F.cross_entropy)
    with pytest.raises(Exception) as expected:  # noqa: PT011  # whatever torch raises
        pb.hessian(loss)(params, {}, batch, v)
    op = pb.generalized_gauss_newton(forward, F.cross_entropy)
    for vectors in (v, v[None]):
        with pytest.raises(type(expected.value)) as found:
            op(params, {}, batch, vectors)
        assert str(found.value) == str(expected.value)
    if label == -100:
        batches = batch[0], targets[None]
        product = torch.vmap(op, (None, None, (None, 0), None))(params, {}, batches, v)
        assert product.isnan().all()
