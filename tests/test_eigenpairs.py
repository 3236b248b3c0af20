"""Lanczos, the ends of a spectrum, and a matrix as scipy takes it."""

import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

import pure_batchops as pb
from pure_batchops.estimators.lanczos import directions, lanczos, ritz
from pure_batchops.solvers.inverse import rows_of
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
from tests.pairs import WHICH, check, ends, every_end
from tests.strategies import problem, problems, seeds
from tests.tables import ROWS, Row, close, every_row, few

np = pytest.importorskip("numpy")
pytest.importorskip("scipy", reason="an optional extra")
both_methods = pytest.mark.parametrize("method", ["lanczos", "scipy"])
small = problems(["one", "tied", "sequence"])  # all steps are as many products as there are parameters


def tridiagonal(matrix, starts, steps):
    params, buffers, batch = at_matrix(matrix)
    rows = rows_of(multiplication, params, buffers, batch)
    return lanczos(rows, directions(rows, starts, 0), steps, 0)


@every_spectrum
@pytest.mark.parametrize("share", [1.0, 0.5, 0.0])
def test_lanczos_is_the_matrix_in_an_orthonormal_basis(spectrum, share):
    matrix = symmetric(spectrum)
    steps = max(1, round(share * len(matrix)))
    found = tridiagonal(matrix, 3, steps)
    assert found.diagonal.shape == (3, steps)
    assert found.beside.shape == (3, steps - 1)
    scale = matrix.norm() + 1e-300
    for alpha, beta, basis in zip(*found, strict=True):
        assert_close(basis @ basis.T, torch.eye(steps, dtype=torch.float64), atol=1e-13, rtol=0)
        expected = torch.diag(alpha) + torch.diag(beta, 1) + torch.diag(beta, -1)
        assert_close(basis @ matrix @ basis.T / scale, expected / scale, atol=1e-13, rtol=0)
        assert (beta >= 0).all()


@every_spectrum
def test_full_lanczos_has_every_eigenvalue_as_often_as_it_occurs(spectrum):
    matrix = symmetric(spectrum)
    values, _ = ritz(tridiagonal(matrix, 2, len(matrix)))
    assert_close(values, torch.linalg.eigvalsh(matrix).expand(2, -1), atol=1e-12, rtol=0)


def test_lanczos_of_an_eigenvector_goes_on_elsewhere():
    matrix = torch.diag(torch.arange(1.0, 6.0, dtype=torch.float64))
    params, buffers, batch = at_matrix(matrix)
    starts = torch.eye(5, dtype=torch.float64)
    found = lanczos(rows_of(multiplication, params, buffers, batch), starts, 5, 0)
    assert_close(found.beside[:, 0], torch.zeros(5, dtype=torch.float64))
    assert_close(ritz(found)[0], matrix.diagonal().expand(5, 5))


@every_row
@both_methods
@given(p=small, which=st.sampled_from(WHICH), seed=seeds, data=st.data())
@few
def test_eigenpairs_of_all_steps_are_those_of_the_dense_matrix(row: Row, method, p, which, seed, data):
    matrix = row.twin(p)
    k = data.draw(st.integers(1, min(p.numbers, 5)))
    found = pb.eigenpairs(row.operation(p), k, which=which, method=method, seed=seed)(p.params, p.buffers, p.batch)
    assert found.vectors.shape == (k, p.numbers)
    close(row, found.values, ends(torch.linalg.eigvalsh(matrix), k, which))
    scale = 1 + torch.linalg.matrix_norm(matrix, 2)
    close(row, found.residuals / scale, torch.zeros_like(found.residuals))
    close(row, found.vectors @ found.vectors.T, torch.eye(k, dtype=torch.float64))


TOO_FINE = ("wide", "scipy", 4)  # below the largest, scipy wants 1e-29 to a relative 1e-16
EVERY_CASE = [
    (name, which, method, k)
    for name in SPECTRA
    for which in WHICH
    for method in ("lanczos", "scipy")
    for k in (1, 4, None)
    if which == "largest" or (name, method, k) != TOO_FINE
]


@pytest.mark.parametrize(("name", "which", "method", "k"), EVERY_CASE)
def test_eigenpairs_are_right_for_every_spectrum_and_number(name, which, method, k):
    matrix = symmetric(SPECTRA[name])
    k = min(k or len(matrix), len(matrix))
    pairs = pb.eigenpairs(multiplication, k, which=which, method=method)
    check(matrix, pairs(*at_matrix(matrix)), k, which, atol=1e-10, rtol=1e-7)


