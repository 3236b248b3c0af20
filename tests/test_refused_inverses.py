"""What has no inverse or no estimate is refused, or NaN as a member of an ensemble, beside others that are right."""

import pytest
import torch
from torch.testing import assert_close

import pure_batchops as pb
from tests.matrices import SPECTRA, at_matrix, multiplication, symmetric
from tests.strategies import flat, problem, vectors

SINGULAR = symmetric([3.0, 2.0, 1.0] + [0.0] * 5)
REGULAR = symmetric(torch.linspace(1, 2, 8))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("seed", range(4))
def test_direct_refuses_a_singular_matrix_also_for_a_vector_in_its_range(dtype, seed):
    matrix = symmetric([3.0, 2.0, 1.0] + [0.0] * 5, seed=seed)
    point, v = at_matrix(matrix.to(dtype), dtype), (matrix @ torch.randn(8).double()).to(dtype)
    with pytest.raises(RuntimeError, match="must be invertible, got a matrix that is singular .* .condition"):
        pb.direct(multiplication, 0.0)(*point, v)
    both = torch.stack([matrix, REGULAR]).to(dtype)
    found = torch.vmap(lambda one: pb.direct(multiplication, 0.0)(*at_matrix(one, dtype), v))(both)
    assert found[0].isnan().all()
    assert_close(found[1], torch.linalg.solve(REGULAR.to(dtype), v), rtol=1e-4, atol=1e-5)


def test_direct_accepts_what_single_precision_can_solve():
    matrix = symmetric(torch.logspace(0, -5, 40))
    v = torch.randn(40)
    found, right = pb.direct(multiplication, 0.0)(*at_matrix(matrix, torch.float32), v), torch.linalg.solve(matrix, v.double())
    assert (found - right).norm() < 0.01 * right.norm()


def test_direct_in_nested_vmap_with_rows_is_the_loop():
    matrices = torch.stack([symmetric(torch.linspace(1, 2 + i, 4), seed=i) for i in range(3)])
    rows = torch.randn(2, 5, 4, dtype=torch.float64)
    solve = lambda matrix, v: pb.direct(multiplication, 0.5)(*at_matrix(matrix), v)  # noqa: E731
    together = torch.vmap(torch.vmap(solve, (None, 0)), (0, None))(matrices, rows)
    assert_close(together, torch.stack([torch.stack([solve(matrix, v) for v in rows]) for matrix in matrices]))


@pytest.mark.parametrize("rank", [1, 2, 3, 6])
@pytest.mark.parametrize("seed", range(4))
def test_nystroem_refuses_an_indefinite_matrix_of_low_rank(rank, seed):
    point = at_matrix(symmetric([5.0, 4.0, -1.0] + [0.0] * 17 if rank > 1 else [3.0, -1.0], seed=seed))
    with pytest.raises(RuntimeError, match="must be positive semi-definite for nystroem"):
        pb.nystroem(multiplication, 2.0, rank=rank, seed=seed)(*point, torch.ones(20 if rank > 1 else 2).double())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rank", [1, 5])
def test_nystroem_of_zero_alone_and_as_a_member(dtype, rank):
    v = torch.ones(5, dtype=dtype)
    solve = lambda matrix: pb.nystroem(multiplication, 0.5, rank=rank)(*at_matrix(matrix, dtype), v)  # noqa: E731
    assert_close(solve(torch.zeros(5, 5, dtype=dtype)), 2 * v)
    zero, other = torch.vmap(solve)(torch.stack([torch.zeros(5, 5), torch.eye(5)]).to(dtype))
    assert_close(zero, 2 * v)
    assert_close(other, solve(torch.eye(5, dtype=dtype)))


@pytest.mark.parametrize("sign", [0.0, -1.0])
def test_preconditioner_that_is_not_definite_is_named(sign):
    inverse = pb.conjugate_gradient(multiplication, 1.0, preconditioner=lambda params, buffers, batch, v: sign * v)
    with pytest.raises(RuntimeError, match="preconditioner must be positive definite .* for 1 of 1 right-hand"):
        inverse(*at_matrix(REGULAR), torch.ones(8).double())
    assert torch.vmap(inverse, (None, None, None, 0))(*at_matrix(REGULAR), torch.ones(2, 8).double()).isnan().all()


