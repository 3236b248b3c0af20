"""An operation averaged over batches, with its error."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close
from torch.utils.data import DataLoader, TensorDataset

import pure_batchops as pb
from tests.strategies import flat, problem, seeds, vectors
from tests.tables import Row, close, every_row


def at_product(params, buffers, batch):
    return lambda v: {key: batch[key].mean(0) * v[key] for key in v}


scaling = pb.batch_operation(at_product)
PARAMS = {"a": torch.zeros(2, 3, dtype=torch.float64), "b": torch.zeros((), dtype=torch.float64)}
ONES = {key: torch.ones_like(leaf) for key, leaf in PARAMS.items()}


def drawn(sizes, seed, offset=0.0):
    generator = torch.Generator().manual_seed(seed)
    return [
        {key: offset + torch.randn(n, *leaf.shape, generator=generator, dtype=torch.float64) for key, leaf in PARAMS.items()}
        for n in sizes
    ]


def textbook(products, weights):
    """The weighted mean and its error, in plain sight: at equal weights, the standard deviation over √n."""
    t, w = torch.stack(products), torch.as_tensor(weights, dtype=torch.float64)
    w = w.reshape(-1, *[1] * (t.dim() - 1))
    mean = (w * t).sum(0) / w.sum(0)
    n = len(products)
    return mean, ((n - 1) / n * (w**2 * (t - mean) ** 2).sum(0)).sqrt() / (w.sum(0) - w.amax(0))


@given(sizes=st.lists(st.integers(1, 5), min_size=2, max_size=6), seed=seeds, offset=st.sampled_from([0.0, 1e6, -1e8]))
def test_error_is_the_textbook_formula_also_far_from_zero(sizes, seed, offset):
    batches = drawn(sizes, seed, offset)
    value, error = pb.averaged_with_error(scaling)(PARAMS, {}, batches, ONES)
    assert list(value) == list(error) == list(PARAMS)
    for key in PARAMS:
        mean, expected = textbook([batch[key].mean(0) for batch in batches], sizes)
        assert_close(value[key], mean)
        assert_close(error[key], expected, rtol=1e-7 + 1e-15 * abs(offset), atol=1e-15 * abs(offset))


def test_error_is_exact_where_the_first_product_is_far_from_the_others():
    batches = [
        {key: torch.full((1, *leaf.shape), t, dtype=torch.float64) for key, leaf in PARAMS.items()} for t in (1e9, 1, 2)
    ]
    _, error = pb.averaged_with_error(scaling)(PARAMS, {}, batches, ONES)
    assert_close(error["b"], textbook([torch.tensor(t, dtype=torch.float64) for t in (1e9, 1, 2)], [1, 1, 1])[1])


def shapes(tree):
    return torch.utils._pytree.tree_map(lambda leaf: (leaf.shape, leaf.dtype), tree)


@every_row
def test_product_is_that_of_the_average_for_every_operation_and_form_of_v(row: Row):
    p = problem("perceptron", 6)
    op, v = row.operation(p), vectors(p.params, 2, 0)
    batches = [tuple(part[a:b] for part in p.batch) for a, b in ((0, 1), (1, 3), (3, 6))]
    for form in (v, flat(v, 2), flat(v, 2)[0], {key: leaf[0] for key, leaf in v.items()}):
        value, error = pb.averaged_with_error(op)(p.params, p.buffers, batches, form)
        close(row, value, pb.averaged(op)(p.params, p.buffers, batches, form))
        assert shapes(error) == shapes(value) == shapes(form)
    products = [op(p.params, p.buffers, batch, flat(v, 2)) for batch in batches]
    _, error = pb.averaged_with_error(op)(p.params, p.buffers, batches, flat(v, 2))
    close(row, error, textbook(products, [1, 2, 3])[1])


@given(sizes=st.lists(st.integers(1, 4), min_size=2, max_size=5), seed=seeds, data=st.data())
def test_order_of_batches_changes_nothing(sizes, seed, data):
    batches = drawn(sizes, seed)
    shuffled = data.draw(st.permutations(batches))
    one, other = (pb.averaged_with_error(scaling)(PARAMS, {}, stream, ONES) for stream in (batches, shuffled))
    assert_close(tuple(one), tuple(other))


def test_equal_products_have_no_error():
    (batch,) = drawn([3], 0)
    _, error = pb.averaged_with_error(scaling)(PARAMS, {}, [batch] * 3, ONES)
    assert_close(error, PARAMS)


def jackknife(products, weights):
    """The error by leaving out one batch after the other."""
    t, w = torch.stack(products), torch.tensor(weights, dtype=torch.float64)
    n = len(products)
    others = [1 - torch.eye(n, dtype=torch.float64)[i] for i in range(n)]
    means = torch.stack([torch.tensordot(kept * w, t, 1) / (kept @ w) for kept in others])
    mean = torch.tensordot(w, t, 1) / w.sum()
    return ((n - 1) / n * (means - mean).square().sum(0)).sqrt()


@given(sizes=st.lists(st.integers(1, 9), min_size=2, max_size=6), seed=seeds)
def test_error_is_at_least_that_of_the_jackknife_and_equal_for_equal_batches(sizes, seed):
    for each in (sizes, sizes[:1] * len(sizes)):
        batches = drawn(each, seed)
        _, error = pb.averaged_with_error(scaling)(PARAMS, {}, batches, ONES)
        least = jackknife([batch["a"].mean(0) for batch in batches], each)
        assert (error["a"] >= least * (1 - 1e-9)).all()
        if len(set(each)) == 1:
            assert_close(error["a"], least)


def student(number):
    """How often a Student's t of number − 1 degrees of freedom is between −2 and 2, by its density."""
    t, v = torch.linspace(-2, 2, 20_001, dtype=torch.float64), number - 1
    density = (1 + t.square() / v) ** (-(v + 1) / 2)
    scale = torch.lgamma(torch.tensor((v + 1) / 2)) - torch.lgamma(torch.tensor(v / 2))
    return float(torch.trapezoid(density, t) * scale.exp() / (v * torch.pi) ** 0.5)


