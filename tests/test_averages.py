"""Every law × every average."""

import io
from functools import partial, reduce

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close
from torch.utils.data import DataLoader, TensorDataset

import pure_batchops as pb
from pure_batchops.averages.folds import average_fold
from pure_batchops.testing import AVERAGE_LAWS, check_average
from pure_batchops.testing.parts import cut
from tests.strategies import KINDS, problem, seeds


def by_one(products):
    return pb.weighted_average((product, 1.0) for product in products)


def by_points(products):
    return pb.point_average((product, (torch.zeros(2, 3), torch.zeros(2))) for product in products)


AVERAGES = {"weighted": by_one, "chunk": pb.chunk_average, "point": by_points}
every_average = pytest.mark.parametrize("average", AVERAGES.values(), ids=AVERAGES)


def products(count, seed, shape=(3,)):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(count)]


def pydvl_chunk_average(stream):
    """pyDVL 0.10's ChunkAveraging: the sum over the number of tensors."""
    stream = list(stream)
    return reduce(torch.add, stream) / len(stream)


def pydvl_point_average(pairs, batch_dim=0):
    """pyDVL 0.10's PointAveraging, as described: points read off the product, the first product not weighted."""
    (total, _), *rest = pairs
    points = total.shape[batch_dim]
    for product, _ in rest:
        total, points = total + product * product.shape[batch_dim], points + product.shape[batch_dim]
    return total / points


@every_average
@given(count=st.integers(1, 6), seed=seeds)
def test_average_of_equal_products_is_that_product(average, count, seed):
    (product,) = products(1, seed)
    assert_close(average([product] * count), product)
    assert_close(average({"a": product, "b": [product]} for _ in range(count)), {"a": product, "b": [product]})


@every_average
@given(count=st.integers(1, 6), seed=seeds, data=st.data())
def test_average_ignores_order(average, count, seed, data):
    drawn = products(count, seed)
    assert_close(average(data.draw(st.permutations(drawn))), average(drawn))


@every_average
def test_average_reads_its_stream_once_and_lazily(average):
    alive = []

    def stream():
        for i in range(5):
            assert len(alive) == i
            alive.append(i)
            yield torch.full((2,), float(i))

    generator = stream()
    assert_close(average(generator), torch.full((2,), 2.0))
    with pytest.raises(ValueError, match="empty .a generator that was already used up"):
        average(generator)


@every_average
@given(seed=seeds)
def test_products_stay_untouched_and_the_average_does_not_alias_them(average, seed):
    for count in (1, 3):
        drawn = products(count, seed)
        copies = [product.clone() for product in drawn]
        mean = average(drawn)
        mean += 1
        assert all(torch.equal(product, copy) for product, copy in zip(drawn, copies, strict=True))


@every_average
def test_every_law_of_the_kit_holds_for_averages_of_products(average):
    p = problem("perceptron", 6)
    op = pb.gauss_newton(p.loss)

    def mean_op(params, buffers, batches, v):
        return average(op(params, buffers, batch, v) for batch in batches)

    laws = AVERAGE_LAWS.keys() - {"whole"}  # which needs the points of the batches
    parts = [tuple(part[i : i + 2] for part in p.batch) for i in (0, 2, 4)]
    assert set(check_average(mean_op, op, p.params, p.buffers, parts, laws=laws)) == laws


@pytest.mark.parametrize("kind", KINDS)
def test_every_law_of_the_kit_holds_for_averaged_operations(kind):
    p = problem(kind, 5)
    op = pb.gauss_newton(p.loss)
    mean_op = pb.averaged(op)
    parts = [part for part, _ in cut(p.batch, p.batch_dim, 0)]
    laws = AVERAGE_LAWS if kind == "perceptron" else AVERAGE_LAWS.keys() - {"lazy"}  # which takes a second
    assert set(check_average(mean_op, op, p.params, p.buffers, parts, laws=laws, batch_dim=p.batch_dim)) == set(laws)


@given(weights=st.lists(st.floats(0, 10), min_size=1, max_size=6).filter(lambda w: sum(w) > 1e-3), seed=seeds)
def test_weighted_average_is_the_sum_over_the_total_weight(weights, seed):
    drawn = products(len(weights), seed)
    expected = sum(w * t for w, t in zip(weights, drawn, strict=True)) / sum(weights)
    assert_close(pb.weighted_average(zip(drawn, weights, strict=True)), expected)