def test_loader_that_draws_other_batches_each_time_is_named():
    data = torch.randn(40, 6, dtype=torch.float64)
    loader = torch.utils.data.DataLoader(data, batch_size=9, shuffle=True, drop_last=True)
    op = pb.averaged(pb.hessian(lambda params, buffers, x: (x @ params).square() / 2))
    point, v = (torch.zeros(6).double(), {}), torch.ones(6).double()
    with pytest.raises(ValueError, match="the same, in the same order, each time that they are read"):
        pb.conjugate_gradient(op, 0.1)(*point, loader, v)
    pb.conjugate_gradient(op, 0.1)(*point, list(loader), v)


def test_lissa_measures_its_error_at_its_default_scale():
    p = problem("perceptron", 12)
    parts = list(zip(*(part.split([6, 6]) for part in p.batch), strict=True))
    v, op = flat(vectors(p.params, None, 0)), pb.averaged(pb.gauss_newton(p.loss))
    with pytest.raises(RuntimeError, match="residuals of at most 0.1 .* default scale, got up to 0.* name a scale"):
        pb.lissa(op, 0.01, depth=20)(p.params, p.buffers, parts, v)
    several = torch.vmap(lambda damping: pb.lissa(op, damping, depth=20)(p.params, p.buffers, parts, v))
    wrong, right = several(torch.tensor([0.01, 5.0], dtype=torch.float64))
    assert wrong.isnan().all()
    assert_close(right, pb.lissa(op, 5.0, depth=20)(p.params, p.buffers, parts, v))
    pb.lissa(op, 0.01, depth=20, scale=9.0)(p.params, p.buffers, parts, v)  # the recursion, as it was asked for


def test_scipy_that_gives_a_vector_twice_is_refused(monkeypatch):
    linalg = pytest.importorskip("scipy.sparse.linalg", reason="an optional extra")
    find = linalg.eigsh

    def twice(*args, **options):
        values, columns = find(*args, **options)
        columns[:, 0] = columns[:, 1]
        return values, columns

    monkeypatch.setattr(linalg, "eigsh", twice)
    with pytest.raises(RuntimeError, match="vectors of scipy must be orthonormal, got .* raise steps"):
        pb.eigenpairs(multiplication, 3, method="scipy")(*at_matrix(symmetric(SPECTRA["repeated"])))


def test_params_without_numbers_are_estimated_or_refused_in_words():
    op = pb.hessian(lambda params, buffers, x: x.sum(1) + params["none"].sum())
    point = {"none": torch.zeros(0)}, {}, torch.ones(2, 3)
    for estimator in (pb.trace, pb.frobenius_norm):
        for method in ("hutchinson", "hutch++"):
            assert estimator(op, method=method)(*point) == (0, 0)
    assert pb.diagonal(op)(*point).value.shape == (0,)
    with pytest.raises(ValueError, match="k must be at most 0"):
        pb.eigenpairs(op, 1)(*point)
    with pytest.raises(ValueError, match="params must hold numbers for a spectral density"):
        pb.spectral_density(op)(*point)
    beside = pb.hessian(lambda params, buffers, x: (params["a"] * x).square().sum(1) + params["none"].sum())
    assert_close(pb.diagonal(beside)({"a": torch.zeros(3), **point[0]}, *point[1:]).value, torch.full((3,), 2.0))


def test_density_narrower_than_rounding_is_refused():
    density = lambda matrix, width: pb.spectral_density(multiplication, steps=5, width=width)(  # noqa: E731
        *at_matrix(matrix, torch.float32)
    )
    large = 100 * REGULAR
    with pytest.raises(ValueError, match="width must be at least .* rounding of eigenvalues of up to 2e.02 .* float64"):
        density(large, 1e-6)
    with pytest.raises(ValueError, match="width must be at least"):
        density(100 * torch.eye(8), 1e-3)  # the points of the grid would fall together
    together = torch.vmap(lambda width: density(large, width).density)(torch.tensor([1e-6, 1.0]))
    assert together[0].isnan().all()
    assert_close(together[1], density(large, 1.0).density, rtol=1e-4, atol=1e-4)
    for matrix in (100 * torch.eye(8), 100 * torch.eye(8) + 1e-3 * REGULAR):
        grid, values, _ = density(matrix, None)
        assert_close((values * (grid[1] - grid[0])).sum(), torch.tensor(1.0), rtol=0.05, atol=0)
