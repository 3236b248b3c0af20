"""A seed may be a tensor, so that torch.vmap gives each member of an ensemble noise of its own."""

import pytest
import torch
from torch.testing import assert_close

import pure_batchops as pb
from pure_batchops.noise import normal, signs, uniform
from tests.matrices import members_of
from tests.strategies import problem

NOISE = {
    "uniform": lambda seed: uniform(seed, (5, 3), torch.empty(0)),
    "normal": lambda seed: normal(seed, (5, 3), torch.empty(0)),
    "signs": lambda seed: signs(seed, 5, 40, torch.empty(0), start=2),
}
every_noise = pytest.mark.parametrize("noise", NOISE.values(), ids=NOISE)
SEEDS = [0, 1, 5, 2**31, 2**32 + 7, 2**62 + 3, 2**63 - 1]

SEEDED = {
    "trace": lambda op, seed: pb.trace(op, samples=6, seed=seed),
    "hutch++": lambda op, seed: pb.trace(op, samples=9, seed=seed, method="hutch++"),
    "diagonal": lambda op, seed: pb.diagonal(op, samples=6, seed=seed),
    "frobenius_norm": lambda op, seed: pb.frobenius_norm(op, samples=6, seed=seed),
    "spectral_density": lambda op, seed: pb.spectral_density(op, samples=2, steps=4, points=20, seed=seed),
    "eigenpairs": lambda op, seed: pb.eigenpairs(op, 2, steps=5, seed=seed),
    "nystroem": lambda op, seed: lambda *point: (pb.nystroem(op, 1.0, rank=2, seed=seed)(*point, torch.ones(31).double()),),
}
every_seeded = pytest.mark.parametrize("seeded", SEEDED.values(), ids=SEEDED)


@every_noise
def test_noise_of_a_tensor_is_the_noise_of_its_number_bit_by_bit(noise):
    for seed in SEEDS:
        assert torch.equal(noise(torch.tensor(seed)), noise(seed))
    together = torch.vmap(noise)(torch.tensor(SEEDS))
    assert torch.equal(together, torch.stack([noise(seed) for seed in SEEDS]))


def test_streams_are_what_they_have_always_been():
    """Estimates of one seed do not change from version to version."""
    like = torch.empty(0)
    expected = [0.7984782561725136, 0.7180838219717226, 0.1981467827488309]
    assert uniform(7, (3,), like).tolist() == expected
    assert uniform(2**63 - 1, (2,), like).tolist() == [0.23367828243367794, 0.9980905537510932]
    assert signs(7, 1, 8, like).tolist() == [[1.0, -1.0, 1.0, 1.0, -1.0, -1.0, 1.0, -1.0]]
    assert uniform(2**70 + 3, (1,), like).tolist() == [0.8407032570699672]


@every_seeded
def test_vmap_over_members_and_seeds_is_the_loop_over_them(seeded):
    p = problem("perceptron")
    op, members, seeds = pb.gauss_newton(p.loss), members_of(p), [3, 2**40, 4]
    run = torch.vmap(lambda params, buffers, seed: tuple(seeded(op, seed)(params, buffers, p.batch)))
    together = run(*pb.stack_states(members), torch.tensor(seeds))
    for i, (member, seed) in enumerate(zip(members, seeds, strict=True)):
        assert_close(tuple(part[i] for part in together), tuple(seeded(op, seed)(*member, p.batch)))


def test_vmap_over_seeds_of_the_sampled_fisher_is_the_loop_over_them():
    p = problem("perceptron")
    v = torch.ones(p.numbers, dtype=torch.float64)

    def product(params, buffers, seed):
        return pb.monte_carlo_fisher(p.model, "categorical", samples=2, seed=seed)(params, buffers, p.batch, v)

    members, seeds = members_of(p), [0, 9, 2**33]
    together = torch.vmap(product)(*pb.stack_states(members), torch.tensor(seeds))
    assert_close(together, torch.stack([product(*member, seed) for member, seed in zip(members, seeds, strict=True)]))


def test_members_with_seeds_of_their_own_have_independent_errors():
    p = problem("perceptron")
    op = pb.hessian(p.loss)
    seeds = torch.arange(400)
    values = torch.vmap(lambda seed: pb.trace(op, samples=4, seed=seed)(p.params, p.buffers, p.batch).value)(seeds)
    one, other = values[:200], values[200:]
    assert torch.corrcoef(torch.stack([one, other]))[0, 1].abs() < 0.25
    assert values.unique().numel() > 300


@every_seeded
@pytest.mark.parametrize(
    ("seed", "error", "message"),
    [
        (torch.tensor(-1), ValueError, "seed must be at least 0, got -1"),
        (torch.tensor(0.0), ValueError, "seed must be a whole number or a 0-dim integer tensor, .* torch.float32"),
        (torch.tensor([1, 2]), ValueError, "seed must be a whole number or a 0-dim integer tensor, .* use torch.vmap"),
        (torch.tensor(True), ValueError, "seed must be a whole number or a 0-dim integer tensor"),
        (True, TypeError, "seed must be a whole number"),
    ],
)
def test_what_is_no_seed_is_refused(seeded, seed, error, message):
    p = problem("perceptron")
    with pytest.raises(error, match=message):
        seeded(pb.gauss_newton(p.loss), seed)(p.params, p.buffers, p.batch)