@given(sizes=st.lists(st.integers(1, 5), min_size=1, max_size=5), seed=seeds, batch_dim=st.sampled_from([0, 1, -1]))
def test_point_average_over_any_split_is_the_whole(sizes, seed, batch_dim):
    (data,) = products(1, seed, (sum(sizes), 2))
    parts = data.split(sizes)
    pairs = [(part.mean(0), part if batch_dim == 0 else part.T) for part in parts]
    assert_close(pb.point_average(pairs, batch_dim), data.mean(0))


def test_pydvl_averages_are_shown_to_be_wrong_and_these_right():
    ones = [(torch.ones(3), (torch.zeros(n, 1), torch.zeros(n))) for n in (4, 4, 4)]
    assert_close(pb.point_average(ones), torch.ones(3))
    assert_close(pydvl_point_average(ones), torch.full((3,), 7 / 9))  # (1 + 3 + 3) / 9
    four = [(torch.ones(4), batch) for _, batch in ones]
    assert_close(pydvl_point_average(four), torch.full((4,), 0.75))
    unequal = [(torch.zeros(2), (torch.zeros(1),)), (torch.ones(2), (torch.zeros(3),))]
    assert_close(pb.point_average(unequal), torch.full((2,), 0.75))
    assert_close(pydvl_point_average(unequal), torch.full((2,), 0.5))  # it never saw the three points
    assert_close(pydvl_chunk_average([t for t, _ in unequal]), pb.chunk_average(t for t, _ in unequal))


def test_half_precision_is_summed_in_single_and_many_floats_stay_exact():
    for dtype in (torch.float16, torch.bfloat16):
        mean = pb.chunk_average(torch.full((2,), 1.0, dtype=dtype) for _ in range(2500))  # a half sum stops at 2048
        assert mean.dtype == dtype
        assert_close(mean, torch.ones(2, dtype=dtype))
    generator = torch.Generator().manual_seed(0)
    drawn = torch.rand(20_000, 1, generator=generator)  # a sum in single precision would err by 2e-6
    assert_close(pb.chunk_average(drawn), drawn.double().mean(0).float(), rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("pairs", "error", "message"),
    [
        ([], ValueError, "empty"),
        ([(torch.ones(2), 0), (torch.ones(2), 0)], ValueError, "total weight must be positive"),
        ([(torch.ones(2), 2), (torch.ones(2), -1)], ValueError, "not negative, got -1"),
        ([(torch.ones(2), float("nan"))], ValueError, "finite"),
        ([(torch.ones(2), "1")], TypeError, "must be a number"),
        ([(torch.ones(2), 1), (torch.ones(3), 1)], ValueError, r"\(2,\) torch.float32 and \(3,\)"),
        ([(torch.ones(2), 1), (torch.ones(1), 1)], ValueError, "one shape"),
        ([(torch.ones(2), 1), (torch.ones(2).double(), 1)], ValueError, "dtype"),
        ([({"a": torch.ones(2)}, 1), ({"b": torch.ones(2)}, 1)], ValueError, "missing 'a'; not expected 'b'"),
        ([({"a": torch.ones(2)}, 1), (torch.ones(2), 1)], ValueError, "missing 'a'"),
        ([(torch.ones(2, dtype=torch.int64), 1)], TypeError, "floating-point"),
        ([(None, 1)], TypeError, "floating-point"),
        ([torch.ones(2)], ValueError, "pairs"),
    ],
)
def test_average_refuses_what_it_cannot_average(pairs, error, message):
    with pytest.raises(error, match=message):
        pb.weighted_average(pairs)


def test_point_average_refuses_batches_without_a_number_of_points():
    for batch, message in (
        ((torch.ones(2, 1), torch.ones(3)), "one number of samples"),
        ((torch.ones(0, 1), torch.ones(0)), "empty batch"),
        ("words", "no tensor with axes"),
    ):
        with pytest.raises(ValueError, match=message):
            pb.point_average([(torch.ones(2), batch)])


