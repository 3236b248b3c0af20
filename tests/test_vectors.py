"""Trees to flat rows and back; what is no vector is refused with the way out."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

import pure_batchops as pb
from tests.strategies import flat, problem, problems, seeds, vectors


@given(p=problems(), count=st.sampled_from([None, 0, 1, 3]), seed=seeds)
def test_flatten_is_flat_in_the_order_of_params_and_unflatten_goes_back(p, count, seed):
    v = vectors(p.params, count, seed)
    backwards = {name: v[name] for name in reversed(v)}
    rows = pb.flatten(p.params, backwards)
    assert torch.equal(rows, flat(v, count))
    tree = pb.unflatten(p.params, rows)
    assert list(tree) == list(p.params)
    assert all(torch.equal(tree[name], v[name]) for name in v)
    assert torch.equal(pb.flatten(p.params, rows), rows)


def test_eigenvectors_become_trees_that_the_operation_multiplies():
    p = problem("perceptron")
    op = pb.gauss_newton(p.loss)
    values, rows, _ = pb.eigenpairs(op, 2)(p.params, p.buffers, p.batch)
    products = op(p.params, p.buffers, p.batch, pb.unflatten(p.params, rows))
    assert_close(pb.flatten(p.params, products), values[:, None] * rows)


def test_several_dtypes_are_promoted_and_go_back_to_their_own():
    params = {"a": torch.zeros(2), "b": torch.zeros((), dtype=torch.float64), "c": torch.zeros(1, dtype=torch.bfloat16)}
    v = {"a": torch.ones(3, 2), "b": torch.ones(3, dtype=torch.float64), "c": torch.ones(3, 1, dtype=torch.bfloat16)}
    rows = pb.flatten(params, v)
    assert rows.dtype == torch.float64
    assert rows.shape == (3, 4)
    tree = pb.unflatten(params, rows)
    assert [leaf.dtype for leaf in tree.values()] == [leaf.dtype for leaf in params.values()]
    assert all(torch.equal(tree[name], v[name]) for name in v)


def test_both_can_be_differentiated_mapped_and_take_any_tree():
    params = [torch.zeros(2), (torch.zeros(1, 3),)]
    rows = torch.randn(4, 5, dtype=torch.float32)
    together = torch.vmap(lambda row: pb.unflatten(params, row))(rows)
    assert_close(together, pb.unflatten(params, rows))
    assert_close(torch.vmap(lambda v: pb.flatten(params, v))(together), rows)
    slope = torch.func.grad(lambda row: pb.flatten(params, pb.unflatten(params, row)).square().sum())(rows[0])
    assert_close(slope, 2 * rows[0])
    assert_close(pb.flatten(torch.zeros(2, 2), torch.ones(3, 2, 2)), torch.ones(3, 4))


@pytest.mark.parametrize(
    ("rows", "error", "message"),
    [
        (torch.ones(4), ValueError, r"rows must have the shape \(5,\) or \(K, 5\), as params hold 5 numbers, got \(4,\)"),
        (torch.ones(1, 1, 5), ValueError, "rows must have the shape"),
        (torch.ones(5, dtype=torch.int64), TypeError, "rows must be a floating-point tensor, got torch.int64"),
        ([1.0], TypeError, "rows must be a floating-point tensor, got list"),
    ],
)
def test_rows_that_fit_no_params_are_refused(rows, error, message):
    with pytest.raises(error, match=message):
        pb.unflatten({"a": torch.zeros(2), "b": torch.zeros(3)}, rows)


@pytest.mark.parametrize("kind", [list, tuple])
def test_gradients_as_autograd_returns_them_are_refused_with_the_way_out(kind):
    p = problem("perceptron")
    v = kind(vectors(p.params, None, 0).values())
    op = pb.hessian(p.loss)
    for call in (
        lambda: op(p.params, p.buffers, p.batch, v),
        lambda: op.at(p.params, p.buffers, p.batch)(v),
        lambda: pb.conjugate_gradient(op, 1.0)(p.params, p.buffers, p.batch, v),
        lambda: pb.flatten(p.params, v),
    ):
        with pytest.raises(TypeError, match=rf"got a {kind.__name__} of 4; .* use dict\(zip\(params, v\)\)"):
            call()
    assert_close(pb.flatten(p.params, dict(zip(p.params, v, strict=True))), flat(dict(enumerate(v))))


@pytest.mark.parametrize(
    "made",
    [
        lambda op: op,
        lambda op: pb.damped(op, 1.0),
        lambda op: pb.direct(op, 1.0),
        lambda op: pb.batch_operation(lambda *point: op.at(*point)),
    ],
    ids=["op", "damped", "direct", "own"],
)
def test_buffers_that_are_left_out_are_named(made):
    params, x = {"w": torch.ones(2)}, torch.ones(3, 2)
    op = made(pb.hessian(lambda params, buffers, x: (x @ params["w"]).square()))
    with pytest.raises(TypeError, match=r"takes \(params, buffers, batch, v\), got three arguments; buffers left out\?"):
        op(params, x, params)


def test_block_diagonal_without_buffers_names_the_arguments():
    op = pb.block_diagonal(pb.hessian(lambda params, buffers, x: (x @ params["w"]).square()), ["w"])
    with pytest.raises(TypeError, match=r"buffers must be a dict .*got Tensor; .*takes \(params, buffers, batch, v\)"):
        op({"w": torch.ones(2)}, torch.ones(3, 2), {"w": torch.ones(2)})
