"""Where the matrix is known with pencil and paper, and what torch.func is known to get wrong."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F  # noqa: N812
from torch.testing import assert_close

import pure_batchops as pb
from tests.strategies import flat, problem, seeds, vectors
from tests.tables import LAMBDA, Row, each, every_row

sizes = st.integers(1, 5)


def line(params, buffers, x):
    return x @ params


def drawn(seed, *shapes):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]


@given(n=sizes, d=sizes, seed=seeds)
def test_least_squares(n, d, seed):
    x, y, w = drawn(seed, (n, d), (n,), (d,))
    loss, batch = pb.sample_losses(line, nn.MSELoss()), (x, y)
    second_moment = 2 * x.T @ x / n
    gradients = 2 * (x @ w - y)[:, None] * x
    for mode in ("reverse_over_reverse", "forward_over_reverse", "reverse_over_forward"):
        assert_close(pb.dense(pb.hessian(loss, mode=mode))(w, {}, batch), second_moment)
    assert_close(pb.dense(pb.generalized_gauss_newton(line, nn.MSELoss()))(w, {}, batch), second_moment)
    assert_close(pb.dense(pb.gauss_newton(loss))(w, {}, batch), gradients.T @ gradients / n)
    inverses = torch.linalg.inv(gradients[:, :, None] * gradients[:, None, :] + LAMBDA * torch.eye(d, dtype=torch.float64))
    assert_close(pb.dense(pb.inverse_harmonic_mean(loss, LAMBDA))(w, {}, batch), inverses.mean(0))


@given(n=sizes, d=sizes, seed=seeds)
def test_logistic_regression(n, d, seed):
    x, w = drawn(seed, (n, d), (d,))
    y = (x.sum(1) > 0).double()
    p = (x @ w).sigmoid()
    fisher = (x.T * (p * (1 - p))) @ x / n
    loss, batch = pb.sample_losses(line, nn.BCEWithLogitsLoss()), (x, y)
    assert_close(pb.dense(pb.hessian(loss))(w, {}, batch), fisher)
    assert_close(pb.dense(pb.generalized_gauss_newton(line, nn.BCEWithLogitsLoss()))(w, {}, batch), fisher)


@given(seed=seeds)
def test_one_sample_makes_the_harmonic_mean_the_inverse(seed):
    p = problem("perceptron", 1, seed)
    v = flat(vectors(p.params, None, seed))
    damped = pb.damped(pb.gauss_newton(p.loss), LAMBDA)
    solution = pb.inverse_harmonic_mean(p.loss, LAMBDA)(p.params, p.buffers, p.batch, v)
    assert_close(damped(p.params, p.buffers, p.batch, solution), v)


@given(seed=seeds, values=st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=3))
def test_regularization_may_be_a_tensor_and_is_vmapped_and_differentiated(seed, values):
    p = problem("perceptron", 2, seed)
    v = flat(vectors(p.params, None, seed))

    def inverse(damping):
        return pb.inverse_harmonic_mean(p.loss, damping)(p.params, p.buffers, p.batch, v)

    def shifted(damping):
        return pb.damped(pb.gauss_newton(p.loss), damping)(p.params, p.buffers, p.batch, v)

    dampings = torch.tensor(values, dtype=torch.float64)
    for operation in (inverse, shifted):
        assert_close(torch.vmap(operation)(dampings), torch.stack([operation(value) for value in values]))
        assert operation(torch.tensor(0.5)).dtype == torch.float64  # a float32 λ does not narrow the product
    slope = torch.func.grad(lambda damping: shifted(damping) @ v)(dampings[0])
    assert_close(slope, v @ v)


@every_row
def test_unused_parameters_meet_no_other_and_have_the_diagonal_of_no_data(row: Row):
    p = problem("twice", 2)
    unused = torch.cat([torch.full((leaf.numel(),), "unused" in name) for name, leaf in p.params.items()])
    assert unused.any()
    matrix = pb.dense(row.operation(p))(p.params, p.buffers, p.batch)
    alone = matrix[unused][:, unused]
    assert_close(alone, row.unused * torch.eye(len(alone), dtype=torch.float64))
    assert_close(matrix[unused][:, ~unused], torch.zeros_like(matrix[unused][:, ~unused]))


def test_finite_differences_keep_their_digits_for_any_length_of_v():
    p = problem("perceptron", 3)
    v = flat(vectors(p.params, None, 1))
    exact = pb.hessian(p.loss)(p.params, p.buffers, p.batch, v)
    op = pb.hessian(p.loss, mode="finite_difference")
    for size in (1e-12, 1e-3, 1, 1e3, 1e12):
        product = op(p.params, p.buffers, p.batch, size * v)
        assert (product / size - exact).norm() < 1e-6 * exact.norm()
    assert_close(op(p.params, p.buffers, p.batch, 0 * v), torch.zeros_like(v))


class Attends(nn.Module):
    """Attention by torch's function, which picks a fused kernel."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        q = self.layer(x)[:, None]
        return F.scaled_dot_product_attention(q, q, q).flatten(1)


