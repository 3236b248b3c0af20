"""Eigenpairs stop when they have converged, and not before."""

import pytest
import torch
from torch.testing import assert_close

import pure_batchops as pb
from tests.matrices import at_matrix, multiplication, symmetric
from tests.pairs import check, ends, every_end

SIZE = 150  # more than the steps
FALLING = symmetric(0.7 ** torch.arange(SIZE, dtype=torch.float64) - 0.5 * 0.6 ** torch.arange(SIZE - 1, -1, -1.0).double())


def counted(matrix, k, **options):
    """Eigenpairs, and the number of products that they took."""
    products = 0

    def at(params, buffers, batch):
        multiply = multiplication.at(params, buffers, batch)

        def product(v):
            nonlocal products
            products += 1
            return multiply(v)

        return product

    op = pb.batch_operation(at, chunk_size=1)
    return pb.eigenpairs(op, k, **options)(*at_matrix(matrix)), products


@every_end
@pytest.mark.parametrize("k", [1, 2, 4])
def test_falling_spectrum_takes_fewer_products_than_the_most_and_keeps_its_tolerance(which, k):
    pairs, products = counted(FALLING, k, which=which)
    assert products < 2 * k + 50
    check(FALLING, pairs, k, which, atol=1e-10, rtol=1e-9)
    _, fewer = counted(FALLING, k, which=which, tolerance=1e-3)
    assert fewer < products


@pytest.mark.parametrize("tolerance", [1e-2, 1e-4, 1e-8])
def test_residuals_keep_the_tolerance(tolerance):
    pairs, _ = counted(FALLING, 3, tolerance=tolerance)
    assert (pairs.residuals <= 1.01 * tolerance * torch.linalg.matrix_norm(FALLING, 2)).all()


def test_flat_spectrum_takes_all_steps():
    flat = symmetric(torch.linspace(0, 1, SIZE, dtype=torch.float64))
    pairs, products = counted(flat, 3, steps=30)
    assert products == 30 + 3
    assert pairs.residuals.max() > 1e-6


REPEATED = {
    "first": ([5.0, 5.0, 4.0], [0.0, -1.0]),
    "in between": ([5.0, 4.0, 4.0, 3.5], [-1.0]),
    "three times": ([5.0, 4.0, 4.0, 4.0], [-1.0]),
    "lowest": ([5.0], [-3.0, -4.0, -4.0]),
}


@every_end
@pytest.mark.parametrize("spectrum", REPEATED.values(), ids=REPEATED)
def test_repeated_eigenvalues_are_not_lost_by_stopping_early(spectrum, which):
    """The rest of the spectrum is wide, so that no space is used up."""
    top, bottom = spectrum
    rest = 0.5 * torch.linspace(-1, 1, SIZE - len(top) - len(bottom), dtype=torch.float64) ** 3
    values = torch.cat([torch.tensor(top).double(), rest, torch.tensor(bottom).double()])
    matrix = symmetric(values)
    k = {"largest": 3 if len(top) > 1 else 1, "smallest": 3 if len(bottom) > 2 else 1, "both": 3}[which]
    pairs, _ = counted(matrix, k, which=which, steps=120)
    assert_close(pairs.values, ends(values.sort().values, k, which), atol=1e-6, rtol=0)


def test_zeros_of_a_matrix_of_low_rank_are_found_as_often_as_they_occur():
    values = torch.cat([torch.linspace(1, 2, 30), torch.zeros(SIZE - 30)]).double()
    pairs, _ = counted(symmetric(values), 4, which="smallest")
    assert_close(pairs.values, torch.zeros(4, dtype=torch.float64), atol=1e-10, rtol=0)


def test_all_steps_are_all_pairs_also_where_some_have_converged():
    small = symmetric(torch.tensor([1.0, 1.0, *[0.1**i for i in range(1, 30)]]).double())
    pairs, products = counted(small, 2)
    assert products == 31 + 2
    assert_close(pairs.values, torch.ones(2, dtype=torch.float64))


def test_vmap_takes_all_steps_and_finds_the_same():
    batches = torch.stack([FALLING[None], 2 * FALLING[None]])
    pairs = torch.vmap(pb.eigenpairs(multiplication, 3), in_dims=(None, None, 0))(
        {"w": torch.zeros(SIZE).double()}, {}, batches
    )
    alone, _ = counted(FALLING, 3)
    assert_close(pairs.values, torch.stack([alone.values, 2 * alone.values]))
    assert_close(pairs.vectors[0], alone.vectors, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("method", ["lanczos", "scipy"])
@pytest.mark.parametrize(
    ("tolerance", "message"), [(0.0, "tolerance must be positive"), (1.0, "tolerance must be less than 1")]
)
def test_what_is_no_tolerance_is_refused(tolerance, message, method):
    with pytest.raises(ValueError, match=message):
        pb.eigenpairs(multiplication, 1, tolerance=tolerance, method=method)
