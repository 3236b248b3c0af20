"""The forms of v: what is taken, and what every operation refuses before anything is computed."""

from collections import OrderedDict, namedtuple

import pytest
import torch
from torch.testing import assert_close

import pure_batchops as pb
from tests.strategies import flat, problem, vectors
from tests.tables import every_row

P = problem("perceptron", 3)
V = vectors(P.params, None, 0)
D = P.numbers
FLAT = torch.ones(D, dtype=torch.float64)


def replaced(name, leaf):
    return {**V, name: leaf}


def stacked(counts):
    return {name: leaf.expand(k, *leaf.shape) for (name, leaf), k in zip(V.items(), counts, strict=True)}


BAD = {
    "too short": (FLAT[1:], ValueError, rf"a flat v must have the shape \({D},\) or \(K, {D}\).*got \({D - 1},\)"),
    "too long": (torch.ones(D + 1).double(), ValueError, rf"hold {D} numbers, got \({D + 1},\)"),
    "rows too short": (torch.ones(2, D - 1).double(), ValueError, rf"got \(2, {D - 1}\)"),
    "columns": (torch.ones(D, 2).double(), ValueError, rf"got \({D}, 2\)"),
    "three-dimensional": (torch.ones(2, 2, D).double(), ValueError, rf"got \(2, 2, {D}\)"),
    "zero-dimensional": (torch.ones(()).double(), ValueError, r"got \(\)"),
    "integer": (torch.ones(D, dtype=torch.int64), TypeError, "dtype torch.float64 of params, got torch.int64"),
    "other dtype": (torch.ones(D), TypeError, "dtype torch.float64 of params, got torch.float32"),
    "other device": (torch.ones(D, device="meta").double(), ValueError, "device cpu of params, got meta"),
    "missing": ({k: V[k] for k in list(V)[1:]}, ValueError, "v must have the leaves .*; missing '0.weight'"),
    "extra": (replaced("more", FLAT), ValueError, "v must have the leaves .*; not expected 'more'"),
    "misshapen": (replaced("0.bias", FLAT[:3]), ValueError, r"at '0.bias' the shape \(4,\) .*\('K', 4\).*got \(3,\)"),
    "transposed": (replaced("0.weight", V["0.weight"].T), ValueError, r"at '0.weight' the shape \(4, 3\) .*got \(3, 4\)"),
    "two axes more": (replaced("0.bias", FLAT[:4].reshape(1, 1, 4)), ValueError, r"got \(1, 1, 4\)"),
    "one leaf batched": (replaced("0.bias", FLAT[:8].reshape(2, 4)), ValueError, "same number of vectors K.*'0.bias' 2"),
    "different K": (stacked([2, 3, 2, 2]), ValueError, "same number of vectors K, got '0.weight' 2, '0.bias' 3"),
    "integer leaf": (replaced("0.bias", torch.ones(4, dtype=torch.int64)), TypeError, "at '0.bias', got torch.int64"),
    "leaf of other dtype": (replaced("0.bias", torch.ones(4)), TypeError, "torch.float64 of params at '0.bias', got"),
    "leaf on other device": (replaced("0.bias", torch.ones(4, device="meta").double()), ValueError, "at '0.bias', got meta"),
    "leaf that is none": (replaced("0.bias", None), TypeError, "got NoneType at '0.bias'"),
    "none": (None, TypeError, "v must be a tensor or a tree of tensors like params, got NoneType"),
    "number": (1.0, TypeError, "got float"),
    "list": (
        list(V.values()),
        TypeError,
        r"got a list of 4; .*as torch.autograd.grad returns it, use dict\(zip\(params, v\)\)",
    ),
    "list of numbers": ([1.0] * D, TypeError, f"v must be a tensor or a tree of tensors like params, got a list of {D}"),
}


def test_vectors_of_the_tests_have_one_number_for_each_parameter():
    assert flat(V).shape == (D,)
    assert flat(vectors(P.params, 3, 0), 3).shape == (3, D)


@every_row
@pytest.mark.parametrize(("v", "error", "message"), BAD.values(), ids=BAD)
def test_v_that_does_not_fit_is_refused_before_anything_is_computed(row, v, error, message):
    op = row.operation(P)
    no_batch = object()  # which would fail, were it looked at
    for op_ in (op, pb.averaged(op)):
        with pytest.raises(error, match=message):
            op_(P.params, P.buffers, [P.batch] if op_ is not op else P.batch, v)
    if row.chunks:
        with pytest.raises(error, match=message):
            op(P.params, P.buffers, no_batch, v)
    multiply = op.at(P.params, P.buffers, P.batch)
    with pytest.raises(error, match=message):
        multiply(v)


