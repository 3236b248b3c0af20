"""Every law × every inverse: one row each."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

import pure_batchops as pb
from tests.marks import compiles
from tests.matrices import log_cosh, point_of_log_cosh
from tests.strategies import Problem, flat, problem, problems, seeds, vectors
from tests.tables import INVERSES, ROWS, Inverse, Row, each, every_inverse

few = settings(max_examples=max(2, settings().max_examples // 4))
EXACT = {name: row for name, row in ROWS.items() if not row.tolerance and not row.again}
PAIRS = {
    f"{way}-{name}": (inverse, row)
    for way, inverse in INVERSES.items()
    for name, row in EXACT.items()
    if row.definite or not inverse.definite
}


def sizes(matrix: torch.Tensor) -> tuple[float, float]:
    """λ that makes the matrix well conditioned, and the largest size of an eigenvalue."""
    most = float(torch.linalg.matrix_norm(matrix, 2).clamp(min=0.1))
    return 5 * most, most


def damped_dense(matrix: torch.Tensor, damping: Any) -> torch.Tensor:
    return matrix + damping * torch.eye(len(matrix), dtype=matrix.dtype)


@pytest.mark.parametrize(("inverse", "row"), PAIRS.values(), ids=PAIRS)
@given(p=problems(), count=st.sampled_from([None, 0, 1, 3]), seed=seeds)
@few
def test_inverse_is_the_dense_one_in_every_form_of_v(
    inverse: Inverse, row: Row, p: Problem, count: int | None, seed: int
) -> None:
    matrix, v = row.twin(p), vectors(p.params, count, seed)
    damping, most = sizes(matrix)
    op = inverse.inverse(row.operation(p), damping, most, p.numbers)
    expected = flat(v, count) @ torch.linalg.inv(damped_dense(matrix, damping))
    assert_close(op(p.params, p.buffers, p.batch, flat(v, count)), expected)
    solve = op.at(p.params, p.buffers, p.batch)
    backwards = {name: v[name] for name in reversed(v)}
    solution = solve(backwards)
    assert list(solution) == list(p.params)
    assert_close(flat(solution, count), expected)


def members(p: Problem, number: int) -> list[Any]:
    offsets = [vectors(p.params, None, seed) for seed in range(number)]
    return [({k: leaf + 0.1 * o[k] for k, leaf in p.params.items()}, p.buffers) for o in offsets]


@every_inverse
@pytest.mark.parametrize("name", ["gauss_newton", "inverse_harmonic_mean", "generalized_gauss_newton"])
@given(p=problems(), seed=seeds)
@few
def test_vmap_over_an_ensemble_is_the_loop_over_it(inverse: Inverse, name: str, p: Problem, seed: int) -> None:
    op = inverse.inverse(ROWS[name].operation(p), *sizes(ROWS[name].twin(p)), p.numbers)
    v, states = flat(vectors(p.params, 2, seed), 2), members(p, 3)
    together = torch.vmap(op, (0, 0, None, None))(*pb.stack_states(states), p.batch, v)
    assert_close(together, torch.stack([op(*state, p.batch, v) for state in states]))


@every_inverse
def test_regularization_may_be_vmapped_and_differentiated(inverse: Inverse) -> None:
    p = problem("perceptron")
    matrix = ROWS["gauss_newton"].twin(p)
    v, w = (flat(vectors(p.params, None, seed)) for seed in (1, 2))
    _, most = sizes(matrix)

    def solved(damping: Any) -> torch.Tensor:
        return inverse.inverse(pb.gauss_newton(p.loss), damping, most, p.numbers)(p.params, p.buffers, p.batch, v)

    dampings = torch.tensor([5.0, 9.0], dtype=torch.float64) * most
    dense = [torch.linalg.inv(damped_dense(matrix, damping)) for damping in dampings]
    assert_close(torch.vmap(solved)(dampings), torch.stack([inv @ v for inv in dense]))
    slope = torch.func.grad(lambda damping: solved(damping) @ w)(dampings[0])
    assert_close(slope, -w @ dense[0] @ dense[0] @ v, rtol=1e-6, atol=1e-8)


@each({name: inverse for name, inverse in INVERSES.items() if inverse.averages}, "inverse")
@given(p=problems(["perceptron", "tied", "sequence"]), seed=seeds, n=st.integers(2, 5))
@few
def test_inverse_of_an_average_over_a_split_is_that_of_the_whole(inverse: Inverse, p: Problem, seed: int, n: int) -> None:
    p = problem(p.kind, n, seed)
    parts = list(zip(*(part.split([1, n - 1]) for part in p.batch), strict=True))
    matrix, v = ROWS["gauss_newton"].twin(p), flat(vectors(p.params, 2, seed))[: 2 * p.numbers].reshape(2, -1)
    damping, most = sizes(matrix)
    op = inverse.inverse(pb.averaged(pb.gauss_newton(p.loss)), damping, most, p.numbers)
    assert_close(op(p.params, p.buffers, parts, v), torch.linalg.solve(damped_dense(matrix, damping), v.T).T)


def test_lissa_of_an_average_takes_one_batch_after_the_other_by_its_weight():
    p = problem("perceptron", 5)
    parts = list(zip(*(part.split([1, 4]) for part in p.batch), strict=True))
    v, damping, scale, depth = flat(vectors(p.params, None, 0)), 0.5, 4.0, 7
    op = pb.gauss_newton(p.loss)
    matrices = [2 * share * pb.dense(op)(p.params, p.buffers, part) for share, part in zip((0.2, 0.8), parts, strict=True)]
    h = v
    for step in range(depth):
        h = v + (1 - damping / scale) * h - matrices[step % 2] @ h / scale
    for repeats in (1, 3):
        inverse = pb.lissa(pb.averaged(op), damping, scale=scale, depth=depth, repeats=repeats)
        assert_close(inverse(p.params, p.buffers, parts, v), h / scale)


def test_lissa_with_a_larger_scale_comes_nearer_the_inverse_of_the_average():
    p = problem("perceptron", 8)
    parts = list(zip(*(part.split([1, 3, 4]) for part in p.batch), strict=True))
    v, mean_op = flat(vectors(p.params, None, 0)), pb.averaged(pb.gauss_newton(p.loss))
    right = pb.direct(mean_op, 0.5)(p.params, p.buffers, parts, v)
    inverses = [pb.lissa(mean_op, 0.5, scale=scale, depth=int(12 * scale)) for scale in (5.0, 30.0)]
    near, nearer = ((op(p.params, p.buffers, parts, v) - right).norm() for op in inverses)
    assert nearer < 0.4 * near < 0.4 * right.norm()


TRACED = {
    "conjugate_gradient": lambda op, damping, most, size: pb.conjugate_gradient(op, damping, tolerance=1e-2, max_steps=2),
    "lissa": lambda op, damping, most, size: pb.lissa(op, damping, scale=damping + most, depth=2),
    "nystroem": lambda op, damping, most, size: pb.nystroem(op, damping, rank=3),
    "direct": lambda op, damping, most, size: pb.direct(op, damping),
}


@compiles
@pytest.mark.parametrize("name", TRACED)
@pytest.mark.parametrize("count", [None, 2])
def test_compiled_is_eager(name: str, count: int | None) -> None:
    op = TRACED[name](pb.hessian(log_cosh), 50.0, 2.0, 6)  # the compiler unrolls the steps, so that they must be few and small
    point = point_of_log_cosh()
    v = torch.randn(6 if count is None else (count, 6), dtype=torch.float64)
    torch._dynamo.reset()
    assert_close(torch.compile(op, fullgraph=True, backend="aot_eager")(*point, v), op(*point, v))


def test_each_right_hand_side_stops_by_itself():
    p = problem("perceptron", 4)
    solve = pb.conjugate_gradient_solution(pb.gauss_newton(p.loss), 0.01, tolerance=1e-8)
    v = flat(vectors(p.params, 3, 0), 3)
    v[1] = 0
    v[2] = pb.gauss_newton(p.loss)(p.params, p.buffers, (p.batch[0][:1], p.batch[1][:1]), v[0])  # a gradient
    found = solve(p.params, p.buffers, p.batch, v)
    alone = [solve(p.params, p.buffers, p.batch, row) for row in v]
    assert found.steps.tolist() == [int(one.steps) for one in alone]
    assert found.steps[1] == 0
    assert 0 < found.steps[2] <= found.steps[0]
    assert_close(found.solution, torch.stack([one.solution for one in alone]), rtol=1e-6, atol=1e-8)
    assert alone[0].converged.shape == ()


@given(p=problems(), seed=seeds)
@few
def test_residual_norms_are_those_of_what_is_returned(p: Problem, seed: int) -> None:
    v, matrix = flat(vectors(p.params, 2, seed), 2), ROWS["gauss_newton"].twin(p)
    damping, _ = sizes(matrix)
    found = pb.conjugate_gradient_solution(pb.gauss_newton(p.loss), damping, tolerance=1e-3, max_steps=2)(
        p.params, p.buffers, p.batch, v
    )
    residuals = v - found.solution @ damped_dense(matrix, damping)
    assert_close(found.residual_norms, residuals.norm(dim=1))
    assert found.converged.tolist() == (residuals.norm(dim=1) <= 1e-3 * v.norm(dim=1)).tolist()


def ill_conditioned() -> Any:
    """A quadratic loss with eigenvalues from 10⁴ down to 10⁻⁴, the largest of which are few."""
    scales = torch.cat([torch.logspace(4, 1, 12), torch.logspace(-2, -4, 88)]).double()
    rotation = torch.linalg.qr(torch.randn(100, 100, dtype=torch.float64))[0]
    op = pb.hessian(lambda params, buffers, batch: ((rotation @ params).square() * scales).sum()[None] / 2)
    return op, (torch.zeros(100, dtype=torch.float64), {}, None), torch.randn(100, dtype=torch.float64)


def test_preconditioned_solve_takes_five_times_fewer_steps():
    op, point, v = ill_conditioned()
    preconditioner = pb.nystroem(op, 1e-2, rank=20)
    plain = pb.conjugate_gradient_solution(op, 1e-2, max_steps=1000)(*point, v)
    helped = pb.conjugate_gradient_solution(op, 1e-2, max_steps=1000, preconditioner=preconditioner)(*point, v)
    assert plain.converged
    assert helped.converged
    assert 5 * helped.steps <= plain.steps


def test_nystroem_keeps_the_largest_eigenvalues():
    op, point, v = ill_conditioned()
    right, near = pb.direct(op, 1.0)(*point, v), pb.nystroem(op, 1.0, rank=30)(*point, v)
    assert (near - right).norm() < 0.01 * right.norm()


def test_nystroem_is_a_function_of_its_seed():
    p = problem("perceptron")
    v = flat(vectors(p.params, None, 0))
    first, again, other = (
        pb.nystroem(pb.gauss_newton(p.loss), 1.0, rank=1, seed=seed)(p.params, p.buffers, p.batch, v) for seed in (0, 0, 1)
    )
    assert_close(first, again, rtol=0, atol=0)
    assert not torch.allclose(first, other)


BELOW_SINGLE = [torch.float32, torch.bfloat16]


@every_inverse
@pytest.mark.parametrize("dtype", BELOW_SINGLE)
def test_lower_precision_is_near_and_keeps_its_dtype(inverse: Inverse, dtype: torch.dtype) -> None:
    p = problem("perceptron")
    exact, v = ROWS["gauss_newton"].twin(p), flat(vectors(p.params, None, 0))
    damping, most = sizes(exact)
    tolerance = 10 * torch.finfo(dtype).eps

    def loss(params: Any, buffers: Any, batch: Any) -> torch.Tensor:
        return p.loss({k: leaf.double() for k, leaf in params.items()}, buffers, batch).to(dtype)

    op = pb.gauss_newton(loss)
    found = inverse.inverse(op, damping, most, p.numbers, tolerance)
    params = {k: leaf.to(dtype) for k, leaf in p.params.items()}
    near = found(params, p.buffers, p.batch, v.to(dtype))
    right = torch.linalg.solve(damped_dense(exact, damping), v)
    assert near.dtype == dtype
    assert (near.double() - right).norm() < 4 * tolerance * right.norm()


def test_rank_above_that_of_the_matrix_is_exact_in_single_precision():
    p = problem("perceptron", 2)
    params, batch = {k: leaf.float() for k, leaf in p.params.items()}, (p.batch[0].float(), p.batch[1])
    op, v = pb.gauss_newton(p.loss), flat(vectors(params, None, 0))
    for seed in range(5):
        near = pb.nystroem(op, 1e-3, rank=20, seed=seed)(params, {}, batch, v)
        right = pb.direct(op, 1e-3)(params, {}, batch, v)
        assert (near - right).norm() < 2e-3 * right.norm()


@every_inverse
def test_zero_has_the_answer_zero_and_nothing_passed_in_is_changed(inverse: Inverse) -> None:
    p = problem("perceptron")
    op = inverse.inverse(pb.gauss_newton(p.loss), 1.0, 5.0, p.numbers)
    v = torch.zeros(2, p.numbers, dtype=torch.float64)
    before = {k: leaf.clone() for k, leaf in p.params.items()}
    product = op(p.params, p.buffers, p.batch, v)
    assert_close(product, v, rtol=0, atol=0)
    product += 1
    assert not v.any()
    assert all(torch.equal(before[k], leaf) for k, leaf in p.params.items())


@every_inverse
@pytest.mark.parametrize("number", [torch.nan, torch.inf])
def test_right_hand_side_that_is_not_finite_is_refused(inverse: Inverse, number: float) -> None:
    p = problem("perceptron")
    op = inverse.inverse(pb.gauss_newton(p.loss), 1.0, 5.0, p.numbers)
    v = torch.ones(3, p.numbers, dtype=torch.float64)
    v[1, 2] = number
    with pytest.raises(ValueError, match="v must be finite, got 1 of 3 right-hand sides"):
        op(p.params, p.buffers, p.batch, v)
    with pytest.raises(ValueError, match="v must be finite"):
        pb.conjugate_gradient_solution(pb.gauss_newton(p.loss), 1.0)(p.params, p.buffers, p.batch, v)


def saddle(params: Any, buffers: Any, batch: Any) -> torch.Tensor:
    return (params[..., 0] ** 2 - params[..., 1] ** 2)[None] / 2


POINT = (torch.zeros(2), {}, None)


def test_negative_curvature_is_reported():
    v = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    found = pb.conjugate_gradient_solution(pb.hessian(saddle), 0.5)(*POINT, v)
    assert found.negative_curvature.tolist() == [False, True]
    assert found.converged.tolist() == [True, False]
    with pytest.raises(RuntimeError, match="must be positive definite .* negative curvature for 1 of 2"):
        pb.conjugate_gradient(pb.hessian(saddle), 0.5)(*POINT, v)
    several = torch.vmap(lambda damping: pb.conjugate_gradient(pb.hessian(saddle), damping)(*POINT, v))
    right = torch.tensor([[[2 / 3, 0], [torch.nan, torch.nan]], [[1 / 3, 0], [1 / 3, 1]]])
    assert_close(several(torch.tensor([0.5, 2.0])), right, equal_nan=True)


def test_tolerance_not_reached_is_reported():
    op, point, v = ill_conditioned()
    with pytest.raises(RuntimeError, match="must reach residuals of 1e-05 .* for 1 of 1 .* in 3 of at most 3 steps"):
        pb.conjugate_gradient(op, 1e-2, max_steps=3)(*point, v)
    found = pb.conjugate_gradient_solution(op, 1e-2, max_steps=3)(*point, v)
    assert not found.converged
    assert found.steps == 3
    short = torch.vmap(pb.conjugate_gradient(op, 1e-2, max_steps=3), (None, None, None, 0))
    assert short(*point, torch.stack([v, v])).isnan().all()


def test_divergence_is_reported():
    op, point, v = ill_conditioned()
    with pytest.raises(RuntimeError, match="must not diverge, but it does with scale = 1 .* raise scale"):
        pb.lissa(op, 1e-2, scale=1.0, depth=100)(*point, v)
    with pytest.raises(RuntimeError, match="raise scale .* or regularization"):
        pb.lissa(pb.hessian(saddle), 0.5, scale=4.0, depth=200)(*POINT, torch.ones(2))
    assert torch.vmap(pb.lissa(op, 1e-2, scale=1.0, depth=20), (None, None, None, 0))(*point, v[None]).isnan().all()


def test_matrix_without_an_inverse_is_reported():
    p = problem("perceptron", 1)
    v = flat(vectors(p.params, None, 0))
    with pytest.raises(RuntimeError, match="must be invertible, got a matrix that is singular .* 1 of 1 right-hand"):
        pb.direct(pb.gauss_newton(p.loss), 0.0)(p.params, p.buffers, p.batch, v)
    with pytest.raises(RuntimeError, match="must be positive semi-definite for nystroem, got .* the eigenvalue -1"):
        pb.nystroem(pb.hessian(saddle), 0.5, rank=2)(*POINT, torch.ones(2))
    several = torch.vmap(pb.nystroem(pb.hessian(saddle), 0.5, rank=2), (0, None, None, None))
    assert several(torch.zeros(3, 2), {}, None, torch.ones(2)).isnan().all()


def test_zero_regularization_inverts_a_definite_matrix():
    op, point, v = ill_conditioned()
    definite = pb.damped(op, 1.0)
    for inverse in (pb.direct(definite, 0.0), pb.conjugate_gradient(definite, 0.0, tolerance=1e-10, max_steps=1000)):
        assert_close(definite(*point, inverse(*point, v)), v, rtol=1e-6, atol=1e-6)


FACTORIES = {
    "conjugate_gradient": pb.conjugate_gradient,
    "conjugate_gradient_solution": pb.conjugate_gradient_solution,
    "lissa": pb.lissa,
    "nystroem": lambda op, damping, rank=2, **options: pb.nystroem(op, damping, rank=rank, **options),
    "direct": pb.direct,
}


@pytest.mark.parametrize("factory", FACTORIES.values(), ids=FACTORIES)
@pytest.mark.parametrize(
    ("damping", "error"), [(-1.0, ValueError), (torch.nan, ValueError), (torch.inf, ValueError), ("1", TypeError)]
)
def test_bad_regularization_is_refused(factory: Any, damping: Any, error: Any) -> None:
    with pytest.raises(error, match="regularization must be"):
        factory(pb.hessian(saddle), damping)
    with pytest.raises(TypeError, match="op must be a function"):
        factory(None, 1.0)


@pytest.mark.parametrize(
    ("name", "options", "error", "match"),
    [
        ("conjugate_gradient", {"tolerance": 0}, ValueError, "tolerance must be positive"),
        ("conjugate_gradient", {"tolerance": 1.0}, ValueError, "tolerance must be less than 1"),
        ("conjugate_gradient", {"max_steps": 0}, ValueError, "max_steps must be at least 1"),
        ("conjugate_gradient", {"max_steps": 1.5}, TypeError, "max_steps must be a whole number"),
        ("conjugate_gradient", {"preconditioner": 3}, TypeError, "preconditioner must be a function"),
        ("lissa", {"depth": 0}, ValueError, "depth must be at least 1"),
        ("lissa", {"repeats": 0}, ValueError, "repeats must be at least 1"),
        ("lissa", {"scale": 0.0}, ValueError, "scale must be positive"),
        ("nystroem", {"rank": 0}, ValueError, "rank must be at least 1"),
        ("nystroem", {"seed": -1}, ValueError, "seed must be at least 0"),
    ],
)
def test_bad_option_is_refused(name: str, options: Any, error: Any, match: str) -> None:
    with pytest.raises(error, match=match):
        FACTORIES[name](pb.hessian(saddle), 1.0, **options)


def test_result_of_a_transform_is_refused_by_the_factory():
    mapped = torch.vmap(pb.hessian(saddle), in_dims=(0, None, None, None))
    inside = "must not be the result of a transform of torch.func"
    for make in (pb.damped, pb.direct, *FACTORIES.values()):
        with pytest.raises(TypeError, match=inside):
            make(mapped, 1.0)
    for estimate in (pb.trace, pb.diagonal, pb.frobenius_norm):
        with pytest.raises(TypeError, match=inside):
            estimate(mapped, samples=3)


@every_inverse
def test_plain_function_of_the_signature_is_an_operation(inverse: Inverse) -> None:
    p = problem("perceptron")
    op, matrix = pb.gauss_newton(p.loss), ROWS["gauss_newton"].twin(p)
    v, (damping, most) = flat(vectors(p.params, 2, 0), 2), sizes(matrix)
    plain = inverse.inverse(lambda params, buffers, batch, v: op(params, buffers, batch, v), damping, most, p.numbers)
    assert_close(plain(p.params, p.buffers, p.batch, v), v @ torch.linalg.inv(damped_dense(matrix, damping)))


def test_what_cannot_be_solved_for_is_refused():
    with pytest.raises(ValueError, match="regularization must be positive"):
        pb.nystroem(pb.hessian(saddle), 0.0, rank=1)
    with pytest.raises(ValueError, match="rank must be at most the number of parameters, 2, got 3"):
        pb.nystroem(pb.hessian(saddle), 1.0, rank=3)(*POINT, torch.ones(2))
    with pytest.raises(ValueError, match="iterable again"):
        pb.lissa(pb.averaged(pb.hessian(saddle)), 1.0)(POINT[0], {}, iter([None]), torch.ones(2))
    with pytest.raises(ValueError, match="there is nothing to average: the stream is empty"):
        pb.lissa(pb.averaged(pb.hessian(saddle)), 1.0)(POINT[0], {}, [], torch.ones(2))
    mixed = {"a": torch.zeros(1), "b": torch.zeros(1, dtype=torch.float64)}
    op = pb.hessian(lambda params, buffers, batch: params["a"] ** 2 + params["b"] ** 2)
    with pytest.raises(ValueError, match="one dtype and device for an inverse, got torch.float32 on cpu, torch.float64"):
        pb.direct(op, 1.0)(mixed, {}, None, mixed)


def test_nystroem_of_the_zero_matrix_and_of_one_member_that_is_indefinite():
    flat_loss = pb.hessian(lambda params, buffers, x: (params * x).sum(1))
    v = torch.tensor([2.0, -4.0])
    assert_close(pb.nystroem(flat_loss, 0.5, rank=1)(torch.zeros(2), {}, torch.ones(3, 2), v), 2 * v)
    curved = pb.hessian(lambda params, buffers, x: buffers["sign"] * (params * x).square().sum(1) / 2)
    inverse = torch.vmap(pb.nystroem(curved, 1.0, rank=2), in_dims=(None, 0, None, None))
    right, wrong = inverse(torch.zeros(2), {"sign": torch.tensor([1.0, -1.0])}, torch.ones(1, 2), v)
    assert_close(right, v / 2)
    assert wrong.isnan().all()
