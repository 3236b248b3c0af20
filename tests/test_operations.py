"""Every law × every operation: one row each."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

import pure_batchops as pb
from pure_batchops.testing import LAWS, check_operation
from tests.marks import compiles, float16
from tests.strategies import KINDS, Problem, flat, problem, problems, seeds, vectors
from tests.tables import LAMBDA, ROWS, Row, close, every_row, few, rows, smooth


@every_row
@pytest.mark.parametrize("kind", KINDS)
def test_product_is_the_dense_matrix_times_v(row: Row, kind: str) -> None:
    for n, seed in ((1, 0), (3, 1)):
        p = problem(kind, n, seed)
        v = vectors(p.params, None, seed)
        close(row, row.operation(p)(p.params, p.buffers, p.batch, flat(v)), row.twin(p) @ flat(v))


@every_row
@given(p=problems(), count=st.sampled_from([None, 0, 1, 2, 3]), seed=seeds)
@few
def test_every_form_of_v_gives_the_dense_product_in_its_form(row: Row, p: Problem, count: int | None, seed: int) -> None:
    op, v = row.operation(p), vectors(p.params, count, seed)
    expected = flat(v, count) @ row.twin(p).T
    as_tree = op(p.params, p.buffers, p.batch, v)
    assert list(as_tree) == list(p.params)
    assert {name: leaf.shape for name, leaf in as_tree.items()} == {name: leaf.shape for name, leaf in v.items()}
    close(row, flat(as_tree, count), expected)
    close(row, op(p.params, p.buffers, p.batch, flat(v, count)), expected)
    at = op.at(p.params, p.buffers, p.batch)
    close(row, flat(at(v), count), expected)
    close(row, at(flat(v, count)), expected)


@every_row
@given(p=problems())
@few
def test_dense_is_the_dense_matrix_and_symmetric(row: Row, p: Problem) -> None:
    matrix = pb.dense(row.operation(p))(p.params, p.buffers, p.batch)
    close(row, matrix, row.twin(p))
    close(row, matrix, matrix.T)


@rows(lambda row: row.definite)
@given(p=problems())
@few
def test_matrix_that_should_be_is_positive_semidefinite(row: Row, p: Problem) -> None:
    spectrum = torch.linalg.eigvalsh(pb.dense(row.operation(p))(p.params, p.buffers, p.batch))
    assert spectrum.min() >= -1e-10 * spectrum.max().clamp(min=1)


def check_laws(row: Row, p: Problem, seed: int, laws: set[str]) -> None:
    options = {"semi_definite": row.definite, "batch_dim": p.batch_dim, "seed": seed, **row.tolerance}
    held = laws if row.splits else laws - {"split"}
    check_operation(row.operation(p), p.params, p.buffers, p.batch, laws=held, **options)


QUICK = {"linear", "symmetric", "key_order", "untouched"}


@every_row
@given(p=problems(), seed=seeds)
def test_quick_laws_of_the_kit_hold(row: Row, p: Problem, seed: int) -> None:
    check_laws(row, p, seed, QUICK)


@every_row
@given(p=problems(), seed=seeds)
@few
def test_all_other_laws_of_the_kit_hold(row: Row, p: Problem, seed: int) -> None:
    check_laws(row, p, seed, LAWS.keys() - QUICK - {"compiled"})


@rows(lambda row: row.chunks)
@given(p=problems(), seed=seeds, chunk=st.integers(1, 4))
def test_chunks_of_vectors_change_nothing(row: Row, p: Problem, seed: int, chunk: int) -> None:
    v = flat(vectors(p.params, 3, seed), 3)
    close(
        row,
        row.operation(p, chunk_size=chunk)(p.params, p.buffers, p.batch, v),
        row.operation(p)(p.params, p.buffers, p.batch, v),
    )


@given(p=problems(), seed=seeds, chunk=st.integers(1, 5))
def test_chunks_of_samples_change_nothing(p: Problem, seed: int, chunk: int) -> None:
    v = flat(vectors(p.params, None, seed))
    whole = pb.inverse_harmonic_mean(p.loss, LAMBDA)(p.params, p.buffers, p.batch, v)
    chunked = pb.inverse_harmonic_mean(p.loss, LAMBDA, sample_chunk_size=chunk)(p.params, p.buffers, p.batch, v)
    assert_close(chunked, whole)


@rows(lambda row: row.splits)
@given(p=problems(), seed=seeds, data=st.data())
@few
def test_average_over_any_split_of_the_batch_is_the_whole(row: Row, p: Problem, seed: int, data: Any) -> None:
    v = flat(vectors(p.params, None, seed))
    n = p.batch[1].shape[p.batch_dim]
    cuts = sorted(data.draw(st.sets(st.integers(1, n - 1)))) if n > 1 else []
    spans = list(zip([0, *cuts], [*cuts, n], strict=True))
    tree_map = torch.utils._pytree.tree_map
    parts = [tree_map(lambda leaf, a=a, b=b: leaf.narrow(p.batch_dim, a, b - a), p.batch) for a, b in spans]
    op = row.operation(p)
    mean_op = pb.averaged(op)
    whole = op(p.params, p.buffers, p.batch, v)
    close(row, mean_op(p.params, p.buffers, iter(parts), v), whole)
    close(row, mean_op.at(p.params, p.buffers, parts)(v), whole)


@every_row
@given(p=smooth, seed=seeds)
@few
def test_derivative_of_a_product_is_that_of_finite_differences(row: Row, p: Problem, seed: int) -> None:
    op, v = row.operation(p), vectors(p.params, None, seed)
    w, direction = flat(vectors(p.params, None, seed + 1)), vectors(p.params, None, seed + 2)

    def number(params: Any) -> torch.Tensor:
        return flat(op(params, p.buffers, p.batch, v)) @ w

    def along(step: float) -> torch.Tensor:
        return number({k: leaf + step * direction[k] for k, leaf in p.params.items()})

    near, far = (along(step) - along(-step) for step in (2e-4, 4e-4))
    finite = (8 * near - far) / 24e-4  # exact to step⁴
    slope = flat(torch.func.grad(number)(p.params)) @ flat(direction)
    scale = 1 + finite.abs()
    rounding = max(1e-5, row.tolerance.get("rtol", 0))  # of finite differences, of a product that may be one itself
    assert_close(slope / scale, finite / scale, rtol=rounding, atol=rounding)
    by_v = torch.func.jvp(lambda u: op(p.params, p.buffers, p.batch, u), (flat(v),), (w,))[1]
    close(row, by_v, op(p.params, p.buffers, p.batch, w))
    weights = torch.func.grad(lambda u: op(p.params, p.buffers, p.batch, u) @ w)(flat(v))
    close(row, weights, op(p.params, p.buffers, p.batch, w))


DTYPES = [torch.float32, torch.bfloat16, float16]


def in_lower_precision(row: Row, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """The product in this dtype, and the dense one in double precision."""
    p = problem("perceptron", 4)
    cast = lambda tree: {k: leaf.to(dtype) for k, leaf in tree.items()}  # noqa: E731
    v = vectors(p.params, 2, 0)
    batch = (p.batch[0].to(dtype), p.batch[1])
    product = row.operation(p)(cast(p.params), cast(p.buffers), batch, flat(cast(v), 2))
    return product, flat(v, 2) @ row.twin(p).T


@every_row
@pytest.mark.parametrize("dtype", DTYPES)
def test_product_keeps_the_dtype_of_params(row: Row, dtype: torch.dtype) -> None:
    product, _ = in_lower_precision(row, dtype)
    assert product.dtype == dtype


@rows(lambda row: row.half)
@pytest.mark.parametrize("dtype", DTYPES)
def test_product_in_lower_precision_is_right_to_its_rounding(row: Row, dtype: torch.dtype) -> None:
    product, expected = in_lower_precision(row, dtype)
    assert (product.double() - expected).norm() < 30 * torch.finfo(dtype).eps * expected.norm()


@rows(lambda row: not row.half)
def test_finite_difference_in_single_precision_is_right_to_its_step(row: Row) -> None:
    product, expected = in_lower_precision(row, torch.float32)
    assert (product.double() - expected).norm() < 30 * torch.finfo(torch.float32).eps ** (2 / 3) * expected.norm()


def check_compiled(row: Row, p: Problem, v: Any, backend: str = "aot_eager") -> None:
    torch._dynamo.reset()  # sizes that differed in an earlier problem would be taken for dynamic ones
    op = row.operation(p)
    compiled = torch.compile(op, fullgraph=True, backend=backend)
    close(row, compiled(p.params, p.buffers, p.batch, v), op(p.params, p.buffers, p.batch, v))


@compiles
@rows(lambda row: row.compiled)
def test_compiled_is_eager(row: Row) -> None:
    tied = problem("tied", 3)
    check_compiled(row, tied, vectors(tied.params, None, 1))


@compiles
@rows(lambda row: row.compiled)
def test_compiled_on_several_flat_vectors_is_eager(row: Row) -> None:
    p = problem("perceptron", 3, restrict_to=["0.weight", "2.bias"])
    check_compiled(row, p, flat(vectors(p.params, 3, 1), 3), backend="eager")  # half a minute less; AOT is tried above


@compiles
@pytest.mark.parametrize("kind", ["convolution", "norms", "recurrent", "one"])
def test_compiled_is_eager_on_every_kind_of_layer(kind: str) -> None:
    p = problem(kind, 2)
    for name in ("hessian", "inverse_harmonic_mean"):
        check_compiled(ROWS[name], p, flat(vectors(p.params, None, 1)))


@compiles
@pytest.mark.parametrize("name", ["hessian", "inverse_harmonic_mean", "monte_carlo_fisher"])
def test_compiled_once_serves_batches_and_vectors_of_other_sizes(name: str) -> None:
    torch._dynamo.reset()
    p = problem("perceptron")
    op = ROWS[name].operation(p)
    compiled = torch.compile(op, fullgraph=True, backend="aot_eager")
    for n, count in ((3, 2), (4, 5), (1, 1)):
        batch, v = problem("perceptron", n, n).batch, flat(vectors(p.params, count, n), count)
        close(ROWS[name], compiled(p.params, p.buffers, batch, v), op(p.params, p.buffers, batch, v))


@compiles
def test_compiled_averages_and_blocks_are_eager() -> None:
    p = problem("perceptron", 4)
    v = flat(vectors(p.params, None, 1))
    blocks = pb.block_diagonal(pb.averaged(pb.gauss_newton(p.loss)), ["0.*", lambda name, _: name.startswith("2.")])
    batches = [tuple(part[i : i + 2] for part in p.batch) for i in (0, 2)]
    torch._dynamo.reset()
    compiled = torch.compile(blocks, fullgraph=True, backend="aot_eager")
    assert_close(compiled(p.params, p.buffers, batches, v), blocks(p.params, p.buffers, batches, v))


@compiles
def test_compiled_over_an_ensemble_is_the_loop_over_it() -> None:
    torch._dynamo.reset()
    p = problem("perceptron", 3)
    states = pb.stack_states([({k: s * leaf for k, leaf in p.params.items()}, p.buffers) for s in (1, 2)])
    v = flat(vectors(p.params, None, 1))
    for name in ("hessian", "inverse_harmonic_mean"):
        ensemble = torch.vmap(ROWS[name].operation(p), in_dims=(0, 0, None, None))
        compiled = torch.compile(ensemble, fullgraph=True, backend="aot_eager")
        assert_close(compiled(*states, p.batch, v), ensemble(*states, p.batch, v))