@pytest.mark.parametrize(
    ("params", "error", "message"),
    [
        ({}, ValueError, "params must hold at least one tensor, got none"),
        ({"a": torch.ones(2), "b": torch.ones(2, dtype=torch.int64)}, TypeError, "torch.int64 at 'b'; put it into buffers"),
        ({"a": torch.ones(2), "b": torch.ones(2, dtype=torch.complex64)}, TypeError, "real floating-point.*'b'"),
        ({"a": 1.0}, TypeError, "got float at 'a'"),
        (None, TypeError, "got NoneType"),
    ],
)
def test_params_that_cannot_be_differentiated_are_refused(params, error, message):
    op = pb.hessian(lambda params, buffers, x: x)
    with pytest.raises(error, match=message):
        op(params, {}, torch.ones(2), torch.ones(2))
    with pytest.raises(error, match=message):
        op.at(params, {}, torch.ones(2))


def test_flat_v_of_mixed_dtypes_is_refused_and_a_tree_is_taken():
    params = {"a": torch.ones(2), "b": torch.ones(2).double()}
    op = pb.hessian(lambda p, buffers, x: (p["a"] * p["b"] * x).sum(1))
    with pytest.raises(ValueError, match="one dtype and device for a flat v; give v as a tree"):
        op(params, {}, torch.ones(3, 2), torch.ones(4))
    product = op(params, {}, torch.ones(3, 2), {"b": torch.ones(2).double(), "a": torch.zeros(2)})
    assert_close(product, {"a": torch.ones(2), "b": torch.zeros(2).double()})


Point = namedtuple("Point", ["x", "y"])
X = torch.tensor([2.0, 3.0])
TREES = {
    "a tensor": X,
    "a 0-dim tensor": X[0],
    "a list": [X, X[:1]],
    "a tuple": (X, X[0]),
    "a named tuple": Point(X, {"z": X}),
    "nested": {"a": [X, {"b": (X[0],)}], 3: X},
    "an ordered dict": OrderedDict(b=X, a=X),
}


@pytest.mark.parametrize("params", TREES.values(), ids=TREES)
def test_params_may_be_any_tree(params):
    leaves = torch.utils._pytree.tree_flatten

    def loss(p, buffers, x):
        return x**2 * sum((leaf**2).sum() for leaf in leaves(p)[0])

    numbers = sum(leaf.numel() for leaf in leaves(params)[0])
    op, batch = pb.hessian(loss), torch.tensor([1.0, 3.0])
    matrix = pb.dense(op)(params, {}, batch)
    assert_close(matrix, 10 * torch.eye(numbers))  # 2 · mean x²
    assert_close(op(params, {}, batch, torch.ones(numbers)), torch.full((numbers,), 10.0))
    product = op(params, {}, batch, params)
    assert_close(leaves(product)[0], [10 * leaf for leaf in leaves(params)[0]])
    assert leaves(product)[1] == leaves(params)[1]
    several = leaves(params)[1]
    rows = torch.utils._pytree.tree_unflatten([torch.stack([leaf, 2 * leaf]) for leaf in leaves(params)[0]], several)
    assert_close(leaves(op(params, {}, batch, rows))[0], [torch.stack([10 * leaf, 20 * leaf]) for leaf in leaves(params)[0]])


def test_one_row_and_one_parameter_keep_their_axes():
    op = pb.hessian(lambda params, buffers, x: (params["w"] * x) ** 2)
    for shape in ((), (1,), (1, 1)):
        params, batch = {"w": torch.ones(shape)}, torch.ones(3, *([1] * max(0, len(shape))))
        loss = pb.hessian(lambda params, buffers, x: ((params["w"] * x) ** 2).reshape(len(x)))
        for v in (torch.ones(1), torch.ones(1, 1), torch.ones(2, 1), torch.ones(0, 1)):
            assert_close(loss(params, {}, batch, v), 2 * v)
    assert op({"w": torch.ones(())}, {}, torch.ones(3), {"w": torch.ones(())})["w"].shape == ()


