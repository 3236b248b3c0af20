"""Influences against the dense matrices, and against the truth: training points left out, the model trained again."""

from functools import cache
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close

import pure_batchops as pb
from tests import dense
from tests.strategies import Problem, problem, problems, seeds
from tests.tables import ROWS, each

few = settings(max_examples=max(3, settings().max_examples // 2))
DAMPING = 0.7


def gradients(p: Problem) -> torch.Tensor:
    values = dense.losses(p.model, p.criterion, p.batch, p.batch_dim)
    rows = [torch.autograd.grad(v, p.tensors, retain_graph=True, allow_unused=True, materialize_grads=True) for v in values]
    return torch.stack([torch.cat([part.flatten() for part in row]) for row in rows])


def in_batches(p: Problem, sizes: list[int]) -> list[Any]:
    flat, spec = torch.utils._pytree.tree_flatten(p.batch)
    parts = [part.split(sizes, p.batch_dim) for part in flat]
    return [torch.utils._pytree.tree_unflatten(list(group), spec) for group in zip(*parts, strict=True)]


def averaged(p: Problem, op: Any) -> Any:
    return pb.averaged(op, lambda batch: pb.n_points(batch, p.batch_dim))


INVERSES = {
    "inverse_harmonic_mean": lambda p: averaged(p, pb.inverse_harmonic_mean(p.loss, DAMPING)),
    "direct": lambda p: pb.direct(averaged(p, pb.gauss_newton(p.loss)), DAMPING),
    "conjugate_gradient": lambda p: pb.conjugate_gradient(
        averaged(p, pb.gauss_newton(p.loss)), DAMPING, tolerance=1e-12, max_steps=200
    ),
}


def dense_inverse(p: Problem, name: str) -> torch.Tensor:
    if name == "inverse_harmonic_mean":
        return dense.inverse_harmonic_mean(dense.losses(p.model, p.criterion, p.batch, p.batch_dim), p.tensors, DAMPING)
    return torch.linalg.inv(ROWS["gauss_newton"].twin(p) + DAMPING * torch.eye(p.numbers, dtype=torch.float64))


@pytest.mark.parametrize("name", INVERSES)
@given(p=problems(), seed=seeds, chunk=st.sampled_from([None, 1, 2]))
@few
def test_influences_are_the_dense_ones(name: str, p: Problem, seed: int, chunk: int | None) -> None:
    p = problem(p.kind, 3, seed, list(p.params))
    matrix, train = dense_inverse(p, name), gradients(p)
    inverse, batches = INVERSES[name](p), in_batches(p, [1, 2])
    test = in_batches(p, [2, 1])[0]
    expected = -train[:2] @ matrix @ train.T
    assert_close(pb.influence(inverse, p.loss, chunk_size=chunk)(p.params, p.buffers, batches, test), expected)
    own = pb.self_influence(inverse, p.loss, chunk_size=chunk)(p.params, p.buffers, batches)
    assert_close(own, (train @ matrix * train).sum(1))


SMOOTH_INPUTS = ["perceptron", "norms", "recurrent", "sequence", "attention"]


@pytest.mark.parametrize("kind", SMOOTH_INPUTS)
@pytest.mark.parametrize("chunk", [None, 1])
def test_influence_of_perturbing_inputs_is_the_mixed_derivative(kind: str, chunk: int | None) -> None:
    p = problem(kind, 3)
    inverse, batches, test = INVERSES["direct"](p), in_batches(p, [1, 2]), in_batches(p, [2, 1])[0]
    solved = gradients(p)[:2] @ dense_inverse(p, "direct")
    found = pb.perturbation_influence(inverse, p.loss, chunk_size=chunk)(p.params, p.buffers, batches, test)
    inputs = p.batch[0].clone().requires_grad_()
    slopes = dense.losses(p.model, p.criterion, (inputs, p.batch[1]), p.batch_dim)
    for t, row in enumerate(solved):
        for i, value in enumerate(slopes):
            gradient = torch.autograd.grad(value, p.tensors, create_graph=True, materialize_grads=True)
            slope = torch.cat([part.flatten() for part in gradient]) @ row
            (mixed,) = torch.autograd.grad(slope, inputs, retain_graph=True)
            assert_close(found[t, i], -mixed.select(p.batch_dim, i))


def test_influences_of_an_ensemble_are_the_loop_over_it():
    p = problem("perceptron", 3)
    members = [({k: leaf * scale for k, leaf in p.params.items()}, p.buffers) for scale in (1.0, 0.5)]
    inverse, batches = INVERSES["inverse_harmonic_mean"](p), in_batches(p, [1, 2])
    influences = pb.influence(inverse, p.loss)
    together = torch.vmap(lambda params, buffers: influences(params, buffers, batches, p.batch))(*pb.stack_states(members))
    assert_close(together, torch.stack([influences(*member, batches, p.batch) for member in members]))


def digits(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    datasets = pytest.importorskip("sklearn.datasets", reason="the digits come with scikit-learn, an optional extra")
    bunch = datasets.load_digits()
    return torch.tensor(bunch.data[:n] / 16), torch.tensor(bunch.target[:n])


def minimised(x: torch.Tensor, y: torch.Tensor, weights: torch.Tensor, damping: float, start: torch.Tensor) -> torch.Tensor:
    """The θ of least Σ wᵢ ℓᵢ + λ/2 ‖θ‖² for multinomial logistic regression, by Newton's method, in closed form."""
    theta, classes = start, 10
    for _ in range(50):
        p = (x @ theta.T).softmax(1)
        gradient = ((p - nn.functional.one_hot(y, classes)) * weights[:, None]).T @ x + damping * theta
        if gradient.norm() < 1e-12:
            return theta
        blocks = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
        hessian = torch.einsum("nij,na,nb->iajb", blocks * weights[:, None, None], x, x).reshape(2 * [theta.numel()])
        hessian += damping * torch.eye(theta.numel(), dtype=x.dtype)
        theta = theta - torch.linalg.solve(hessian, gradient.reshape(-1)).reshape(theta.shape)
    raise AssertionError(gradient.norm())


LOGISTIC_DAMPING = 0.01


class LeftOut(NamedTuple):
    """Logistic regression at its minimum, and what the loss of the test points becomes without each of 40 training points."""

    loss: Any
    params: dict[str, torch.Tensor]
    batches: list[Any]
    test: tuple[torch.Tensor, torch.Tensor]
    changes: torch.Tensor


@cache
def left_out() -> LeftOut:
    x, y = digits(300)
    x, y, test = x[:250], y[:250], (x[250:], y[250:])
    weights = torch.full((len(x),), 1 / len(x), dtype=torch.float64)
    theta = minimised(x, y, weights, LOGISTIC_DAMPING, torch.zeros(10, 64, dtype=torch.float64))
    loss = pb.sample_losses(nn.Linear(64, 10, bias=False).double(), nn.CrossEntropyLoss())
    before, after = loss({"weight": theta}, {}, test).mean(), []
    for i in range(40):
        left = weights.clone()
        left[i] = 0
        after.append(loss({"weight": minimised(x, y, left, LOGISTIC_DAMPING, theta)}, {}, test).mean())
    batches = list(zip(x.split(100), y.split(100), strict=True))
    return LeftOut(loss, {"weight": theta}, batches, test, torch.stack(after) - before)


@pytest.mark.parametrize("matrix", ["hessian", "generalized_gauss_newton"])
def test_influence_predicts_what_leaving_a_point_out_does(matrix: str) -> None:
    case, model = left_out(), nn.Linear(64, 10, bias=False).double()
    op = pb.hessian(case.loss) if matrix == "hessian" else pb.generalized_gauss_newton(model, nn.CrossEntropyLoss())
    inverse = pb.conjugate_gradient(pb.averaged(op), LOGISTIC_DAMPING, tolerance=1e-8, max_steps=500)
    influences = pb.influence(inverse, case.loss)(case.params, {}, case.batches, case.test)
    predicted = -influences.mean(0)[:40] / 250
    assert torch.corrcoef(torch.stack([predicted, case.changes]))[0, 1] >= 0.99


FUNCTIONS = {
    "influence": pb.influence,
    "self_influence": pb.self_influence,
    "perturbation_influence": pb.perturbation_influence,
}
every_function = each(FUNCTIONS, "function")
of_test_points = each({name: FUNCTIONS[name] for name in ("influence", "perturbation_influence")}, "function")


def influences_of(function: Any, train_batches: Any, p: Problem | None = None, inverse: Any = None) -> Any:
    """What the function says about these training batches; where it takes a test batch, that of the problem."""
    p = p or problem("perceptron", 3)
    test = () if function is pb.self_influence else (p.batch,)
    return function(inverse or INVERSES["direct"](p), p.loss)(p.params, p.buffers, train_batches, *test)


@every_function
def test_inverse_that_is_no_operation_is_refused(function: Any) -> None:
    with pytest.raises(TypeError, match="inverse must be"):
        function(None, problem("perceptron", 3).loss)


@every_function
def test_loss_that_is_no_function_is_refused(function: Any) -> None:
    with pytest.raises(TypeError, match="loss must be a function"):
        function(INVERSES["direct"](problem("perceptron", 3)), None)


@every_function
def test_chunk_size_of_zero_is_refused(function: Any) -> None:
    p = problem("perceptron", 3)
    with pytest.raises(ValueError, match="chunk_size must be at least 1"):
        function(INVERSES["direct"](p), p.loss, chunk_size=0)


@every_function
def test_inverse_may_be_a_plain_function_whose_batches_are_read_again(function: Any) -> None:
    p = problem("perceptron", 3)
    inverse = INVERSES["direct"](p)
    plain = influences_of(function, [p.batch], p, lambda *arguments: inverse(*arguments))
    assert_close(plain, influences_of(function, [p.batch], p, inverse))
    with pytest.raises(ValueError, match="train_batches must be iterable again"):
        influences_of(function, iter([p.batch]), p, lambda *arguments: inverse(*arguments))


@every_function
def test_stream_that_can_be_read_only_once_is_refused(function: Any) -> None:
    with pytest.raises(ValueError, match="train_batches must be iterable again"):
        influences_of(function, iter([problem("perceptron", 3).batch]))


@of_test_points
def test_average_over_no_batches_is_refused(function: Any) -> None:
    with pytest.raises(ValueError, match="nothing to average"):
        influences_of(function, [])


def test_self_influence_of_no_batches_is_refused():
    p = problem("perceptron", 3)
    inverse = pb.averaged(pb.inverse_harmonic_mean(p.loss, 1.0))
    with pytest.raises(ValueError, match="train_batches must hold at least one batch"):
        influences_of(pb.self_influence, [], p, inverse)


def test_inputs_that_are_whole_numbers_cannot_be_perturbed():
    tied = problem("tied", 2)
    with pytest.raises(
        TypeError, match=r"inputs must be floating-point tensors, because their derivative is taken, got torch.int64"
    ):
        influences_of(pb.perturbation_influence, [tied.batch], tied)


def test_loss_that_mixes_samples_is_refused():
    def mixing(params: Any, buffers: Any, x: Any) -> Any:
        values = (params["w"] * x).square()
        return values - values.mean()

    params, x = {"w": torch.ones(1)}, torch.tensor([1.0, 2.0, 4.0])
    inverse = pb.direct(pb.averaged(pb.hessian(lambda params, buffers, x: (params["w"] * x).square())), 1.0)
    with pytest.raises(ValueError, match="samples must not depend on each other"):
        pb.influence(inverse, mixing)(params, {}, [x], x)


@every_function
def test_nothing_that_is_passed_in_is_changed(function: Any) -> None:
    p = problem("perceptron", 3)
    before = {k: leaf.clone() for k, leaf in p.params.items()}
    batches, batch = in_batches(p, [1, 2]), [part.clone() for part in p.batch]  # the batches are views of the batch
    influences_of(function, batches, p)
    assert_close(p.params, before, rtol=0, atol=0)
    assert_close(list(p.batch), batch, rtol=0, atol=0)


@pytest.mark.parametrize("chunk_size", [None, 1, 2])
def test_loss_that_mixes_samples_is_refused_in_chunks_of_any_size(chunk_size):
    def mixed(params, buffers, batch):
        gap = torch.tanh(batch[0] @ params["w"]) - batch[1]
        return (gap - gap.mean() / 2).square()

    params = {"w": torch.randn(3, dtype=torch.float64)}
    batch = torch.randn(5, 3, dtype=torch.float64), torch.randn(5, dtype=torch.float64)
    inverse = lambda params, buffers, batches, v: v / 2  # noqa: E731
    with pytest.raises(ValueError, match="samples must not depend on each other"):
        pb.self_influence(inverse, mixed, chunk_size=chunk_size)(params, {}, [batch])
    with pytest.raises(ValueError, match="samples must not depend on each other"):
        pb.influence(inverse, mixed, chunk_size=chunk_size)(params, {}, [batch], batch)