def test_keys_of_products_may_come_in_any_order():
    one, other = {"a": torch.zeros(2), "b": torch.ones(2)}, {"b": torch.ones(2), "a": torch.zeros(2)}
    assert_close(pb.chunk_average([one, other]), one)


def data_of(p):
    return TensorDataset(*p.batch)


def test_average_over_a_data_loader_is_the_operation_on_all_the_data():
    p = problem("perceptron", 7)
    op = pb.gauss_newton(p.loss)
    v = torch.ones(p.numbers, dtype=torch.float64)
    whole = op(p.params, p.buffers, p.batch, v)
    seen = []

    def progress(stream):
        for item in stream:
            seen.append(item)
            yield item

    for shuffle in (False, True):
        loader = DataLoader(data_of(p), batch_size=3, shuffle=shuffle)
        assert_close(pb.averaged(op, progress=progress)(p.params, p.buffers, loader, v), whole)
        multiply = pb.averaged(op).at(p.params, p.buffers, loader)
        assert_close(multiply(torch.stack([v, 2 * v])), torch.stack([whole, 2 * whole]))
    assert len(seen) == 6
    plain = pb.averaged(op, weight=lambda batch: 1)(p.params, p.buffers, DataLoader(data_of(p), batch_size=3), v)
    parts = [op(p.params, p.buffers, batch, v) for batch in DataLoader(data_of(p), batch_size=3)]
    assert_close(plain, pydvl_chunk_average(parts))


def test_vmapped_operation_averages_outside():
    p = problem("perceptron", 4)
    members = [({k: leaf * s for k, leaf in p.params.items()}, p.buffers) for s in (1, 2)]
    op = torch.vmap(pb.hessian(p.loss), in_dims=(0, 0, None, None))
    v = torch.ones(p.numbers, dtype=torch.float64)
    mean = pb.averaged(op)(*pb.stack_states(members), DataLoader(data_of(p), batch_size=3), v)
    assert_close(mean, torch.stack([pb.hessian(p.loss)(*member, p.batch, v) for member in members]))


@pytest.mark.parametrize(
    "make", [pb.direct, pb.conjugate_gradient, partial(pb.lissa, depth=400), partial(pb.nystroem, rank=2), pb.damped]
)
def test_points_are_counted_along_the_axis_of_the_loss_whatever_is_made_of_it(make):
    loss = pb.sample_losses(lambda params, buffers, x: params * x, torch.nn.MSELoss(), batch_dim=1)
    x = torch.arange(1.0, 13.0).reshape(2, 6)
    batches = [(part, torch.zeros_like(part)) for part in x.split([1, 5], 1)]
    op, params, v = make(pb.hessian(loss), 0.5), torch.ones(2, 1), torch.ones(2)
    products = [op(params, {}, batch, v) for batch in batches]
    assert_close(pb.averaged(op)(params, {}, batches, v), (products[0] + 5 * products[1]) / 6)
    assert_close(
        pb.averaged(torch.vmap(op, (0, None, None, None)))(params[None], {}, batches, v)[0],
        (products[0] + 5 * products[1]) / 6,
    )


def test_average_composes_with_operations_on_operations():
    p = problem("perceptron", 4)
    batches = [tuple(part[i : i + 2] for part in p.batch) for i in (0, 2)]
    op = pb.hessian(p.loss)
    mean = pb.dense(pb.damped(pb.averaged(op), 0.5))(p.params, p.buffers, batches)
    whole = pb.dense(pb.damped(op, 0.5))(p.params, p.buffers, p.batch)
    assert_close(mean, whole)
    blocks = pb.block_diagonal(pb.averaged(op), ["0.*", "2.*"])
    assert_close(
        pb.dense(blocks)(p.params, p.buffers, batches),
        pb.dense(pb.block_diagonal(op, ["0.*", "2.*"]))(p.params, p.buffers, p.batch),
    )


def test_averaged_refuses_an_iterator_for_many_products_and_a_used_up_stream():
    p = problem("perceptron", 4)
    mean_op, v = pb.averaged(pb.hessian(p.loss)), torch.ones(p.numbers, dtype=torch.float64)
    with pytest.raises(ValueError, match="iterable again"):
        mean_op.at(p.params, p.buffers, iter([p.batch]))
    stream = iter([p.batch])
    mean_op(p.params, p.buffers, stream, v)
    with pytest.raises(ValueError, match="used up"):
        mean_op(p.params, p.buffers, stream, v)
    with pytest.raises(TypeError, match="op must be a function"):
        pb.averaged(None)
    with pytest.raises(TypeError, match="weight must be a function"):
        pb.averaged(pb.hessian(p.loss), weight=3)