@pytest.mark.parametrize("which", ["smallest", "both"])
def test_scipy_says_where_it_does_not_converge(which):
    name, method, k = TOO_FINE
    with pytest.raises(RuntimeError, match="No convergence"):
        pb.eigenpairs(multiplication, k, which=which, method=method)(*at_matrix(symmetric(SPECTRA[name])))


LARGE = symmetric(torch.cat([torch.linspace(0, 1, 110), torch.tensor([-4.0, -2.0, 3.0, 5.0, 5.5, 9.0])]))


@every_end
@both_methods
def test_few_steps_find_the_ends_that_stand_apart(which, method):
    for k in (1, 2, 3):
        found = pb.eigenpairs(multiplication, min(k, 2) if which == "smallest" else k, which=which, method=method, steps=40)
        check(LARGE, found(*at_matrix(LARGE)), min(k, 2) if which == "smallest" else k, which, atol=1e-7, rtol=1e-7)


def test_residuals_tell_of_too_few_steps():
    few_steps = pb.eigenpairs(multiplication, 5, steps=10)(*at_matrix(LARGE))
    more_steps = pb.eigenpairs(multiplication, 5, steps=40)(*at_matrix(LARGE))
    assert few_steps.residuals[-1] > 1e-2
    nearest = (torch.linalg.eigvalsh(LARGE)[:, None] - few_steps.values).abs().amin(0)
    assert (nearest <= few_steps.residuals + 1e-12).all()
    assert more_steps.residuals[:4].max() < 1e-6


@every_end
@pytest.mark.parametrize("name", ["hessian", "gauss_newton", "generalized_gauss_newton"])
@pytest.mark.parametrize("steps", [None, 5])
def test_ensemble_by_vmap_is_the_loop(which, name, steps):
    p = problem("perceptron")
    pairs = pb.eigenpairs(ROWS[name].operation(p), 3, which=which, steps=steps)
    members = members_of(p)
    together = torch.vmap(pairs, in_dims=(0, 0, None))(*pb.stack_states(members), p.batch)
    assert isinstance(together, pb.Eigenpairs)
    for i, member in enumerate(members):
        alone = pairs(*member, p.batch)
        assert_close(together.values[i], alone.values)
        assert_close(together.residuals[i], alone.residuals, atol=1e-6, rtol=1e-6)
        if which == "largest":  # the smallest are zeros, whose vectors are any
            assert_close(together.vectors[i], alone.vectors, atol=1e-6, rtol=1e-6)


def test_ensemble_of_which_one_member_uses_its_space_up_is_the_loop():
    spectra = (SPECTRA["identity"], SPECTRA["apart"], SPECTRA["zero"])
    batches = torch.stack([symmetric(spectrum)[None] for spectrum in spectra])
    pairs = pb.eigenpairs(multiplication, 4)
    together = torch.vmap(pairs, in_dims=(None, None, 0))({"w": torch.zeros(30, dtype=torch.float64)}, {}, batches)
    for i, spectrum in enumerate(spectra):
        assert_close(together.values[i], ends(spectrum.sort().values, 4, "largest"))


@both_methods
def test_averaged_operation_is_the_operation_on_all_the_data(method):
    p = problem("perceptron", 5)
    op = pb.gauss_newton(p.loss)
    batches = [tuple(part[a:b] for part in p.batch) for a, b in ((0, 2), (2, 5))]
    mean = pb.eigenpairs(pb.averaged(op), 3, method=method)(p.params, p.buffers, batches)
    whole = pb.eigenpairs(op, 3, method=method)(p.params, p.buffers, p.batch)
    assert_close(tuple(mean), tuple(whole))


def test_methods_agree_to_the_sign():
    one, other = (pb.eigenpairs(multiplication, 4, method=m)(*at_matrix(LARGE)) for m in ("lanczos", "scipy"))
    assert_close(one.values, other.values)
    assert_close(one.vectors, other.vectors, atol=1e-7, rtol=1e-7)


@both_methods
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_half_precision_is_computed_in_single(method, dtype):
    found = pb.eigenpairs(multiplication, 2, method=method)(*at_matrix(LARGE, dtype))
    assert found.values.dtype == found.vectors.dtype == found.residuals.dtype == torch.float32
    assert_close(found.values, torch.tensor([9.0, 5.5]), atol=30 * torch.finfo(dtype).eps, rtol=0)


