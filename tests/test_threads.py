"""One operation in several threads at once: every product is the one that it is alone."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import pure_batchops as pb
from tests.tables import each

THREADS, MEMBERS, PRODUCTS = 4, 3, 20
MODEL = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3)).double()
CRITERION = nn.CrossEntropyLoss()
OPERATIONS = {
    "hessian": lambda: pb.hessian(pb.sample_losses(MODEL, CRITERION)),
    "forward_over_reverse": lambda: pb.hessian(pb.sample_losses(MODEL, CRITERION), mode="forward_over_reverse"),
    "gauss_newton": lambda: pb.gauss_newton(pb.sample_losses(MODEL, CRITERION)),
    "inverse_harmonic_mean": lambda: pb.inverse_harmonic_mean(pb.sample_losses(MODEL, CRITERION), 0.1),
    "generalized_gauss_newton": lambda: pb.generalized_gauss_newton(MODEL, CRITERION),
    "monte_carlo_fisher": lambda: pb.monte_carlo_fisher(MODEL, "categorical"),
}


def members() -> tuple[list[Any], Any]:
    params, buffers = pb.functional_state(MODEL)
    return [{key: (1 + i) * leaf for key, leaf in params.items()} for i in range(MEMBERS)], buffers


@each(OPERATIONS, "operation")
@pytest.mark.parametrize("mean", [False, True])
def test_products_of_several_members_at_once_are_those_of_one_after_the_other(operation: Any, mean: bool) -> None:
    params, buffers = members()
    op = pb.averaged(operation()) if mean else operation()
    batch = torch.randn(5, 3).double(), torch.randint(3, (5,))
    v = torch.randn(sum(leaf.numel() for leaf in params[0].values()), dtype=torch.float64)
    data = [tuple(part[:2] for part in batch), tuple(part[2:] for part in batch)] if mean else batch

    def product(member: Any) -> Any:
        return op(member, buffers, data, v)

    expected = [product(member) for member in params]
    with ThreadPoolExecutor(THREADS) as pool:
        found = list(pool.map(product, params * PRODUCTS))
    assert_close(torch.stack(found), torch.stack(expected * PRODUCTS))


def test_averages_of_several_threads_count_their_own_points():
    op = pb.averaged(pb.gauss_newton(lambda params, buffers, x: params * x))
    batches = [[torch.full((n,), float(i)) for i in range(n)] for n in range(1, 8)]

    def product(data: Any) -> Any:
        return op(torch.ones(1), {}, data, torch.ones(1))

    with ThreadPoolExecutor(THREADS) as pool:
        found = list(pool.map(product, batches * PRODUCTS))
    assert_close(torch.stack(found), torch.stack([product(data) for data in batches] * PRODUCTS))
