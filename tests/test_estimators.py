"""Every law × every estimator, of every operation and of matrices that are known."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

import pure_batchops as pb
from pure_batchops.estimators.student import widening
from pure_batchops.noise import signs
from tests.marks import compiles
from tests.matrices import at_matrix, log_cosh, members_of, multiplication, point_of_log_cosh, symmetric
from tests.strategies import problem, problems, seeds
from tests.tables import ROWS, Row, close, every_row, few

TRUTHS = {
    "trace": (pb.trace, lambda matrix: matrix.trace()),
    "diagonal": (pb.diagonal, lambda matrix: matrix.diagonal()),
    "frobenius_norm": (pb.frobenius_norm, lambda matrix: matrix.norm()),
}
every_estimator = pytest.mark.parametrize(("estimator", "truth"), TRUTHS.values(), ids=TRUTHS)
both_methods = pytest.mark.parametrize("method", ["hutchinson", "hutch++"])


MATRIX = symmetric(torch.linspace(-1, 2, 30))
FALLING = symmetric(0.5 ** torch.arange(40.0))


def estimates(estimator, matrix, count, **options):
    """Estimates from one seed after another, value and error each of shape (count, …)."""
    found = [estimator(multiplication, seed=seed, **options)(*at_matrix(matrix)) for seed in range(count)]
    return torch.stack([value for value, _ in found]), torch.stack([error for _, error in found])


@every_row
def test_estimates_are_exact_where_products_are_as_many_as_parameters(row: Row):
    for p in (problem("tied"), problem("one")):
        matrix = row.twin(p)
        for estimator, truth in TRUTHS.values():
            estimate = estimator(row.operation(p), samples=max(p.numbers, 4), method="hutch++")
            value, error = estimate(p.params, p.buffers, p.batch)
            close(row, value, truth(matrix))
            assert_close(error, torch.zeros_like(value))


@every_row
@both_methods
@given(p=problems(), seed=seeds)
@few
def test_estimates_are_the_dense_truth_within_their_error(row: Row, method, p, seed):
    matrix = row.twin(p)
    for estimator, truth in TRUTHS.values():
        value, error = estimator(row.operation(p), samples=24, seed=seed, method=method)(p.params, p.buffers, p.batch)
        expected = truth(matrix)
        assert value.shape == error.shape == expected.shape
        # The error of 8 probes is itself an estimate: a bound that holds for any draw is not to be had.
        slack = 10 * error + 1e-3 * expected.norm()
        assert (value - expected).abs().le(slack).double().mean() >= 0.9


@every_estimator
@both_methods
def test_standard_error_is_honest_and_the_mean_over_seeds_is_the_truth(estimator, truth, method):
    expected = truth(MATRIX)
    values, errors = estimates(estimator, MATRIX, 200, samples=24, method=method)
    if estimator is pb.frobenius_norm:  # the square is unbiased
        assert ((values**2).mean(0) - expected**2).abs() < 5 * (values**2).std(0) / 200**0.5
    else:
        assert ((values.mean(0) - expected).abs() < 5 * values.std(0) / 200**0.5).all()
    assert_close(errors.square().mean(0).sqrt(), values.std(0), rtol=0.35, atol=0)
    scores = (values - expected) / errors
    assert 0.8 < scores.std() < 1.6  # 8 probes: a Student's t of 7 degrees of freedom has 1.18


@every_estimator
def test_hutch_plus_plus_errs_less_where_eigenvalues_fall_fast(estimator, truth):
    expected = truth(FALLING)
    plain, _ = estimates(estimator, FALLING, 10, samples=30)
    sketched, _ = estimates(estimator, FALLING, 10, samples=30, method="hutch++")
    assert (sketched - expected).norm() < 0.05 * (plain - expected).norm()


@every_estimator
@both_methods
@given(chunk=st.integers(1, 9), seed=seeds)
def test_chunks_change_nothing(estimator, truth, method, chunk, seed):
    whole = estimator(multiplication, samples=20, seed=seed, method=method)(*at_matrix(MATRIX))
    chunked = estimator(multiplication, samples=20, seed=seed, method=method, chunk_size=chunk)(*at_matrix(MATRIX))
    assert_close(tuple(chunked), tuple(whole))


@every_estimator
def test_plain_probes_are_held_a_chunk_at_a_time(estimator, truth):
    seen = []

    def at(params, buffers, batch):
        def multiply(v):
            seen.append(v["w"].shape)
            return v

        return multiply

    op = pb.batch_operation(at, chunk_size=1)
    estimator(op, samples=5, chunk_size=2)(*at_matrix(MATRIX))
    assert len(seen) == 5


@every_estimator
def test_standard_error_does_not_drown_in_a_large_value(estimator, truth):
    matrix = 1e9 * torch.eye(20, dtype=torch.float64) + MATRIX[:20, :20]
    value, error = estimator(multiplication, samples=50, chunk_size=7)(*at_matrix(matrix))
    assert ((value - truth(matrix)).abs() < 6 * error).all()
    assert (error < 10).all()


def test_plain_trace_and_diagonal_are_the_textbook_formulas():
    z = signs(3, 7, 30, MATRIX)
    quadratic, products = torch.einsum("ki,ij,kj->k", z, MATRIX, z), z * (z @ MATRIX)
    for estimator, numbers in ((pb.trace, quadratic), (pb.diagonal, products)):
        value, error = estimator(multiplication, samples=7, seed=3)(*at_matrix(MATRIX))
        assert_close(value, numbers.mean(0))
        assert_close(error, widening(6) * numbers.std(0) / 7**0.5)


@every_estimator
@both_methods
def test_matrices_need_not_be_symmetric(estimator, truth, method):
    matrix = MATRIX + torch.randn(30, 30, dtype=torch.float64).triu(1)
    values, _ = estimates(estimator, matrix, 100, samples=24, method=method)
    assert ((values.mean(0) - truth(matrix)).abs() < 5 * values.std(0) / 10 + 0.01 * truth(matrix).abs()).all()


@every_estimator
@both_methods
@pytest.mark.parametrize("name", ["hessian", "inverse_harmonic_mean", "generalized_gauss_newton", "block_diagonal"])
@pytest.mark.parametrize("kind", ["tied", "perceptron"])
def test_ensemble_by_vmap_is_the_loop(estimator, truth, method, name, kind):
    p = problem(kind)
    estimate = estimator(ROWS[name].operation(p), samples=12, method=method)
    members = members_of(p)
    together = torch.vmap(estimate, in_dims=(0, 0, None))(*pb.stack_states(members), p.batch)
    assert isinstance(together, pb.Estimate)
    for i, member in enumerate(members):
        alone = estimate(*member, p.batch)
        assert_close(together.value[i], alone.value)
        assert_close(together.standard_error[i], alone.standard_error)


@every_estimator
@both_methods
def test_averaged_operation_is_the_operation_on_all_the_data(estimator, truth, method):
    p = problem("perceptron", 5)
    op = pb.gauss_newton(p.loss)
    batches = [tuple(part[a:b] for part in p.batch) for a, b in ((0, 2), (2, 5))]
    mean = estimator(pb.averaged(op), samples=12, method=method)(p.params, p.buffers, batches)
    assert_close(tuple(mean), tuple(estimator(op, samples=12, method=method)(p.params, p.buffers, p.batch)))
    with pytest.raises(ValueError, match="iterable again"):
        estimator(pb.averaged(op))(p.params, p.buffers, iter(batches))


@every_estimator
@both_methods
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_half_precision_is_computed_in_single(estimator, truth, method, dtype):
    matrix = 1000 * FALLING
    value, error = estimator(multiplication, samples=40, method=method)(*at_matrix(matrix, dtype))
    assert value.dtype == error.dtype == torch.float32
    expected = estimator(multiplication, samples=40, method=method)(*at_matrix(matrix)).value.float()
    assert_close(value, expected, rtol=30 * torch.finfo(dtype).eps, atol=3000 * torch.finfo(dtype).eps)


def test_params_may_be_of_several_dtypes_or_one_tensor():
    loss = lambda params, buffers, x: (params["a"].double() * x).square().sum(1) + (params["b"] * x[:, 0]).square()  # noqa: E731
    params = {"a": torch.zeros(2), "b": torch.zeros((), dtype=torch.float64)}
    value, _ = pb.diagonal(pb.hessian(loss))(params, {}, torch.tensor([[1.0, 2.0]], dtype=torch.float64))
    assert_close(value, torch.tensor([2.0, 8.0, 2.0], dtype=torch.float64))
    scalar = pb.hessian(lambda params, buffers, x: (params * x) ** 2)
    assert_close(pb.trace(scalar)(torch.tensor(0.0), {}, torch.tensor([3.0])).value, torch.tensor(18.0))
    table = pb.hessian(lambda params, buffers, x: (params * x).square().sum((1, 2)))
    assert_close(pb.trace(table)(torch.zeros(3, 2), {}, torch.ones(1, 1, 1)).value, torch.tensor(12.0))


def test_zero_matrix_has_no_norm_and_no_error():
    for method in ("hutchinson", "hutch++"):
        for estimator, _ in TRUTHS.values():
            value, error = estimator(multiplication, samples=9, method=method)(*at_matrix(0 * MATRIX))
            assert_close(value, torch.zeros_like(value))
            assert_close(error, torch.zeros_like(value))


@every_estimator
@both_methods
def test_estimate_is_the_same_each_time_and_another_for_another_seed(estimator, truth, method):
    options = {"samples": 12, "method": method}
    one, same, other = (estimator(multiplication, seed=seed, **options)(*at_matrix(MATRIX)).value for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@every_estimator
@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"samples": 1}, ValueError, "samples must be at least 2, got 1"),
        ({"samples": 3, "method": "hutch++"}, ValueError, "samples must be at least 4, got 3"),
        ({"samples": 2.5}, TypeError, "samples must be a whole number, got 2.5"),
        ({"seed": -1}, ValueError, "seed must be at least 0, got -1"),
        ({"chunk_size": 0}, ValueError, "chunk_size must be at least 1, got 0"),
        ({"method": "hutch"}, ValueError, "method must be one of 'hutchinson', 'hutch..', got 'hutch'"),
    ],
)
def test_estimators_refuse_options_before_they_see_a_tensor(estimator, truth, options, error, message):
    with pytest.raises(error, match=message):
        estimator(multiplication, **options)


@every_estimator
def test_estimators_refuse_what_is_no_operation(estimator, truth):
    with pytest.raises(TypeError, match="op must be a function, got Tensor"):
        estimator(MATRIX)


@every_estimator
def test_plain_function_of_the_signature_is_an_operation(estimator, truth):
    plain = estimator(lambda *arguments: multiplication(*arguments), samples=5)(*at_matrix(MATRIX))
    assert_close(tuple(plain), tuple(estimator(multiplication, samples=5)(*at_matrix(MATRIX))))


@compiles
@both_methods
def test_compiled_is_eager(method):
    torch._dynamo.reset()
    point = point_of_log_cosh()
    estimate = pb.trace(pb.hessian(log_cosh), samples=4, method=method)
    compiled = torch.compile(estimate, fullgraph=True, backend="aot_eager")
    assert_close(tuple(compiled(*point)), tuple(estimate(*point)))


def test_signs_are_fair_independent_and_begin_anywhere():
    like = torch.empty(0, dtype=torch.float64)
    table = signs(5, 400, 50, like)
    assert torch.equal(table.abs(), torch.ones_like(table))
    assert torch.equal(table[3:9], signs(5, 6, 50, like, start=3))
    covariance = table.T @ table / 400
    assert (covariance - torch.eye(50, dtype=torch.float64)).abs().max() < 5 / 400**0.5
    assert table.mean(0).abs().max() < 5 / 400**0.5
    assert (table * signs(6, 400, 50, like)).mean().abs() < 5 / (400 * 50) ** 0.5