@pytest.mark.parametrize("spread", ["of samples", "of batches"])
@pytest.mark.parametrize(
    "sizes", [[4] * 20, [4] * 6, [4] * 2, [100, 1, 1, 1, 1, 1], [50, 50, 1, 1, 1], [100, 1]], ids=lambda sizes: f"{sizes[:4]}"
)
def test_two_errors_cover_as_often_as_the_docstring_says(sizes, spread):
    """Over 200 seeds and seven numbers each; products differ as means of samples do, or as much for batches of any size."""
    effective = sum(sizes) ** 2 / sum(size**2 for size in sizes)
    inside = []
    for seed in range(200):
        batches = drawn(sizes if spread == "of samples" else [1] * len(sizes), seed)
        weights = iter(sizes)
        mean_op = pb.averaged_with_error(scaling, weight=lambda _, weights=weights: next(weights))
        value, error = mean_op(PARAMS, {}, batches, ONES)
        inside += [value[key].abs() <= 2 * error[key] for key in PARAMS]
    coverage = torch.cat([each.flatten() for each in inside]).double().mean()
    assert coverage >= student(max(effective, 2)) - 0.04  # three standard deviations of 1,400 cases
    if len(set(sizes)) == 1:
        assert coverage <= student(effective) + 0.04


def test_weights_may_be_any_and_batches_that_count_nothing_are_not_counted():
    batches = drawn([2, 3, 4], 0)
    weights = {2: 0.5, 3: 0, 4: torch.tensor(2.0)}
    mean_op = pb.averaged_with_error(scaling, weight=lambda batch: weights[len(batch["b"])])
    value, error = mean_op(PARAMS, {}, iter(batches), ONES)
    mean, expected = textbook([batches[0]["b"].mean(0), batches[2]["b"].mean(0)], [0.5, 2.0])
    assert_close((value["b"], error["b"]), (mean, expected))


def test_stream_is_read_once_and_lazily_through_progress():
    alive, wrapped = [], []

    def stream():
        for i, batch in enumerate(drawn([1, 2, 3], 0)):
            assert len(alive) == i
            alive.append(i)
            yield batch

    def progress(batches):
        for batch in batches:
            wrapped.append(batch)
            yield batch

    generator = stream()
    mean_op = pb.averaged_with_error(scaling, progress=progress)
    mean_op(PARAMS, {}, generator, ONES)
    assert len(alive) == len(wrapped) == 3
    with pytest.raises(ValueError, match="empty .a generator that was already used up"):
        mean_op(PARAMS, {}, generator, ONES)


