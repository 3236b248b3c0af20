"""An ensemble by torch.vmap is the loop over its members, on every way that it may go."""

import logging

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812  # its usual name
from torch.testing import assert_close

import pure_batchops as pb
from pure_batchops.operations import ensemble
from pure_batchops.testing import only_torch_func

TELLS = hasattr(torch._C._functorch, "get_interpreter_stack")
tells = pytest.mark.skipif(not TELLS, reason="before torch 2.2 torch does not tell which transforms are active")
M, N = 3, 3  # as many members as samples: a vmap taken for another one fits in shape


class Block(nn.Module):
    """A residual block of the user's own, with a convolution and a norm whose buffers differ between members."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(2, 2, 3, padding=1, bias=False), nn.BatchNorm2d(2)
        self.scale, self.head = nn.Parameter(torch.rand(2, 1, 1)), nn.Linear(2, 3)

    def forward(self, x):
        return self.head((x + self.scale * F.gelu(self.norm(self.conv(x)))).mean((2, 3)))


def chain():
    return nn.Sequential(nn.Flatten(), nn.Linear(32, 4), nn.Tanh(), nn.Linear(4, 3))


OPERATIONS = {
    "hessian": lambda model: pb.hessian(pb.sample_losses(model, F.cross_entropy)),
    "gauss_newton": lambda model: pb.gauss_newton(pb.sample_losses(model, F.cross_entropy)),
    "inverse_harmonic_mean": lambda model: pb.inverse_harmonic_mean(pb.sample_losses(model, F.cross_entropy), 0.1),
    "generalized_gauss_newton": lambda model: pb.generalized_gauss_newton(model, F.cross_entropy),
    "monte_carlo_fisher": lambda model: pb.monte_carlo_fisher(model, "categorical"),
}
WAYS = ("stacked", "one by one", "the others together", "torch.func")
every_operation = pytest.mark.parametrize("name", OPERATIONS)
every_way = pytest.mark.parametrize("way", WAYS)


@pytest.fixture
def take(monkeypatch):
    """Take a way, whatever the sizes."""

    def go(way, call):
        monkeypatch.setattr(ensemble, "_SMALL", 2**60 if way == "stacked" else 0)
        monkeypatch.setattr(ensemble, "_TOGETHER", 0 if way == "one by one" else 2**60)
        if way == "the others together":
            monkeypatch.setattr(ensemble, "_CONVOLUTIONS", set())
        if way == "torch.func":
            with only_torch_func():
                return call()
        return call()

    return go


def problem(model=Block, dtype=torch.float64, seed=0):
    """A model, the states of M members, M batches, and M × 2 vectors."""
    torch.manual_seed(seed)
    module = model().to(dtype).eval()
    params, buffers = pb.functional_state(module)
    noisy = [{k: b + torch.rand_like(b) if b.is_floating_point() else b for k, b in buffers.items()} for _ in range(M)]
    states = [({k: p + 0.3 * torch.randn_like(p) for k, p in params.items()}, noisy[i]) for i in range(M)]
    batches = torch.randn(M, N, 2, 4, 4, dtype=dtype), torch.randint(3, (M, N))
    size = sum(p.numel() for p in params.values())
    return module, states, batches, torch.randn(M, 2, size, dtype=dtype)


def looped(op, states, batches, v):
    return torch.stack([op(*state, batch, u) for state, batch, u in zip(states, batches, v, strict=True)])


@every_way
@every_operation
@pytest.mark.parametrize("model", [Block, chain])
def test_ensemble_is_the_loop_for_every_form(take, way, name, model):
    module, states, (x, y), v = problem(model)
    op, stacked = OPERATIONS[name](module), pb.stack_states(states)
    for vector, dim in ((v[0, 0], None), (v[:, 0], 0), (v[0], None), (v, 0), (v[0, :0], None)):
        each = [vector] * M if dim is None else vector
        together = take(way, lambda u=vector, d=dim: torch.vmap(op, (0, 0, None, d))(*stacked, (x[0], y[0]), u))
        assert_close(together, looped(op, states, [(x[0], y[0])] * M, each))
    together = take(way, lambda: torch.vmap(op)(*stacked, (x, y), v))
    assert_close(together, looped(op, states, list(zip(x, y, strict=True)), v))
    chunks = take(way, lambda: torch.vmap(op, (0, 0, None, None), chunk_size=2)(*stacked, (x[0], y[0]), v[0, 0]))
    assert_close(chunks, looped(op, states, [(x[0], y[0])] * M, [v[0, 0]] * M))


@every_way
@every_operation
def test_ensemble_with_params_that_members_share_is_the_loop(take, way, name):
    module, states, (x, y), v = problem()
    op, (shared, buffers) = OPERATIONS[name](module), states[0]
    own = [{**shared, "head.weight": params["head.weight"]} for params, _ in states]
    dims = {key: 0 if key == "head.weight" else None for key in shared}
    heads = torch.stack([params["head.weight"] for params in own])
    v_tree = pb.unflatten(shared, v[0, 0])
    for axis in (0, 2):
        mapped = {**shared, "head.weight": heads.movedim(0, axis)}
        dims["head.weight"] = axis
        for vector in (v[0, 0], v_tree):
            found = take(
                way,
                lambda u=vector, m=mapped: torch.vmap(op, (dims, None, None, None))(m, buffers, (x[0], y[0]), u),
            )
            for i, params in enumerate(own):
                expected = op(params, buffers, (x[0], y[0]), vector)
                one = found[i] if isinstance(vector, torch.Tensor) else {key: leaf[i] for key, leaf in found.items()}
                assert_close(one, expected)


@every_way
@every_operation
def test_ensemble_of_ensembles_and_at_are_the_loop(take, way, name):
    module, states, (x, y), v = problem(chain)
    op, batch = OPERATIONS[name](module), (x[0], y[0])
    stacked = pb.stack_states(states)
    expected = looped(op, states, [batch] * M, [v[0, 0]] * M)
    twice = pb.stack_states([stacked, stacked])
    nested = torch.vmap(torch.vmap(op, (0, 0, None, None)), (0, 0, None, None))
    assert_close(take(way, lambda: nested(*twice, batch, v[0, 0])), torch.stack([expected, expected]))
    outside = torch.vmap(torch.vmap(op, (0, 0, None, None)), (None, None, None, 0))
    assert_close(take(way, lambda: outside(*stacked, batch, v[0]))[0], expected)
    inside = torch.vmap(lambda p, b: torch.vmap(op.at(p, b, batch))(v[0]))
    assert_close(take(way, lambda: inside(*stacked))[:, 0], expected)


@every_way
@every_operation
def test_what_a_loss_closes_over_is_mapped_too(take, way, name):
    module, states, (x, y), v = problem(chain)
    weights = torch.rand(M, 3, dtype=torch.float64) + 0.5

    def product(weight, params, buffers):
        scaled = lambda p, b, inputs: pb.pure_forward(module)(p, b, inputs) * weight  # noqa: E731
        return OPERATIONS[name](scaled)(params, buffers, (x[0], y[0]), v[0, 0])

    expected = torch.stack([product(weight, *state) for weight, state in zip(weights, states, strict=True)])
    assert_close(take(way, lambda: torch.vmap(product)(weights, *pb.stack_states(states))), expected)


@every_way
def test_a_criterion_that_closes_over_what_is_mapped_is_right_or_mapped(take, way):
    module, states, (x, y), v = problem(chain)
    weights = torch.rand(M, 3, dtype=torch.float64) + 0.5

    def product(weight, params, buffers):
        def criterion(output, target):
            return (F.cross_entropy(output, target, reduction="sum")) + (weight * output.square()).sum()

        return pb.generalized_gauss_newton(module, criterion)(params, buffers, (x[0], y[0]), v[0, 0])

    expected = torch.stack([product(weight, *state) for weight, state in zip(weights, states, strict=True)])
    assert_close(take(way, lambda: torch.vmap(product)(weights, *pb.stack_states(states))), expected)


@every_way
def test_a_member_that_would_be_refused_alone_is_nan(take, way):
    module, states, (x, y), v = problem(chain)
    loss = pb.sample_losses(module, F.cross_entropy)
    product = lambda damping, p, b: pb.inverse_harmonic_mean(loss, damping)(p, b, (x[0], y[0]), v[0, 0])  # noqa: E731
    found = take(way, lambda: torch.vmap(product)(torch.tensor([0.1, -0.1, 0.1]), *pb.stack_states(states)))
    assert found[1].isnan().all()
    assert found[[0, 2]].isfinite().all()
    op, ignored = pb.hessian(loss), torch.stack([y[0], y[0].index_fill(0, torch.tensor(0), -100), y[0]])
    found = take(way, lambda: torch.vmap(op, (0, 0, (None, 0), None))(*pb.stack_states(states), (x[0], ignored), v[0, 0]))
    assert found[1].isnan().all()
    assert found[[0, 2]].isfinite().all()


@every_way
@every_operation
def test_an_average_counts_each_batch_once(take, way, name):
    module, states, (x, y), v = problem(chain)
    op, batches = OPERATIONS[name](module), [(x[0], y[0]), (x[1, :1], y[1, :1])]
    together = pb.averaged(torch.vmap(op, (0, 0, None, None)))
    found = take(way, lambda: together(*pb.stack_states(states), batches, v[0, 0]))
    assert_close(found, torch.stack([pb.averaged(op)(*state, batches, v[0, 0]) for state in states]))


@every_way
def test_gradients_and_other_transforms_pass_through(take, way):
    module, states, (x, y), v = problem(chain)
    op, stacked = pb.hessian(pb.sample_losses(module, F.cross_entropy)), pb.stack_states(states)
    ensemble_op = torch.vmap(op, (0, 0, None, None))
    scale = lambda s: ensemble_op(*stacked, (x[0] * s, y[0]), v[0, 0]).square().sum()  # noqa: E731
    one = torch.tensor(1.0, dtype=torch.float64)
    expected = sum(
        torch.func.grad(lambda s, state=state: op(*state, (x[0] * s, y[0]), v[0, 0]).square().sum())(one) for state in states
    )
    assert_close(take(way, lambda: torch.func.grad(scale)(one)), expected)
    leaf = one.clone().requires_grad_()
    assert_close(take(way, lambda: torch.autograd.grad(scale(leaf), leaf)[0]), expected)
    assert_close(take(way, lambda: torch.func.jvp(scale, (one,), (one,))[1]), expected)


@pytest.mark.parametrize("way", WAYS[:3])
def test_loss_without_params_is_refused(take, way):
    op = pb.hessian(lambda params, buffers, x: x.square())
    with pytest.raises(ValueError, match="loss must depend on params"):
        take(way, lambda: torch.vmap(op, (0, None, None, None))({"w": torch.ones(2, 1)}, {}, torch.ones(3), torch.ones(1)))


@tells
@pytest.mark.parametrize(
    ("way", "message"),
    [
        ("stacked", "hessian: plain autograd"),
        ("one by one", "ensemble: one by one"),
        ("the others together", "ensemble: the first alone, the others together"),
        ("torch.func", "hessian: torch.func"),
    ],
)
def test_the_log_says_which_way(take, way, message, caplog):
    module, states, (x, y), v = problem()
    op = pb.hessian(pb.sample_losses(module, F.cross_entropy))
    with caplog.at_level(logging.DEBUG, logger="pure_batchops"):
        take(way, lambda: torch.vmap(op, (0, 0, None, None))(*pb.stack_states(states), (x[0], y[0]), v[0, 0]))
    assert message in caplog.messages
