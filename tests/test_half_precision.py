"""In half precision the inverses are right to the rounding of products, or they say so."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812
from torch.testing import assert_close

import pure_batchops as pb
from tests.marks import float16

halves = pytest.mark.parametrize("dtype", [torch.bfloat16, float16])


def setting(dtype, seed, samples, hidden=20):
    """A perceptron whose params and inputs the dtype holds exactly; its matrix in float64, and that one's norm."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Linear(6, hidden), nn.Tanh(), nn.Linear(hidden, 3))
        x, y, size = torch.randn(samples, 6).to(dtype), torch.randint(3, (samples,)), 10 * hidden + 3
        v = torch.randn(size).to(dtype)
    params, buffers = pb.functional_state(net)
    low = {name: leaf.to(dtype) for name, leaf in params.items()}
    op = pb.gauss_newton(pb.sample_losses(net, F.cross_entropy))
    exact = {name: leaf.double() for name, leaf in low.items()}, buffers, (x.double(), y)
    norm = float(torch.linalg.matrix_norm(pb.dense(op)(*exact), 2))
    return op, (low, buffers, (x, y)), exact, v, norm


def error(product, right):
    return float((product.double() - right).norm() / right.norm())


@halves
@pytest.mark.parametrize("rank", [10, 60, 203])
@pytest.mark.parametrize("share", [0.1, 0.01])
def test_nystroem_of_low_rank_is_the_inverse_to_the_rounding_of_the_dtype(dtype, rank, share):
    for seed in range(3):
        op, point, exact, v, norm = setting(dtype, seed, samples=8)
        regularization = share * norm
        right = pb.direct(op, regularization)(*exact, v.double())
        near = pb.nystroem(op, regularization, rank=rank)(*point, v)
        assert near.dtype == dtype
        assert error(near, right) < 2 * torch.finfo(dtype).eps * (1 + 0.1 / share)


@halves
@pytest.mark.parametrize("share", [0.1, 0.01])
def test_nystroem_of_full_rank_is_as_good_as_its_rank_allows(dtype, share):
    for seed in range(3):
        op, point, exact, v, norm = setting(dtype, seed, samples=64)
        regularization = share * norm
        right = pb.direct(op, regularization)(*exact, v.double())
        inverse = pb.nystroem(op, regularization, rank=30)
        allowed = error(inverse(*exact, v.double()), right)
        assert error(inverse(*point, v), right) < 1.2 * allowed + 2 * torch.finfo(dtype).eps * (1 + 0.1 / share)


@halves
def test_matrix_with_negative_eigenvalues_is_still_refused(dtype):
    op = pb.hessian(lambda params, buffers, batch: (params**2 * torch.tensor([1.0, -0.5, 1.0])).sum()[None].to(dtype))
    with pytest.raises(RuntimeError, match="must be positive semi-definite for nystroem"):
        pb.nystroem(op, 2.0, rank=3)(torch.zeros(3, dtype=dtype), {}, None, torch.ones(3, dtype=dtype))


@halves
@pytest.mark.parametrize("share", [0.3, 0.1])
def test_conjugate_gradients_reach_their_default_tolerance(dtype, share):
    for seed in range(3):
        op, point, exact, v, norm = setting(dtype, seed, samples=64)
        regularization = share * norm
        right = pb.direct(op, regularization)(*exact, v.double())
        inverse = pb.conjugate_gradient(op, regularization)
        assert error(inverse(*point, v), right) < 4 * torch.finfo(dtype).eps / share
        found = pb.conjugate_gradient_solution(op, regularization)(*point, v)
        assert found.converged
        assert found.residual_norms <= 4 * torch.finfo(dtype).eps * v.float().norm()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_default_tolerance_of_single_and_double_precision_is_as_it_was(dtype):
    op, point, _, v, norm = setting(dtype, 0, samples=64)
    default, named = (pb.conjugate_gradient(op, 0.1 * norm, **options)(*point, v) for options in ({}, {"tolerance": 1e-5}))
    assert torch.equal(default, named)


def test_tolerance_that_half_precision_cannot_reach_is_refused_with_the_way_out():
    op, point, _, v, norm = setting(torch.bfloat16, 0, samples=64)
    with pytest.raises(RuntimeError, match="must reach residuals of 1e-05 .* params of a higher precision .* bfloat16"):
        pb.conjugate_gradient(op, 0.1 * norm, tolerance=1e-5)(*point, v)


@halves
def test_eigenpairs_agree_with_double_precision(dtype):
    op, point, exact, _, norm = setting(dtype, 0, samples=64)
    near, right = (pb.eigenpairs(op, 3)(*at).values.double() for at in (point, exact))
    assert_close(near, right, atol=4 * torch.finfo(dtype).eps * norm, rtol=0)
