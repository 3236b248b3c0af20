"""Right at any size that the dtype can hold: squares of small numbers do not vanish, those of large ones do not overflow."""

import pytest
import torch
from torch.testing import assert_close

import pure_batchops as pb
from tests.matrices import at_matrix, multiplication, symmetric

SIZES = [1e-36, 1e-24, 1e-22, 1e25]
every_size = pytest.mark.parametrize("size", SIZES)
MATRIX = symmetric(torch.linspace(0.5, 3, 12))
WIDE = symmetric(torch.linspace(-1, 3, 60))
INVERSES = {
    "conjugate_gradient": lambda op: pb.conjugate_gradient(op, 1.0),
    "solution": lambda op: lambda *args: pb.conjugate_gradient_solution(op, 1.0)(*args).solution,
    "lissa": lambda op: pb.lissa(op, 1.0, depth=40),
    "nystroem": lambda op: pb.nystroem(op, 1.0, rank=12),
    "direct": lambda op: pb.direct(op, 1.0),
}


@every_size
@pytest.mark.parametrize("inverse", INVERSES.values(), ids=INVERSES)
def test_solution_is_linear_in_the_size_of_v(inverse, size):
    v = torch.randn(2, 12)
    found = inverse(multiplication)(*at_matrix(MATRIX, torch.float32), size * v) / size
    assert_close(found, torch.linalg.solve(MATRIX + torch.eye(12), v.double().T).T.float(), rtol=1e-4, atol=1e-5)


@every_size
def test_residual_norms_are_those_of_what_is_returned(size):
    v = size * torch.randn(12)
    found = pb.conjugate_gradient_solution(multiplication, 1.0, max_steps=2)(*at_matrix(MATRIX, torch.float32), v)
    right = ((v.double() - (MATRIX + torch.eye(12)) @ found.solution.double()) / size).norm()
    assert_close((found.residual_norms / size).double(), right, rtol=1e-3, atol=0)
    assert not found.converged


@every_size
def test_nystroem_of_a_small_matrix_is_its_inverse(size):
    point = at_matrix(size * MATRIX, torch.float32)
    v = torch.randn(12)
    found = pb.nystroem(multiplication, size, rank=12)(*point, v) * size
    assert_close(found, torch.linalg.solve(MATRIX + torch.eye(12), v.double()).float(), rtol=1e-3, atol=1e-4)


@every_size
@pytest.mark.parametrize("method", ["lanczos", "scipy"])
@pytest.mark.parametrize("matrix", [MATRIX, WIDE], ids=["small", "wide"])
def test_eigenpairs_are_right_and_so_are_their_residuals(method, matrix, size):
    if method == "scipy":
        pytest.importorskip("scipy", reason="an optional extra")
    pairs = pb.eigenpairs(multiplication, 3, method=method)
    found = pairs(*at_matrix(size * matrix, torch.float32))
    values = torch.linalg.eigvalsh(matrix).flip(0)[:3]
    assert_close(found.values.double() / size, values, rtol=1e-5, atol=0)
    vectors = found.vectors.double()
    residuals = (vectors @ matrix - found.values.double()[:, None] / size * vectors).norm(dim=1)
    assert_close(found.residuals.double() / size, residuals, rtol=0.5, atol=3e-6)
    assert (found.residuals > 0).all()


@every_size
@pytest.mark.parametrize("method", ["hutchinson", "hutch++"])
@pytest.mark.parametrize("estimator", [pb.trace, pb.diagonal, pb.frobenius_norm])
def test_estimates_and_their_errors_are_proportional_to_the_matrix(estimator, method, size):
    estimate = estimator(multiplication, samples=12, method=method)
    small, right = (estimate(*at_matrix(scale * WIDE, torch.float32)) for scale in (size, 1.0))
    assert_close(tuple(part / size for part in small), tuple(right), rtol=1e-4, atol=1e-4)
    assert (small.standard_error > 0).all()


def test_members_of_an_ensemble_have_sizes_of_their_own():
    matrices = torch.stack([size * WIDE for size in (1.0, 1e-24, 0.0)])
    estimate = lambda matrix: pb.frobenius_norm(multiplication, samples=9)(*at_matrix(matrix, torch.float32))  # noqa: E731
    together = torch.vmap(estimate)(matrices)
    assert_close(together.value[1] * 1e24, together.value[0], rtol=1e-4, atol=0)
    assert together.value[2] == together.standard_error[2] == 0
