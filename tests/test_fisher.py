"""The sampled Fisher: its statistics, and where its noise comes from."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import pure_batchops as pb
from pure_batchops.noise import uniform
from tests.strategies import flat, problem, vectors

P = problem("perceptron", 4)
INPUTS = P.batch[0]
EQUIVALENT = {
    # The Fisher is the generalized Gauss-Newton matrix of the negative log-likelihood, whatever the targets.
    "categorical": (nn.CrossEntropyLoss(), torch.zeros(4, dtype=torch.int64)),
    "bernoulli": (nn.BCEWithLogitsLoss(reduction="sum"), torch.zeros(4, 3, dtype=torch.float64)),
    "gaussian": (lambda o, t: (o - t).square().sum() / 2, torch.zeros(4, 3, dtype=torch.float64)),
}
every_likelihood = pytest.mark.parametrize("likelihood", EQUIVALENT)


@every_likelihood
def test_mean_over_draws_is_the_generalized_gauss_newton(likelihood):
    criterion, targets = EQUIVALENT[likelihood]
    exact = pb.dense(pb.generalized_gauss_newton(P.model, criterion))(P.params, P.buffers, (INPUTS, targets))
    errors = []
    for samples in (100, 10_000):
        op = pb.monte_carlo_fisher(P.model, likelihood, samples=samples, seed=1)
        drawn = pb.dense(op)(P.params, P.buffers, (INPUTS, None))
        errors.append(float((drawn - exact).norm() / exact.norm()))
    # The standard error falls as one over the root of the number of draws: by 10, up to chance.
    assert errors[1] < 0.05
    assert errors[1] < errors[0] / 3


@every_likelihood
def test_estimate_is_unbiased_over_seeds(likelihood):
    criterion, targets = EQUIVALENT[likelihood]
    v = flat(vectors(P.params, None, 0))
    exact = pb.generalized_gauss_newton(P.model, criterion)(P.params, P.buffers, (INPUTS, targets), v)
    products = torch.stack([
        pb.monte_carlo_fisher(P.model, likelihood, seed=s)(P.params, P.buffers, (INPUTS, None), v) for s in range(400)
    ])
    standard_errors = products.std(0) / 20
    assert ((products.mean(0) - exact).abs() < 5 * standard_errors + 1e-12).all()


def test_draw_is_the_same_for_every_v_every_call_and_every_member():
    op = pb.monte_carlo_fisher(P.model, "categorical", samples=2, seed=3)
    matrix = pb.dense(op)(P.params, P.buffers, P.batch)
    v = torch.randn(5, P.numbers, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for count in (1, 2, 5):
        assert_close(op(P.params, P.buffers, P.batch, v[:count]), v[:count] @ matrix.T)
    assert_close(op(P.params, P.buffers, P.batch, v[0]), matrix @ v[0])
    assert_close(matrix, matrix.T)
    ensemble = pb.stack_states([(P.params, P.buffers)] * 3)
    for randomness in ("error", "same", "different"):
        product = torch.vmap(op, in_dims=(0, 0, None, None), randomness=randomness)(*ensemble, P.batch, v[0])
        assert_close(product, (matrix @ v[0]).expand(3, -1))


def test_seeds_differ_and_global_generators_do_not_matter():
    v = torch.ones(P.numbers, dtype=torch.float64)
    products = [pb.monte_carlo_fisher(P.model, "gaussian", seed=s)(P.params, P.buffers, P.batch, v) for s in range(5)]
    assert len({float(product.norm()) for product in products}) == 5
    before = torch.get_rng_state()
    op = pb.monte_carlo_fisher(P.model, "gaussian", seed=2)
    torch.manual_seed(1)
    assert torch.equal(op(P.params, P.buffers, P.batch, v), products[2])
    torch.set_rng_state(before)
    op(P.params, P.buffers, P.batch, v)
    assert torch.equal(torch.get_rng_state(), before)


def test_generator_is_read_and_not_advanced():
    generator = torch.Generator().manual_seed(7)
    before = generator.get_state()
    one, other = (pb.monte_carlo_fisher(P.model, "gaussian", seed=generator) for _ in range(2))
    assert torch.equal(generator.get_state(), before)
    v = torch.ones(P.numbers, dtype=torch.float64)
    assert torch.equal(one(P.params, P.buffers, P.batch, v), other(P.params, P.buffers, P.batch, v))
    torch.rand(1, generator=generator)
    later = pb.monte_carlo_fisher(P.model, "gaussian", seed=generator)(P.params, P.buffers, P.batch, v)
    assert not torch.equal(one(P.params, P.buffers, P.batch, v), later)


def test_noise_is_uniform_and_independent():
    noise = uniform(5, (1000, 1000), like=torch.ones(1))
    assert noise.min() > 0
    assert noise.max() < 1
    # Moments of a million uniform numbers, five standard errors wide.
    assert abs(noise.mean() - 1 / 2) < 5 * (1 / 12 / 1e6) ** 0.5
    assert abs(noise.var() - 1 / 12) < 5 * (1 / 180 / 1e6) ** 0.5
    centred = (noise - noise.mean()) * 12**0.5
    for lag in (1, 2, 1000):
        flat_noise = centred.reshape(-1)
        assert abs((flat_noise[lag:] * flat_noise[:-lag]).mean()) < 5e-3
    for seed in (0, 4, 6, 5 + 2**32):
        other = (uniform(seed, (1000, 1000), like=torch.ones(1)) - 0.5) * 12**0.5
        assert abs((centred * other).mean()) < 5e-3


def test_outputs_that_cannot_be_sampled_are_refused():
    v, params, batch = torch.ones(()), torch.ones(()), (torch.ones(3), None)
    with pytest.raises(ValueError, match=r"model must return logits of shape \(n, classes, …\).*got \(3,\)"):
        pb.monte_carlo_fisher(lambda p, b, x: p * x, "categorical")(params, {}, batch, v)
    with pytest.raises(ValueError, match="one tensor to sample targets from, got tuple"):
        pb.monte_carlo_fisher(lambda p, b, x: (p * x, x), "gaussian")(params, {}, batch, v)