def state_of(pairs):
    return reduce(lambda state, pair: pb.average_step(state, *pair), pairs, pb.average_start())


weighted = st.lists(st.tuples(st.integers(0, 4), seeds), max_size=5)


@given(one=weighted, other=weighted, third=weighted)
def test_states_are_a_monoid_and_merge_to_the_average_of_all(one, other, third):
    groups = [[(products(1, seed)[0], weight) for weight, seed in group] for group in (one, other, third)]
    a, b, c = map(state_of, groups)
    left, right = pb.average_merge(pb.average_merge(a, b), c), pb.average_merge(a, pb.average_merge(b, c))
    assert_close(left[:3], right[:3])
    assert_close(pb.average_merge(a, pb.average_start())[:3], a[:3], rtol=0, atol=0)
    assert_close(pb.average_merge(pb.average_start(), a)[:3], a[:3], rtol=0, atol=0)
    pairs = [pair for group in groups for pair in group]
    assert left.batches == len(pairs)
    if sum(weight for _, weight in pairs):
        assert_close(pb.average_result(left), pb.weighted_average(pairs))
    else:
        with pytest.raises(ValueError, match="total weight must be positive" if pairs else "nothing to average"):
            pb.average_result(left)


@given(count=st.integers(1, 5), seed=seeds, stop=st.integers(0, 5))
def test_state_that_was_saved_goes_on_bit_for_bit(count, seed, stop):
    drawn = [({"a": product.float(), "b": [product]}, i) for i, product in enumerate(products(count, seed), 1)]
    first = state_of(drawn[:stop])
    with io.BytesIO() as file:
        torch.save(first._asdict(), file)
        file.seek(0)
        loaded = pb.AverageState(**torch.load(file, weights_only=True))
    found = pb.average_result(reduce(lambda state, pair: pb.average_step(state, *pair), drawn[stop:], loaded))
    assert_close(found, pb.weighted_average(drawn), rtol=0, atol=0)


def test_states_stay_as_they_are_and_refuse_other_products():
    state = state_of([(torch.ones(2), 1)])
    pb.average_merge(state, state)
    pb.average_step(state, torch.ones(2))
    pb.average_result(state).add_(1)
    assert_close(state.total, torch.ones(2, dtype=torch.float64))
    for other in (torch.ones(3), torch.ones(2).double(), {"a": torch.ones(2)}):
        with pytest.raises(ValueError, match="must have"):
            pb.average_merge(state, state_of([(other, 1)]))


BAD_WEIGHTS = [
    (None, TypeError, "a weight must be a number, got None"),
    ("1", TypeError, "a weight must be a number, got '1'"),
    (1j, TypeError, "a weight must be a number, got 1j"),
    (torch.tensor(1j), TypeError, "a weight must be a number, got tensor"),
    (torch.ones(2), TypeError, "a weight must be a number, got tensor"),
    (torch.ones((), requires_grad=True), TypeError, "got a tensor that requires gradients; detach it"),
    (-1, ValueError, "a weight must be finite and not negative, got -1"),
    (float("nan"), ValueError, "finite"),
    (float("inf"), ValueError, "finite"),
    (1e308, ValueError, "a weight must be at most 1e.15, got 1e.308; divide all weights by one number"),
]


