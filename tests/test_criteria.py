"""A criterion must say of a batch what it says of its samples: ignored labels and class weights are refused in any guise."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812
from torch.testing import assert_close

import pure_batchops as pb
from tests.marks import TELLS, compiles

N, CLASSES = 6, 3
GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(N, 4, dtype=torch.float64, generator=GENERATOR)
Y, T = torch.tensor([0, 1, 2, 2, 1, 0]), torch.randint(CLASSES, (N, 5), generator=GENERATOR)
HOLES = torch.tensor([0, 1, -100, 2, 1, -100])
PADDED = T.where(torch.arange(5) < torch.tensor([5, 1, 2, 5, 3, 4])[:, None], -100)
W = torch.tensor([1.0, 2.0, 5.0], dtype=torch.float64)
MODEL = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, CLASSES)).double()
TOKENS = nn.Sequential(nn.Linear(4, 15), nn.Tanh(), nn.Unflatten(1, (CLASSES, 5))).double()
STATE, TOKEN_STATE = pb.functional_state(MODEL), pb.functional_state(TOKENS)


def direction(state):
    return torch.linspace(-1, 1, sum(leaf.numel() for leaf in state[0].values()), dtype=torch.float64)


def dense_hessian(model, loss):
    """By plain autograd, row by row."""
    tensors = list(model.parameters())
    flat = torch.cat([part.flatten() for part in torch.autograd.grad(loss, tensors, create_graph=True)])
    rows = [torch.autograd.grad(entry, tensors, retain_graph=True, materialize_grads=True) for entry in flat]
    return torch.stack([torch.cat([part.flatten() for part in row]) for row in rows])


def operations(model, criterion):
    loss = pb.sample_losses(model, criterion)
    return {
        "losses": lambda *point: loss(*point[:3]),
        "hessian": pb.hessian(loss),
        "hessian of torch.func": pb.hessian(loss, mode="reverse_over_forward"),
        "gauss_newton": pb.gauss_newton(loss),
        "inverse_harmonic_mean": pb.inverse_harmonic_mean(loss, 0.1),
        "generalized_gauss_newton": pb.generalized_gauss_newton(model, criterion),
    }


def own(output, target):
    return F.cross_entropy(output, target)


IGNORING = {
    "module": nn.CrossEntropyLoss(),
    "function": F.cross_entropy,
    "partial": partial(F.cross_entropy, label_smoothing=0.1),
    "of one's own": own,
    "likelihood": lambda o, t: F.nll_loss(o.log_softmax(1), t),
}


@pytest.mark.parametrize("criterion", IGNORING.values(), ids=IGNORING)
@pytest.mark.parametrize(
    ("model", "state", "targets"), [(MODEL, STATE, HOLES), (TOKENS, TOKEN_STATE, PADDED)], ids=["labels", "sequences"]
)
def test_ignored_labels_under_a_mean_are_refused_by_every_operation(criterion, model, state, targets):
    by_samples = criterion in (own, IGNORING["likelihood"])
    for name, op in operations(model, criterion).items():
        if not TELLS and name in {"gauss_newton", "inverse_harmonic_mean"} and targets is HOLES and not by_samples:
            assert op(*state, (X, targets), direction(state)).isnan().all()  # torch 2.1 takes them by vmap over the samples
            continue
        with pytest.raises(ValueError, match="-100.*reduction='sum'|criterion must give for a batch of 6 samples the mean"):
            op(*state, (X, targets), direction(state))


@pytest.mark.parametrize("criterion", [nn.CrossEntropyLoss(), own], ids=["module", "of one's own"])
def test_ignored_labels_that_cannot_be_read_give_nan_in_values_and_products(criterion):
    targets = torch.stack([Y, HOLES])
    for op in operations(MODEL, criterion).values():
        good, bad = torch.vmap(lambda t, op=op: op(*STATE, (X, t), direction(STATE)))(targets)
        assert_close(good, op(*STATE, (X, Y), direction(STATE)))
        assert bad.isnan().all()


def test_a_loss_that_is_nan_has_a_derivative_that_is_nan():
    for targets in (torch.full((N,), -100), HOLES[2:3]):  # torch's derivative of 0/0 is zero here
        batch = (X[: len(targets)], targets)
        for name, op in operations(MODEL, own).items():
            assert op(*STATE, batch, direction(STATE)).isnan().any(), name


def test_ways_out_for_ignored_labels_are_what_the_message_says():
    v, counted = direction(STATE), HOLES != -100
    kept = (X[counted], HOLES[counted])
    expected = dense_hessian(MODEL, F.cross_entropy(MODEL(X), HOLES))
    assert_close(pb.hessian(pb.sample_losses(MODEL, nn.CrossEntropyLoss()))(*STATE, kept, v), expected @ v)
    summed = nn.CrossEntropyLoss(reduction="sum")
    for model, state, targets in ((MODEL, STATE, HOLES), (TOKENS, TOKEN_STATE, PADDED)):
        expected = dense_hessian(model, summed(model(X), targets) / N) @ direction(state)
        assert_close(pb.hessian(pb.sample_losses(model, summed))(*state, (X, targets), direction(state)), expected)


def test_a_loss_of_ones_own_with_weight_averages_over_the_labels_that_count():
    def loss(params, buffers, batch):
        labels = F.cross_entropy(torch.func.functional_call(TOKENS, (params, buffers), batch[0]), batch[1], reduction="none")
        return labels.sum(1) * len(labels) / count(batch)

    def count(batch):
        return int((batch[1] != -100).sum())

    v = direction(TOKEN_STATE)
    batches = [(X[:1], PADDED[:1]), (X[1:4], PADDED[1:4]), (X[4:], PADDED[4:])]
    expected = dense_hessian(TOKENS, F.cross_entropy(TOKENS(X), PADDED)) @ v
    assert_close(pb.averaged(pb.hessian(loss), weight=count)(*TOKEN_STATE, batches, v), expected)


def test_an_average_asks_for_the_weight_of_a_loss_that_is_a_mean_over_labels():
    def mean(params, buffers, batch):
        return F.cross_entropy(torch.func.functional_call(TOKENS, (params, buffers), batch[0]), batch[1])

    batches, v = [(X[:1], PADDED[:1]), (X[1:], PADDED[1:])], direction(TOKEN_STATE)
    with pytest.raises(ValueError, match="must know how many samples a batch holds.*returns one number.*give weight="):
        pb.averaged(pb.hessian(mean))(*TOKEN_STATE, batches, v)
    count = pb.averaged(pb.hessian(mean), weight=lambda batch: int((batch[1] != -100).sum()))
    expected = dense_hessian(TOKENS, F.cross_entropy(TOKENS(X), PADDED)) @ v
    assert_close(count(*TOKEN_STATE, batches, v), expected)


class Weighted(nn.Module):
    """A module that holds the weighted loss inside."""

    def __init__(self):
        super().__init__()
        self.inside = nn.CrossEntropyLoss(W)

    def forward(self, output, target):
        return self.inside(output, target)


WEIGHTED = {
    "function": lambda o, t: F.cross_entropy(o, t, weight=W),
    "module": Weighted(),
    "partial": partial(lambda o, t, more: F.cross_entropy(o, t, weight=more), more=W),
    "likelihood": lambda o, t: F.nll_loss(o.log_softmax(1), t, W),
    "of shape (1,)": lambda o, t: F.cross_entropy(o, t, W)[None],
    "a mean and a sum": lambda o, t: F.cross_entropy(o, t) + 0.01 * o.square().sum(),
    "root of the mean square": lambda o, t: (o.softmax(1) - F.one_hot(t, CLASSES)).square().mean().sqrt(),
    "contrast": lambda o, t: F.cross_entropy(o - o.mean(0), t, reduction="none"),
}


@pytest.mark.parametrize("criterion", WEIGHTED.values(), ids=WEIGHTED)
def test_a_criterion_of_another_value_on_the_batch_is_refused_by_every_operation(criterion):
    for op in operations(MODEL, criterion).values():
        with pytest.raises(ValueError, match="criterion must give for a batch of 6 samples .* got .*reduction='sum'.*assert"):
            op(*STATE, (X, Y), direction(STATE))
        products = torch.vmap(op, (None, None, (None, 0), None))(*STATE, (X, torch.stack([Y, Y])), direction(STATE))
        assert products.isnan().all()


@pytest.mark.parametrize("criterion", [WEIGHTED["function"], WEIGHTED["contrast"]], ids=["weights", "contrast"])
def test_a_likelihood_of_ones_own_that_weighs_the_batch_is_refused_by_the_fisher(criterion):
    likelihood = pb.Likelihood(lambda outputs, noise: (outputs - (-noise.log()).log()).argmax(1), criterion)
    with pytest.raises(ValueError, match="criterion must give for a batch of 6 samples"):
        pb.monte_carlo_fisher(MODEL, likelihood)(*STATE, (X, None), direction(STATE))


def test_the_line_of_the_message_gives_the_weighted_hessian():
    loss = pb.sample_losses(MODEL, lambda output, target: F.cross_entropy(output, target, weight=W, reduction="sum"))
    expected = dense_hessian(MODEL, F.cross_entropy(MODEL(X), Y, W, reduction="sum") / N) @ direction(STATE)
    assert_close(pb.hessian(loss)(*STATE, (X, Y), direction(STATE)), expected)


def of_one_sample(line):
    """A criterion of one sample. Its first line is that of the message; here pytest would write another assert."""
    scope = {"F": F, "W": W}
    exec(f"def of_one(output, target):\n    {line}\n    return F.cross_entropy(output, target, weight=W)", scope)
    return scope["of_one"]


of_one = of_one_sample('assert len(output) == 1, f"got {len(output)}"')


ACCEPTED = {
    "mean": own,
    "sum": lambda o, t: F.cross_entropy(o, t, W, reduction="sum"),
    "each": lambda o, t: F.cross_entropy(o, t, W, reduction="none"),
    "of one sample": of_one,
    "of another shape": lambda o, t: F.cross_entropy(o, t, reduction="none")[:, None, None] * torch.ones(1, len(t), 1),
    "in place": lambda o, t: F.cross_entropy(o.mul_(2), t),
    "not finite": lambda o, t: F.cross_entropy(o, t) + torch.tensor(float("inf") if len(o) > 1 else 0.0),
}


@pytest.mark.parametrize("criterion", ACCEPTED.values(), ids=ACCEPTED)
def test_a_criterion_that_agrees_or_is_of_one_sample_is_mapped_over_the_samples(criterion):
    alone = torch.stack([criterion(MODEL(X[i : i + 1]), Y[i : i + 1]).reshape(()) for i in range(N)])
    assert_close(pb.sample_losses(MODEL, criterion)(*STATE, (X, Y)), alone.detach())
    expected = dense_hessian(MODEL, alone.mean()) @ direction(STATE)
    assert_close(pb.hessian(pb.sample_losses(MODEL, criterion))(*STATE, (X, Y), direction(STATE)), expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0, 1e3])
def test_rounding_does_not_refuse(dtype, scale):
    outputs = (scale * torch.randn(500, 10, generator=torch.Generator().manual_seed(1))).to(dtype)
    losses = pb.sample_losses(lambda params, buffers, x: x * params, own)
    for targets in (outputs.argmax(1), outputs.argmin(1)):
        assert losses(torch.ones((), dtype=dtype), {}, (outputs, targets)).isfinite().all()


def test_the_rounding_of_outputs_much_larger_than_the_loss_does_not_refuse():
    outputs = 1000 + 30 * torch.randn(500, 10, generator=torch.Generator().manual_seed(1))
    losses = pb.sample_losses(lambda p, b, x: x * p, lambda o, t: o.logsumexp(1).mean() - o.gather(1, t[:, None]).mean())
    assert losses(torch.ones(()), {}, (outputs, outputs.argmax(1))).max() < 100


@compiles
@pytest.mark.parametrize(("criterion", "right"), [(own, True), (of_one, True), (WEIGHTED["function"], False)])
def test_compiled_a_criterion_is_right_or_nan(criterion, right):
    op = pb.hessian(pb.sample_losses(MODEL, criterion))
    torch._dynamo.reset()
    product = torch.compile(op, fullgraph=True, backend="aot_eager")(*STATE, (X, Y), direction(STATE))
    if right:
        assert_close(product, op(*STATE, (X, Y), direction(STATE)))
    else:
        assert product.isnan().all()


@compiles
def test_compiled_ignored_labels_are_nan():
    op = torch.compile(pb.hessian(pb.sample_losses(MODEL, nn.CrossEntropyLoss())), fullgraph=True, backend="aot_eager")
    torch._dynamo.reset()
    assert op(*STATE, (X, HOLES), direction(STATE)).isnan().all()
    assert op(*STATE, (X, Y), direction(STATE)).isfinite().all()