def test_data_loader_is_accepted():
    p = problem("perceptron", 7)
    loader, v = DataLoader(TensorDataset(*p.batch), batch_size=3), flat(vectors(p.params, None, 0))
    value, _ = pb.averaged_with_error(pb.hessian(p.loss))(p.params, p.buffers, loader, v)
    assert_close(value, pb.hessian(p.loss)(p.params, p.buffers, p.batch, v))


def test_arguments_stay_untouched_and_no_result_aliases_them():
    kept = [{"w": torch.randn(2, dtype=torch.float64)} for _ in range(3)]
    copies = [product["w"].clone() for product in kept]
    mean_op = pb.averaged_with_error(lambda params, buffers, batch, v: kept[batch], weight=lambda batch: 1)
    value, error = mean_op(PARAMS, {}, [0, 1, 2], None)
    value["w"] += 1
    error["w"] += 1
    assert all(torch.equal(product["w"], copy) for product, copy in zip(kept, copies, strict=True))


def test_keys_of_products_may_come_in_any_order():
    products = [{"a": torch.zeros(2), "b": torch.ones(2)}, {"b": torch.ones(2), "a": torch.ones(2)}]
    mean_op = pb.averaged_with_error(lambda params, buffers, batch, v: products[batch], weight=lambda batch: 1)
    assert_close(mean_op(PARAMS, {}, [0, 1], None).standard_error, {"a": torch.full((2,), 0.5), "b": torch.zeros(2)})


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_sums_are_wider_than_the_products(dtype):
    numbers = 1000 + 8 * torch.randint(-3, 4, (4000, 1)).to(dtype)
    mean_op = pb.averaged_with_error(lambda params, buffers, batch, v: batch, weight=lambda batch: 1)
    value, error = mean_op(torch.zeros(1), {}, numbers, None)
    assert value.dtype == error.dtype == dtype
    assert_close(error.double(), numbers.double().std(0) / 4000**0.5, rtol=4 * torch.finfo(dtype).eps, atol=0)


def test_ensemble_by_vmap_is_the_loop_inside_and_outside():
    p = problem("perceptron", 5)
    op, v = pb.hessian(p.loss), flat(vectors(p.params, None, 0))
    batches = [tuple(part[a:b] for part in p.batch) for a, b in ((0, 2), (2, 5))]
    members = [({k: s * leaf for k, leaf in p.params.items()}, p.buffers) for s in (1, 2)]
    states = pb.stack_states(members)
    inside = pb.averaged_with_error(torch.vmap(op, in_dims=(0, 0, None, None)))(*states, batches, v)
    outside = torch.vmap(lambda *state: pb.averaged_with_error(op)(*state, batches, v))(*states)
    loop = [pb.averaged_with_error(op)(*member, batches, v) for member in members]
    for together in (inside, outside):
        assert_close(tuple(together), tuple(map(torch.stack, zip(*loop, strict=True))))


def test_too_few_batches_are_refused():
    mean_op = pb.averaged_with_error(scaling)
    with pytest.raises(ValueError, match="at least two of positive weight to have a standard error, got 1"):
        mean_op(PARAMS, {}, drawn([3], 0), ONES)
    with pytest.raises(ValueError, match="at least two of positive weight to have a standard error, got 1"):
        pb.averaged_with_error(scaling, weight=lambda batch: len(batch["b"]) - 1)(PARAMS, {}, drawn([1, 2], 0), ONES)
    with pytest.raises(ValueError, match="total weight must be positive"):
        pb.averaged_with_error(scaling, weight=lambda batch: 0)(PARAMS, {}, drawn([1, 2], 0), ONES)
    with pytest.raises(ValueError, match="nothing to average"):
        mean_op(PARAMS, {}, [], ONES)


def test_products_that_differ_and_options_that_are_no_functions_are_refused():
    products = [torch.ones(2), torch.ones(3)]
    with pytest.raises(ValueError, match="all products must have one shape and dtype"):
        pb.averaged_with_error(lambda p, b, batch, v: products[batch], weight=lambda batch: 1)(PARAMS, {}, [0, 1], None)
    for options, message in (
        ((None,), "op must be"),
        ((scaling, 3), "weight must be"),
        ((scaling, pb.n_points, 3), "progress"),
    ):
        with pytest.raises(TypeError, match=message):
            pb.averaged_with_error(*options)