@pytest.mark.parametrize(
    ("k", "options", "error", "message"),
    [
        (0, {}, ValueError, "k must be at least 1, got 0"),
        (1.5, {}, TypeError, "k must be a whole number, got 1.5"),
        (3, {"steps": 2}, ValueError, "steps must be at least 3, got 2"),
        (3, {"which": "LA"}, ValueError, "which must be one of 'largest', 'smallest', 'both', got 'LA'"),
        (3, {"method": "power"}, ValueError, "method must be one of 'lanczos', 'scipy', got 'power'"),
        (3, {"seed": 0.5}, TypeError, "seed must be a whole number, got 0.5"),
    ],
)
def test_eigenpairs_refuse_options_before_they_see_a_tensor(k, options, error, message):
    with pytest.raises(error, match=message):
        pb.eigenpairs(multiplication, k, **options)


@both_methods
def test_more_pairs_than_parameters_are_refused(method):
    with pytest.raises(ValueError, match="k must be at most 116, the numbers that params hold, got 117"):
        pb.eigenpairs(multiplication, 117, method=method)(*at_matrix(LARGE))


def test_what_is_no_operation_is_refused():
    with pytest.raises(TypeError, match="op must be a function"):
        pb.eigenpairs(None, 1)
    with pytest.raises(TypeError, match="op must be a function"):
        pb.linear_operator(None, *at_matrix(LARGE))


def test_plain_function_of_the_signature_is_an_operation():
    operator = pb.linear_operator(lambda params, buffers, batch, v: 2 * v, *at_matrix(LARGE))
    assert_close(torch.tensor(operator @ np.ones(116)), 2 * torch.ones(116, dtype=torch.float64))
    found = pb.eigenpairs(lambda *arguments: multiplication(*arguments), 2)(*at_matrix(LARGE))
    assert_close(found.values, torch.tensor([9.0, 5.5], dtype=torch.float64))


def test_scipy_under_vmap_is_refused():
    params = {"w": torch.zeros(2, 116, dtype=torch.float64)}
    batches = torch.stack([LARGE[None], LARGE[None]])
    for k in (2, 116):
        with pytest.raises(ValueError, match="scipy must be called outside of torch.vmap"):
            torch.vmap(pb.eigenpairs(multiplication, k, method="scipy"), in_dims=(0, None, 0))(params, {}, batches)


def test_missing_scipy_is_told_with_the_way_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.sparse", None)
    for call in (
        lambda: pb.eigenpairs(multiplication, 1, method="scipy"),
        lambda: pb.linear_operator(multiplication, *at_matrix(LARGE)),
    ):
        with pytest.raises(ImportError, match=r"scipy.* is not installed: pip install 'pure_batchops\[scipy\]'"):
            call()
    pb.eigenpairs(multiplication, 1)


@every_row
@given(p=small, seed=seeds)
@few
def test_linear_operator_is_the_dense_matrix(row: Row, p, seed):
    operator, matrix = pb.linear_operator(row.operation(p), p.params, p.buffers, p.batch), row.twin(p)
    assert operator.shape == (p.numbers, p.numbers)
    assert operator.dtype == np.float64
    rng = np.random.default_rng(seed)
    x, many = rng.normal(size=p.numbers), rng.normal(size=(p.numbers, 3))
    for product, expected in (
        (operator @ x, matrix.numpy() @ x),
        (operator.matvec(x[:, None]), matrix.numpy() @ x[:, None]),
        (operator.rmatvec(x), matrix.numpy() @ x),
        (operator.T @ x, matrix.numpy() @ x),
        (operator @ many, matrix.numpy() @ many),
        (operator.H @ many, matrix.numpy() @ many),
        (operator @ many[:, ::-1], matrix.numpy() @ many[:, ::-1]),
        (operator @ np.asfortranarray(many)[::-1], matrix.numpy() @ many[::-1]),
    ):
        assert isinstance(product, np.ndarray)
        close(row, torch.tensor(product), torch.tensor(expected))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_linear_operator_takes_any_numbers_and_leaves_them(dtype):
    operator = pb.linear_operator(multiplication, *at_matrix(torch.eye(3, dtype=torch.float64), dtype))
    x = np.arange(3)
    x.setflags(write=False)
    product = operator @ x
    assert operator.dtype == product.dtype == np.float32
    product += 1
    assert (product == x + 1).all()


@compiles
def test_compiled_is_eager():
    torch._dynamo.reset()
    point = point_of_log_cosh()
    pairs = pb.eigenpairs(pb.gauss_newton(log_cosh), 1, steps=2)
    compiled = torch.compile(pairs, fullgraph=True, backend="aot_eager")
    assert_close(tuple(compiled(*point)), tuple(pairs(*point)))