def test_v_that_is_not_contiguous_is_taken():
    op, v = pb.gauss_newton(P.loss), torch.randn(D, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert_close(op(P.params, P.buffers, P.batch, v.T), op(P.params, P.buffers, P.batch, v.T.contiguous()))
    assert_close(op(P.params, P.buffers, P.batch, v[:, 2]), op(P.params, P.buffers, P.batch, v[:, 2].contiguous()))
    expanded = v[:1, :1].expand(2, D)
    assert_close(op(P.params, P.buffers, P.batch, expanded), op(P.params, P.buffers, P.batch, expanded.contiguous()))


@pytest.mark.parametrize("value", [0, 0.0, -1.0, float("nan"), float("inf"), torch.ones(1), torch.tensor(1)])
@pytest.mark.parametrize(
    "operation", [lambda r: pb.inverse_harmonic_mean(P.loss, r), lambda r: pb.damped(pb.hessian(P.loss), r)]
)
def test_regularization_that_is_not_positive_is_refused(operation, value):
    with pytest.raises(ValueError, match="regularization must be (positive and finite|a positive number).*got"):
        operation(value)


@pytest.mark.parametrize("value", ["1", None, [1.0], True, 1j])
@pytest.mark.parametrize(
    "operation", [lambda r: pb.inverse_harmonic_mean(P.loss, r), lambda r: pb.damped(pb.hessian(P.loss), r)]
)
def test_regularization_that_is_no_number_is_refused(operation, value):
    with pytest.raises(TypeError, match="regularization must be a positive number or a 0-dim .*got"):
        operation(value)


LOSS = P.loss
OPTIONS = {
    "loss": (lambda: pb.hessian(None), TypeError, "loss must be a function, got NoneType"),
    "loss of gauss_newton": (lambda: pb.gauss_newton(3), TypeError, "loss must be a function, got int"),
    "loss of the mean": (lambda: pb.inverse_harmonic_mean("x", 1.0), TypeError, "loss must be a function, got str"),
    "at": (lambda: pb.batch_operation(None), TypeError, "at must be a function"),
    "op": (lambda: pb.damped(None, 1.0), TypeError, "op must be a function"),
    "op of dense": (lambda: pb.dense(None), TypeError, "op must be a function"),
    "mode": (lambda: pb.hessian(LOSS, mode="forward"), ValueError, "mode must be one of 'reverse_over_reverse', .*'forward'"),
    "chunk": (lambda: pb.hessian(LOSS, chunk_size=0), ValueError, "chunk_size must be at least 1, got 0"),
    "chunk of samples": (
        lambda: pb.inverse_harmonic_mean(LOSS, 1.0, sample_chunk_size=1.5),
        TypeError,
        "sample_chunk_size must be a whole number, got 1.5",
    ),
    "likelihood": (
        lambda: pb.monte_carlo_fisher(P.model, "poisson"),
        ValueError,
        "likelihood must be one of 'categorical', 'bernoulli', 'gaussian' or a Likelihood, got 'poisson'",
    ),
    "samples": (lambda: pb.monte_carlo_fisher(P.model, "gaussian", samples=0), ValueError, "samples must be at least 1"),
    "seed": (lambda: pb.monte_carlo_fisher(P.model, "gaussian", seed=0.5), TypeError, "seed must be a whole number"),
    "batch_dim": (lambda: pb.sample_losses(P.model, P.criterion, "x"), TypeError, "batch_dim must be the number of an axis"),
    "blocks": (lambda: pb.block_diagonal(pb.hessian(LOSS), "0.*"), TypeError, "blocks must be a list of names"),
    "a block": (
        lambda: pb.block_diagonal(pb.hessian(LOSS), ["0.*", 3]),
        TypeError,
        "parameters must be picked by names.*got int",
    ),
    "no blocks": (lambda: pb.block_diagonal(pb.hessian(LOSS), []), ValueError, "at least one block"),
}


@pytest.mark.parametrize(("factory", "error", "message"), OPTIONS.values(), ids=OPTIONS)
def test_option_is_refused_in_the_factory(factory, error, message):
    with pytest.raises(error, match=message):
        factory()


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        (["0.*"], "exactly one of blocks.*'2.weight' is in 0"),
        (["0.*", "*"], "'0.weight' is in 2"),
        (["0.*", "3.*"], "no parameter matches '3"),
        (["*", lambda name, tensor: False], "no block be empty"),
    ],
)
def test_blocks_that_do_not_divide_the_parameters_are_refused(blocks, message):
    with pytest.raises(ValueError, match=message):
        pb.block_diagonal(pb.hessian(LOSS), blocks)(P.params, P.buffers, P.batch, FLAT)


def test_product_of_a_users_own_operation_with_other_leaves_is_refused():
    op = pb.batch_operation(lambda params, buffers, batch: lambda v: {"other": v["w"]})
    with pytest.raises(ValueError, match="the product must have the leaves 'w'; missing 'w'; not expected 'other'"):
        op({"w": torch.ones(2)}, {}, None, torch.ones(2))
