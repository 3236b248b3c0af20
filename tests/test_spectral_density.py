"""How the eigenvalues are spread, against the dense spectrum."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

import pure_batchops as pb
from tests.marks import compiles
from tests.matrices import (
    SPECTRA,
    at_matrix,
    every_spectrum,
    log_cosh,
    members_of,
    multiplication,
    point_of_log_cosh,
    symmetric,
)
from tests.strategies import problem, problems, seeds
from tests.tables import ROWS, Row, close, every_row, few

SPREAD = symmetric(torch.cat([torch.linspace(0, 1, 90), torch.linspace(3, 4, 30)]))


def integral(found, function=torch.ones_like):
    grid, density, _ = found
    return (density * function(grid)).sum() * (grid[1] - grid[0])


def smoothed(spectrum, grid, width):
    """The density of a spectrum that is known."""
    normal = torch.exp(-(((grid[:, None] - spectrum) / width) ** 2) / 2) / (width * (2 * torch.pi) ** 0.5)
    return normal.mean(1)


def check_density(found, points):
    assert found.grid.shape == found.density.shape == found.standard_error.shape == (points,)
    assert (found.density >= 0).all()
    assert (found.standard_error >= 0).all()
    even = torch.linspace(0, 1, points, dtype=found.grid.dtype) * (found.grid[-1] - found.grid[0]) + found.grid[0]
    assert_close(found.grid, even, rtol=0, atol=1e-5 * float(found.grid[-1] - found.grid[0]))
    rounding = 1e-6 if found.density.dtype == torch.float64 else 1e-5  # of a sum of so many numbers in single precision
    assert_close(integral(found), torch.ones((), dtype=found.density.dtype), atol=rounding, rtol=0)


@every_row
@given(p=problems(["one", "tied", "sequence"]), seed=seeds)
@few
def test_density_is_that_of_the_dense_matrix(row: Row, p, seed):
    op, spectrum = row.operation(p), torch.linalg.eigvalsh(row.twin(p))
    found = pb.spectral_density(op, samples=4, points=500, seed=seed)(p.params, p.buffers, p.batch)
    check_density(found, 500)
    trace = pb.trace(op, samples=4, seed=seed)(p.params, p.buffers, p.batch).value / p.numbers  # from the same signs
    scale = 1 + spectrum.abs().max()
    close(row, integral(found, lambda t: t) / scale, trace / scale)
    assert found.grid[0] <= spectrum.min() + 1e-3 * scale
    assert found.grid[-1] >= spectrum.max() - 1e-3 * scale


def test_density_is_the_smoothed_spectrum_within_its_error():
    spectrum = torch.linalg.eigvalsh(SPREAD)
    scores = []
    for seed in range(10):
        grid, density, error = pb.spectral_density(multiplication, seed=seed, width=0.1)(*at_matrix(SPREAD))
        scores.append((density - smoothed(spectrum, grid, 0.1)) / (error + 1e-9))
    scores = torch.stack(scores)
    assert 0.7 < scores.std() < 1.7  # 10 starts: a Student's t of 9 degrees of freedom has 1.13
    assert scores.abs().mean() < 1.5


def test_moments_are_the_trace_and_the_norm_from_the_same_signs():
    found = pb.spectral_density(multiplication, samples=7, width=0.05)(*at_matrix(SPREAD))
    trace, norm = (f(multiplication, samples=7)(*at_matrix(SPREAD)).value for f in (pb.trace, pb.frobenius_norm))
    assert_close(integral(found, lambda t: t), trace / 120, rtol=1e-6, atol=0)
    assert_close(integral(found, lambda t: t**2), norm**2 / 120 + 0.05**2, rtol=1e-3, atol=0)


def test_few_steps_have_the_moments_exactly_that_the_signs_have():
    whole = pb.spectral_density(multiplication, samples=3, width=0.1)(*at_matrix(SPREAD))
    few_steps = pb.spectral_density(multiplication, samples=3, width=0.1, steps=3)(*at_matrix(SPREAD))
    for power in range(6):  # polynomials of degree < 2m
        moment = lambda t, power=power: t**power  # noqa: E731
        assert_close(integral(few_steps, moment), integral(whole, moment), rtol=1e-4, atol=1e-4)


@every_spectrum
def test_every_spectrum_has_a_density_that_can_be_drawn(spectrum):
    found = pb.spectral_density(multiplication)(*at_matrix(symmetric(spectrum)))
    check_density(found, 1000)
    near = integral(found, lambda t: ((t[:, None] - spectrum).abs().amin(1) < 0.1 * (1 + spectrum.abs().max())).to(t.dtype))
    assert near > 0.99


def test_narrow_peaks_are_not_lost_between_the_points():
    found = pb.spectral_density(multiplication, width=1e-7, points=20)(*at_matrix(symmetric(SPECTRA["repeated"])))
    check_density(found, 20)


@given(chunk=st.integers(1, 6), seed=seeds)
def test_chunks_change_nothing(chunk, seed):
    options = {"samples": 5, "seed": seed, "steps": 6, "points": 50}
    whole = pb.spectral_density(multiplication, **options)(*at_matrix(SPREAD))
    chunked = pb.spectral_density(multiplication, chunk_size=chunk, **options)(*at_matrix(SPREAD))
    assert_close(tuple(chunked), tuple(whole))


@pytest.mark.parametrize("name", ["hessian", "gauss_newton"])
def test_ensemble_by_vmap_is_the_loop(name):
    p = problem("perceptron")
    density = pb.spectral_density(ROWS[name].operation(p), samples=3, steps=6, points=100)
    members = members_of(p)
    together = torch.vmap(density, in_dims=(0, 0, None))(*pb.stack_states(members), p.batch)
    assert isinstance(together, pb.SpectralDensity)
    for i, member in enumerate(members):
        assert_close(tuple(part[i] for part in together), tuple(density(*member, p.batch)))


def test_width_may_be_vmapped():
    widths = torch.tensor([0.1, 0.3])
    density = lambda width: pb.spectral_density(multiplication, steps=5, width=width)(*at_matrix(SPREAD))  # noqa: E731
    together = torch.vmap(density)(widths)
    assert_close(together.density[1], density(0.3).density, rtol=1e-5, atol=1e-5)


def test_averaged_operation_is_the_operation_on_all_the_data():
    p = problem("perceptron", 5)
    op = pb.gauss_newton(p.loss)
    batches = [tuple(part[a:b] for part in p.batch) for a, b in ((0, 2), (2, 5))]
    options = {"samples": 2, "steps": 4}
    mean = pb.spectral_density(pb.averaged(op), **options)(p.params, p.buffers, batches)
    assert_close(tuple(mean), tuple(pb.spectral_density(op, **options)(p.params, p.buffers, p.batch)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_half_precision_is_computed_in_single(dtype):
    found = pb.spectral_density(multiplication, width=0.2, points=100)(*at_matrix(SPREAD, dtype))
    assert {part.dtype for part in found} == {torch.float32}
    check_density(found, 100)
    expected = smoothed(torch.linalg.eigvalsh(SPREAD).float(), found.grid, 0.2)
    assert (found.density - expected).abs().max() < 0.2 * expected.max()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"samples": 1}, ValueError, "samples must be at least 2, got 1"),
        ({"steps": 0}, ValueError, "steps must be at least 1, got 0"),
        ({"points": 1}, ValueError, "points must be at least 2, got 1"),
        ({"seed": -1}, ValueError, "seed must be at least 0, got -1"),
        ({"width": 0.0}, ValueError, "width must be positive and finite, got 0.0"),
        ({"width": "1"}, TypeError, "width must be a positive number"),
        ({"chunk_size": 1.0}, TypeError, "chunk_size must be a whole number, got 1.0"),
    ],
)
def test_spectral_density_refuses_options_before_it_sees_a_tensor(options, error, message):
    with pytest.raises(error, match=message):
        pb.spectral_density(multiplication, **options)


def test_what_is_no_operation_is_refused():
    with pytest.raises(TypeError, match="op must be a function"):
        pb.spectral_density(None)


@compiles
def test_compiled_is_eager():
    torch._dynamo.reset()
    point = point_of_log_cosh()
    density = pb.spectral_density(pb.gauss_newton(log_cosh), samples=2, steps=2, points=20)
    compiled = torch.compile(density, fullgraph=True, backend="aot_eager")
    assert_close(tuple(compiled(*point)), tuple(density(*point)))