@pytest.mark.parametrize(("weight", "error", "message"), BAD_WEIGHTS, ids=lambda value: str(value)[:20])
def test_weight_that_is_no_small_number_is_refused_with_the_number_of_its_batch(weight, error, message):
    weights, batches = iter([1, weight]), [torch.ones(2)] * 2
    op = pb.gauss_newton(lambda params, buffers, x: params * x)
    for average in (pb.averaged, pb.averaged_with_error):
        weights = iter([1, weight])
        with pytest.raises(error, match=f"{message}.*in batch 1 of the average"):
            average(op, lambda _, weights=weights: next(weights))(torch.ones(1), {}, batches, torch.ones(1))
    with pytest.raises(error, match=message):
        pb.weighted_average([(torch.ones(2), 1), (torch.ones(2), weight)])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_weights_of_any_size_that_is_taken_give_the_average(dtype):
    products = [torch.tensor([1.0, -2.0]).to(dtype), torch.tensor([3.0, 4.0]).to(dtype)]
    for size in (1e-15, 1e-7, 1.0, 1e14):
        assert_close(pb.weighted_average(zip(products, [size, 3 * size], strict=True)), torch.tensor([2.5, 2.5]).to(dtype))
    with pytest.raises(ValueError, match="total weight must be at least 1e-15, got 2e-300; multiply all weights"):
        pb.weighted_average((product, 1e-300) for product in products)


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_batch_of_weight_zero_adds_nothing_whatever_its_product_is(place, bad):
    products = [torch.tensor([1.0]), torch.tensor([4.0])]
    products.insert(place, torch.tensor([bad]))
    weights = [1.0, 2.0]
    weights.insert(place, 0.0)
    assert_close(pb.weighted_average(zip(products, weights, strict=True)), torch.tensor([3.0]))
    mean_op = pb.averaged_with_error(lambda params, buffers, batch, v: products[batch], lambda batch: weights[batch])
    value, error = mean_op(torch.zeros(1), {}, range(3), None)
    good = [product for product, weight in zip(products, weights, strict=True) if weight]
    expected = pb.averaged_with_error(lambda params, buffers, batch, v: good[batch], lambda batch: batch + 1)
    assert_close((value, error), tuple(expected(torch.zeros(1), {}, range(2), None)))


def test_recursion_takes_nothing_from_a_batch_of_weight_zero():
    def solution(number):
        batches = [torch.tensor([1.0]), torch.tensor([number])]
        op = pb.averaged(pb.gauss_newton(lambda params, buffers, x: params * x), lambda batch: float(batch[0] == 1))
        return pb.lissa(op, 0.5, scale=4.0, depth=50)(torch.ones(1), {}, batches, torch.ones(1))

    assert_close(solution(float("nan")), solution(2.0))


def test_graphs_whose_nodes_and_edges_differ_in_number_are_weighed_or_the_way_is_told():
    def losses(params, buffers, graph):
        (x, edges), target = graph
        hidden = x @ params["w"]
        return (hidden.tanh().index_add(0, edges[1], hidden[edges[0]]) - target).square()

    params, v = {"w": torch.linspace(-1, 1, 3).double()}, torch.ones(3, dtype=torch.float64)
    graphs = [((torch.randn(n, 3).double(), torch.randint(n, (2, m))), torch.randn(n).double()) for n, m in ((5, 8), (7, 10))]
    op = pb.hessian(losses)
    expected = (5 * op(params, {}, graphs[0], v) + 7 * op(params, {}, graphs[1], v)) / 12
    assert_close(pb.averaged(op)(params, {}, graphs, v), expected)
    of_one_number = pb.hessian(lambda *arguments: losses(*arguments).mean())
    with pytest.raises(ValueError, match=r"give weight=.*weight=lambda batch: len\(batch\[1\]\) where .* nodes and edges"):
        pb.averaged(of_one_number)(params, {}, graphs, v)
    assert_close(pb.averaged(of_one_number, lambda batch: len(batch[1]))(params, {}, graphs, v), expected)


def groups_of(p, sizes):
    batches = list(zip(*(part.split(sizes) for part in p.batch), strict=True))
    return [batches[:2], batches[2:3], batches[3:]]


GROUPS = {
    "lists": lambda groups: groups,
    "tuples": lambda groups: [tuple(group) for group in groups],
    "generators": lambda groups: [iter(group) for group in groups],
    "loaders": lambda groups: [
        DataLoader(TensorDataset(*(torch.cat(part) for part in zip(*group, strict=True))), 2) for group in groups
    ],
}