def test_fused_attention_of_a_module_and_of_a_function_just_works():
    model = Attends()
    params, buffers = pb.functional_state(model)
    x = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    batch, v = (x, torch.zeros(2, 12)), torch.ones(20)
    product = pb.hessian(pb.sample_losses(model, nn.MSELoss()))(params, buffers, batch, v)

    def forward(params, buffers, inputs):
        return torch.func.functional_call(model, (params, buffers), inputs)

    op = pb.hessian(pb.sample_losses(forward, nn.MSELoss()))
    assert_close(op(params, buffers, batch, v), product)
    assert_close(op.at(params, buffers, batch)(v), product)


def test_other_errors_of_torch_pass_unchanged():
    op = pb.hessian(lambda params, buffers, x: x @ params)
    with pytest.raises(RuntimeError, match="size mismatch") as caught:
        op(torch.ones(2), {}, torch.ones(3, 3), torch.ones(2))
    assert "attention" not in str(caught.value)


NORMS = {
    "layer": lambda: nn.LayerNorm(4),
    "instance": lambda: nn.Sequential(nn.Unflatten(1, (1, 4)), nn.InstanceNorm1d(1), nn.Flatten()),
}


@each(NORMS, "norm")
def test_third_derivatives_through_norms_are_right_where_torchs_are_not(norm):
    model = nn.Sequential(nn.Linear(2, 4), norm(), nn.Linear(4, 1)).double()
    params, buffers = pb.functional_state(model)
    x, y, w = drawn(0, (3, 2), (3, 1), (sum(leaf.numel() for leaf in params.values()),))
    op = pb.hessian(pb.sample_losses(model, nn.MSELoss()))

    def number(params):
        return op(params, buffers, (x, y), w) @ w

    direction = vectors(params, None, 2)

    def along(step):
        return number({name: leaf + step * direction[name] for name, leaf in params.items()})

    finite = (8 * (along(1e-3) - along(-1e-3)) - (along(2e-3) - along(-2e-3))) / 12e-3
    slope = flat(torch.func.grad(number)(params)) @ flat(direction)
    assert_close(slope, finite, rtol=1e-6, atol=1e-6)  # the rounding of finite differences


def test_output_whose_pullback_is_not_linear_at_zero_in_torch_has_its_curvature():
    x, w = drawn(0, (5, 3), (4, 3))
    outputs = lambda w, buffers, x: (x @ w.T).logcumsumexp(1)  # noqa: E731
    jacobian = torch.autograd.functional.jacobian(lambda w: outputs(w, None, x), w).reshape(20, 12)
    op = pb.generalized_gauss_newton(outputs, nn.MSELoss(reduction="sum"))
    assert_close(pb.dense(op)(w, {}, (x, torch.zeros(5, 4).double())), 2 * jacobian.T @ jacobian / 5)
    loss = lambda w, buffers, x: outputs(w, buffers, x).sum(1)  # noqa: E731
    gradients = jacobian.reshape(5, 4, 12).sum(1)
    assert_close(pb.dense(pb.gauss_newton(loss, held=0))(w, {}, x), gradients.T @ gradients / 5)
