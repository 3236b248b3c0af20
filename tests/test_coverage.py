"""Errors are honest: two of them hold the truth in 95 % of cases, however few samples they are from."""

import pytest
import torch

import pure_batchops as pb
from pure_batchops.estimators.student import widening
from tests.matrices import at_matrix, multiplication, symmetric

SEEDS = 200
MATRIX = symmetric(torch.linspace(-1, 2, 30))
TRUTHS = {
    "trace": (pb.trace, MATRIX.trace()),
    "diagonal": (pb.diagonal, MATRIX.diagonal()),
    "frobenius_norm": (pb.frobenius_norm, MATRIX.norm()),
}


def coverage(estimator, truth, matrix, **options):
    estimate = torch.vmap(lambda seed: estimator(multiplication, seed=seed, **options)(*at_matrix(matrix)))
    value, error = estimate(torch.arange(SEEDS))
    return float(((value - truth).abs() <= 2 * error).double().mean())


@pytest.mark.parametrize(("estimator", "truth"), TRUTHS.values(), ids=TRUTHS)
@pytest.mark.parametrize(
    ("method", "samples"), [("hutchinson", 2), ("hutchinson", 3), ("hutchinson", 10), ("hutch++", 4), ("hutch++", 12)]
)
def test_two_errors_hold_the_truth(estimator, truth, method, samples):
    assert coverage(estimator, truth, MATRIX, method=method, samples=samples) >= 0.92


@pytest.mark.parametrize(("estimator", "kind"), [(pb.trace, "trace"), (pb.frobenius_norm, "norm"), (pb.diagonal, "diagonal")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_hutch_plus_plus_of_a_matrix_of_low_rank_counts_the_rounding(estimator, kind, dtype):
    matrix = symmetric([3.0] + [0.0] * 29)
    point = at_matrix(matrix.to(dtype), dtype)
    truth = getattr(point[2][0].double(), kind)()
    found = [
        estimator(multiplication, samples=samples, seed=s, method="hutch++")(*point) for s in range(20) for samples in (4, 6)
    ]
    within = torch.stack([((value - truth).abs() <= 2 * error).double().mean() for value, error in found])
    assert within.mean() >= 0.92


def test_widening_is_that_of_students_t():
    stats = pytest.importorskip("scipy.stats", reason="an optional extra")
    for freedom in (1, 2, 3, 4, 7, 30, 1000):
        assert widening(freedom) == pytest.approx(stats.t.isf(stats.norm.sf(2), freedom) / 2, rel=0.01)