@pytest.mark.parametrize("groups", GROUPS.values(), ids=GROUPS)
def test_average_of_averages_is_the_average_of_all(groups):
    p = problem("perceptron", 12)
    op, v = pb.gauss_newton(p.loss), torch.ones(p.numbers, dtype=torch.float64)
    expected, inner = op(p.params, p.buffers, p.batch, v), pb.averaged(op)
    for each in (inner, lambda *arguments: inner(*arguments), pb.averaged(op, pb.n_points)):
        given = partial(twelve_in_groups, p, groups)
        assert_close(pb.averaged(each)(p.params, p.buffers, given(), v), expected)
        assert_close(pb.averaged_with_error(each)(p.params, p.buffers, given(), v).value, expected)
    inverse = pb.averaged(pb.direct(inner, 0.5))
    wholes = [tuple(torch.cat(part) for part in zip(*group, strict=True)) for group in groups_of(p, [1, 2, 3, 4, 2])]
    parts = [(pb.direct(op, 0.5)(p.params, p.buffers, whole, v), whole) for whole in wholes]
    if groups is not GROUPS["generators"]:
        assert_close(inverse(p.params, p.buffers, given(), v), pb.point_average(parts))


def test_average_of_estimates_is_refused():
    op = pb.averaged_with_error(pb.gauss_newton(lambda params, buffers, x: params * x))
    groups = [[torch.ones(1), torch.ones(2)]] * 2
    with pytest.raises(TypeError, match="got an Estimate, .* use averaged_with_error.averaged.op"):
        pb.averaged(op, len)(torch.ones(1), {}, groups, torch.ones(1))


def twelve_in_groups(p, groups):
    return groups(groups_of(p, [1, 2, 3, 4, 2]))


class OddError(Exception):
    """An error that takes no message."""

    def __init__(self, one, other):
        super().__init__(one, other)


def test_error_of_a_batch_says_which_batch_it_was():
    p = problem("perceptron", 6)
    v = torch.ones(p.numbers, dtype=torch.float64)
    batches = [tuple(part[i : i + 2] for part in p.batch) for i in (0, 2, 4)]
    broken = [*batches[:2], (batches[2][0], batches[2][1][:1])]
    mean_op = pb.averaged(pb.hessian(p.loss))
    with pytest.raises(ValueError, match=r"got the shapes .* \(in batch 2 of the average, the first being 0\)") as caught:
        mean_op(p.params, p.buffers, broken, v)
    assert isinstance(caught.value.__cause__, ValueError)

    def failing(error):
        yield from batches
        raise error

    for error, kind, message in (
        (OSError(2, "no such file"), OSError, "no such file.*batch 3"),
        (KeyError("x"), KeyError, "'x'.*batch 3"),
        (OddError(1, 2), RuntimeError, r"OddError: \(1, 2\) \(in batch 3"),
    ):
        with pytest.raises(kind, match=message):
            mean_op(p.params, p.buffers, failing(error), v)


def test_product_that_is_not_finite_names_the_batch_by_option():
    op = pb.batch_operation(lambda params, buffers, x: lambda v: {"w": v["w"] / x})
    params, batches = {"w": torch.ones(2)}, [torch.ones(1), torch.zeros(1)]
    with pytest.raises(ValueError, match=r"must be finite, got inf at 'w'; .* \(in batch 1 of"):
        pb.averaged(op, finite=True)(params, {}, batches, params)
    assert pb.averaged(op)(params, {}, batches, params)["w"].isinf().all()
    assert_close(pb.averaged(op, finite=True)(params, {}, batches[:1], params), params)
    with pytest.raises(TypeError, match="finite must be True or False"):
        pb.averaged(op, finite="no")


def test_sums_in_place_are_those_of_pure_steps_and_touch_nothing_that_was_given():
    start = pb.average_step(pb.average_start(), torch.ones(2, 50_000), 3)
    products = [(torch.randn(2, 50_000), weight) for weight in (0, 2, 0.5)]
    products.append((torch.randn(50_000, 2).t(), 4))  # not contiguous
    before = [start.total.clone(), *[product.clone() for product, _ in products]]
    folded, stepped = average_fold(start, products), reduce(lambda state, pair: pb.average_step(state, *pair), products, start)
    assert torch.equal(folded.total, stepped.total)
    assert folded[1:] == stepped[1:]
    assert all(map(torch.equal, before, [start.total, *[product for product, _ in products]]))
    assert folded.total.data_ptr() != start.total.data_ptr()
