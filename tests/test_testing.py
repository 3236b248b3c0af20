"""The kit of laws: each law finds the operation that was planted against it, and it alone; right operations pass them all."""

import inspect
from functools import reduce
from itertools import chain, islice

import pytest
import torch

import pure_batchops as pb
from pure_batchops.operations.derived import with_at
from pure_batchops.testing import AVERAGE_LAWS, LAWS, check_average, check_operation
from pure_batchops.testing.case import copied
from pure_batchops.trees import map_leaves
from tests.marks import compiles
from tests.strategies import problem

UNCOMPILED = tuple(law for law in LAWS if law != "compiled")  # half a minute less
WITHOUT_TWIN = set(UNCOMPILED) - {"twin"}
PARAMS = {"a": torch.tensor([0.5, -1.0]), "b": torch.tensor([2.0, 0.3])}  # float32, as in a notebook
BUFFERS = {"shift": torch.tensor(0.5)}
BATCH = torch.tensor([[0.1, 1.0], [-0.7, 0.4], [1.5, 0.8], [0.2, -0.6], [0.9, 1.1]])
BATCHES = list(BATCH.split([1, 3, 1]))


def loss(params, buffers, batch):
    return ((batch @ params["a"]).sin() * (batch @ params["b"] + buffers["shift"])).square()


RIGHT = pb.gauss_newton(loss)


def mapped(function):
    """An operation whose linear map is wrong, of `function(params, batch, v, right product)`."""

    def at(params, buffers, batch):
        multiply = RIGHT.at(params, buffers, batch)
        return lambda v: function(params, batch, v, multiply(v))

    return pb.batch_operation(at)


def called(function):
    """An operation that is wrong as a whole, `function(params, buffers, batch, v)`, also through its `at`."""
    return with_at(function, lambda *point: lambda v: function(*map(copied, point), v))


def times(number, tree):
    return map_leaves(lambda leaf: number * leaf, tree)


def read_in_python(params, batch, v, product):
    return product if params["a"].sum().item() < 100 else v


def level(leaf):
    return torch._C._functorch.maybe_get_level(leaf) if torch._C._functorch.is_batchedtensor(leaf) else 0


def identity(params, buffers, batch, v):
    return v if isinstance(v, torch.Tensor) else {name: v[name] for name in params}


def by_position(params, buffers, batch, v):
    renamed = v if isinstance(v, torch.Tensor) else dict(zip(params, v.values(), strict=True))
    return RIGHT(params, buffers, batch, renamed)


def in_order_of_v(params, buffers, batch, v):
    product = RIGHT(params, buffers, batch, v)
    return product if isinstance(v, torch.Tensor) else {name: product[name] for name in v}


def squeezed(params, buffers, batch, v):
    product = RIGHT(params, buffers, batch, v)
    return product[0] if isinstance(v, torch.Tensor) and v.shape == (1, 4) else product


def none_flattened(params, buffers, batch, v):
    product = RIGHT(params, buffers, batch, v)
    return product.flatten() if isinstance(v, torch.Tensor) and 0 in v.shape else product


def rows_averaged(params, buffers, batch, v):
    product = RIGHT(params, buffers, batch, v)
    many = isinstance(v, torch.Tensor) and v.dim() == 2 and len(v)
    return product.mean(0).expand_as(product).clone() if many else product


def counting(params, buffers, batch):
    multiply, calls = RIGHT.at(params, buffers, batch), []

    def product(v):
        calls.append(v)
        return times(len(calls), multiply(v))

    return product


def writing(write):
    """An operation that writes into its arguments when it has multiplied."""

    def operation(params, buffers, batch, v):
        product = RIGHT(params, buffers, batch, v)
        write(params, buffers, batch, v)
        return product

    return called(operation)


def write_into_v(params, buffers, batch, v):
    (v if isinstance(v, torch.Tensor) else v["a"]).mul_(2)


def write_behind(params, buffers, batch, v):
    params["a"].data.mul_(2)


def compiling(params, batch, v, product):
    return times(1.5, product) if torch.compiler.is_compiling() else product


PLANTED = {  # the law planted against, then whatever else cannot hold without it
    "linear symmetric": [
        mapped(lambda params, batch, v, product: map_leaves(lambda a, b: a + 0.01 * b.abs(), product, v)),
        mapped(lambda params, batch, v, product: {k: leaf + 0.01 for k, leaf in product.items()}),
    ],
    "symmetric": [mapped(lambda params, batch, v, product: {"a": product["a"] + 0.01 * v["b"], "b": product["b"]})],
    "semi_definite": [
        mapped(lambda params, batch, v, product: {"a": v["a"], "b": v["b"] * torch.tensor([1.0, -1e-3])}),
        pb.hessian(loss),
    ],
    "forms": [called(squeezed), called(none_flattened), called(rows_averaged)],
    "key_order": [called(by_position), called(in_order_of_v)],
    "at": [
        with_at(lambda *arguments: RIGHT(*arguments), lambda *point: lambda v: times(1.001, RIGHT(*point, v))),
        with_at(lambda *arguments: RIGHT(*arguments), counting),
        lambda *arguments: RIGHT(*arguments),
    ],
    "split": [
        mapped(lambda params, batch, v, product: times(len(batch), product)),  # a sum
        mapped(lambda params, batch, v, product: times(len(batch) / (len(batch) + 1), product)),
    ],
    "ensemble": [mapped(lambda params, batch, v, product: times(1 + (level(params["a"]) == 1), product))],
    "ensemble nested": [mapped(read_in_python)],  # it does not vmap at all
    "nested": [mapped(lambda params, batch, v, product: times(1 + (level(params["a"]) == 2), product))],
    "untouched": [
        writing(lambda params, buffers, batch, v: params["a"].add_(1)),
        writing(lambda params, buffers, batch, v: buffers["shift"].zero_()),
        writing(lambda params, buffers, batch, v: batch.add_(0)),
        writing(lambda params, buffers, batch, v: params.update(a=params["a"].clone())),
        writing(lambda params, buffers, batch, v: buffers.clear()),
        writing(write_into_v),
        called(identity),
    ],
    "untouched ensemble nested": [writing(write_behind)],
    "compiled": [mapped(compiling)],
}
ROWS = [
    pytest.param(laws.split(), op, id=f"{laws}-{i}", marks=[compiles] if laws == "compiled" else [])
    for laws, ops in PLANTED.items()
    for i, op in enumerate(ops)
]


def double(tree):
    return {name: leaf.double() for name, leaf in tree.items()}


POINT = (double(PARAMS), double(BUFFERS), BATCH[:4].double())  # 4 points: fewer than are lost below, and no multiple of 5


def dense_gauss_newton(params, buffers, batch):
    """The mean of the outer products of the gradients, by plain autograd, one sample after another."""
    inputs = [leaf.requires_grad_() for leaf in params.values()]
    gradients = [torch.cat(torch.autograd.grad(loss(params, buffers, x[None]).sum(), inputs)) for x in batch]
    return sum(torch.outer(g, g) for g in gradients) / len(batch)


def pointed(change):
    """The right operation at another point, `change(params, buffers, batch) -> (params, buffers, batch)`."""
    return pb.batch_operation(lambda *point: RIGHT.at(*change(*point)))


def detached(tree):
    return map_leaves(torch.Tensor.detach, tree)


def without_grad(params, buffers, batch, v):
    with torch.no_grad():
        return RIGHT(params, buffers, batch, v)


def blocks(params, buffers, batch):
    multiply = RIGHT.at(params, buffers, batch)
    return lambda v: {name: multiply(times(0, v) | {name: v[name]})[name] for name in v}


def diagonal(params, buffers, batch):
    parts = pb.dense(RIGHT)(params, buffers, batch).diagonal().split(2)
    return lambda v: {name: part * v[name] for name, part in zip(params, parts, strict=True)}


def rows_changed(change):
    """An operation that changes the rows of K products, flat or leaf by leaf, `change(rows)`."""

    def operation(params, buffers, batch, v):
        product = RIGHT(params, buffers, batch, v)
        if isinstance(v, torch.Tensor):
            return change(product) if v.dim() == 2 else product
        return {name: change(leaf) if leaf.dim() == 2 else leaf for name, leaf in product.items()}

    return called(operation)


def of_the_first_member(params, buffers, batch):
    while level(buffers["shift"]):
        buffers = {"shift": torch._C._functorch.get_unwrapped(buffers["shift"])[0]}
    return params, buffers, batch


def of_all_members(params, buffers, batch):
    while level(buffers["shift"]):
        buffers = {"shift": torch._C._functorch.get_unwrapped(buffers["shift"]).mean()}
    return params, buffers, batch


def wrong_slope(params, batch, v, product):
    s = params["a"].sum()
    return times(1 + s - s.detach(), product)


def zeroed(name):
    return lambda params, batch, v, product: product | {name: torch.zeros_like(product[name])}


def clipped(number):
    return lambda leaf: leaf.clamp(-number, number)


SUBTLE = {  # wrong where a kit without these laws does not look; each falls for exactly the laws named
    "twin": {
        "the opposite sign": mapped(lambda params, batch, v, product: times(-1, product)),
        "twice the matrix": mapped(lambda params, batch, v, product: times(2, product)),
        "a thousandth more": mapped(lambda params, batch, v, product: times(1.001, product)),
        "zero": mapped(lambda params, batch, v, product: times(0, product)),
        "the identity": mapped(lambda params, batch, v, product: map_leaves(torch.clone, {name: v[name] for name in params})),
        "a damping of 1e-6": pb.damped(RIGHT, 1e-6),
        "only the diagonal blocks": pb.batch_operation(blocks),
        "only the diagonal": pb.batch_operation(diagonal),
        "another matrix": pb.hessian(loss),
        "ignored buffers": pointed(lambda params, buffers, batch: (params, POINT[1], batch)),
        "params that are not looked at": pointed(
            lambda params, buffers, batch: ({k: POINT[0][k] for k in params}, buffers, batch)
        ),
        "only the first feature": pointed(lambda params, buffers, batch: (params, buffers, batch * torch.tensor([1.0, 0.0]))),
    },
    "forms": {
        "rows from the fifth on dropped": rows_changed(lambda rows: torch.cat([rows[:4], 0 * rows[4:]])),
        "rows from the fifth on mixed": rows_changed(lambda rows: torch.cat([rows[:4], rows[4:].flip(0)])),
        "the last of seven rows twice": rows_changed(lambda rows: torch.cat([rows[:6], 2 * rows[6:]])),
    },
    "derivative": {
        "a stopped gradient": pointed(lambda params, buffers, batch: (detached(params), buffers, batch)),
        "a stopped gradient of one parameter": pointed(lambda p, buffers, batch: (p | {"a": p["a"].detach()}, buffers, batch)),
        "a stopped gradient of the buffers": pointed(lambda params, buffers, batch: (params, detached(buffers), batch)),
        "a detached product": mapped(lambda params, batch, v, product: detached(product)),
        "a product without gradients": called(without_grad),
        "a wrong slope": mapped(wrong_slope),
    },
    "linear": {
        "v clipped at 10": called(lambda *arguments: RIGHT(*arguments[:3], map_leaves(clipped(10), arguments[3]))),
        "the product clipped at 100": mapped(lambda params, batch, v, product: map_leaves(clipped(100), product)),
        "a v bent at 1e4": mapped(
            lambda params, batch, v, product: map_leaves(lambda leaf: 1e4 * (leaf / 1e4).tanh(), product)
        ),
    },
    "split": {
        "samples after the eighth lost": pointed(lambda params, buffers, batch: (params, buffers, batch[:8])),
        "samples after the eighth not counted": mapped(lambda params, x, v, product: times(len(x) / min(len(x), 8), product)),
        "the last lost for n % 5 = 0": pointed(lambda params, buffers, x: (params, buffers, x[: len(x) - (len(x) % 5 == 0)])),
        "each other sample lost for n > 10": pointed(lambda params, buffers, x: (params, buffers, x[:: 1 + (len(x) > 10)])),
        "the last seen twice": mapped(lambda params, x, v, product: times(1 + (len(x) > 4) / len(x), product)),
    },
    "ensemble nested": {
        "the buffers of the first member": pointed(of_the_first_member),
        "the mean of the buffers of all members": pointed(of_all_members),
    },
}


def broken(check, laws, **options):
    """The laws that are broken, each with its message."""
    found = {}
    for law in laws:
        try:
            check(laws=law, **options)
        except AssertionError as error:
            found[law] = str(error)
    return found


def check_message(message, law, words):
    """It says the law, by name and in words, and below it what was found."""
    first, *found = message.splitlines()
    assert first == f"{law}: {words}"
    assert found[0].startswith("got ")


@pytest.mark.parametrize(("laws", "op"), ROWS)
def test_each_law_finds_the_operation_planted_against_it_and_it_alone(laws, op):
    found = broken(
        lambda **options: check_operation(op, PARAMS, BUFFERS, BATCH, semi_definite="semi_definite" in laws, **options),
        LAWS if laws == ["compiled"] else UNCOMPILED,
    )
    assert set(found) == set(laws)
    for law, message in found.items():
        check_message(message, law, inspect.getdoc(LAWS[law]))


@pytest.mark.parametrize(("laws", "name"), [(laws, name) for laws, ops in SUBTLE.items() for name in ops])
def test_subtly_wrong_operation_falls_for_exactly_the_laws_that_are_named(laws, name):
    op = SUBTLE[laws][name]
    found = broken(lambda **options: check_operation(op, *POINT, twin=dense_gauss_newton, **options), UNCOMPILED)
    assert set(found) == set(laws.split())
    for law, message in found.items():
        check_message(message, law, inspect.getdoc(LAWS[law]))


def test_right_operation_is_its_dense_twin_and_only_the_twin_needs_one():
    assert check_operation(RIGHT, *POINT, twin=dense_gauss_newton, laws="twin") == ("twin",)
    assert check_operation(RIGHT, *POINT, laws="twin") == ()
    with pytest.raises(AssertionError, match=r"got a twin of shape \(2, 2\) for 4 numbers"):
        check_operation(RIGHT, *POINT, twin=lambda *point: torch.eye(2), laws="twin")
    with pytest.raises(TypeError, match="twin must be a function, got Tensor"):
        check_operation(RIGHT, *POINT, twin=torch.eye(4))


def test_something_is_planted_against_every_law():
    assert {laws.split()[0] for laws in (*PLANTED, *SUBTLE)} == set(LAWS)
    assert {laws.split()[0] for laws in PLANTED_AVERAGES} == set(AVERAGE_LAWS)


def test_message_shows_the_number_that_differs_most_and_what_it_should_be():
    total = pb.batch_operation(lambda params, buffers, batch: lambda v: {"w": v["w"] * batch.sum(0)})
    point = ({"w": torch.ones(3, dtype=torch.float64)}, {}, torch.tensor([[0.0, 2.0, 0.5], [0.0, 1.0, 0.5]]).double())
    with pytest.raises(AssertionError, match=r"at 'w'\[1\] where .* is expected, a difference of .* is allowed; 2 of 3"):
        check_operation(total, *point, laws="split")


def right_operations(p):
    likelihood = pb.Likelihood(lambda outputs, noise: outputs + noise, lambda output, target: (output - target).square().sum())
    blocks = [[name for name in p.params if name.startswith(start)] for start in ("0", "2")]
    return {
        "hessian": (pb.hessian(p.loss), False),
        "gauss_newton": (pb.gauss_newton(p.loss), True),
        "inverse_harmonic_mean": (pb.inverse_harmonic_mean(p.loss, 0.3), True),
        "generalized_gauss_newton": (pb.generalized_gauss_newton(p.model, p.criterion), True),
        "monte_carlo_fisher": (pb.monte_carlo_fisher(p.model, likelihood), True),
        "damped": (pb.damped(pb.hessian(p.loss), 0.3), False),
        "block_diagonal": (pb.block_diagonal(pb.gauss_newton(p.loss), blocks), True),
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", right_operations(problem("perceptron")))
def test_right_operations_pass_every_law(name, dtype):
    p = problem("perceptron", 4)
    op, definite = right_operations(p)[name]
    laws = WITHOUT_TWIN - ({"split"} if name == "monte_carlo_fisher" else set())  # noise by place in the batch
    point = ({k: leaf.to(dtype) for k, leaf in p.params.items()}, p.buffers, (p.batch[0].to(dtype), p.batch[1]))
    checked = check_operation(op, *point, semi_definite=definite, laws=laws)
    assert set(checked) == laws - ({"semi_definite"} if not definite else set())


@compiles
def test_compiled_is_checked_of_a_right_operation():
    assert check_operation(RIGHT, PARAMS, BUFFERS, BATCH, laws="compiled") == ("compiled",)


def test_average_of_batches_is_an_operation_too():
    op = pb.averaged(RIGHT)
    laws = WITHOUT_TWIN - {"split", "semi_definite"}
    assert set(check_operation(op, PARAMS, BUFFERS, BATCHES, laws=laws)) == laws


def test_parameters_of_any_tree_and_of_two_dtypes_are_checked():
    def nested_loss(params, buffers, batch):
        first, (second, third) = params["z"], params["a"]
        return (batch @ first.float()).sin() * (batch @ second["w"] + third)

    params = {"z": torch.ones(2, dtype=torch.float16), "a": [{"w": torch.ones(2)}, torch.tensor(0.5)]}
    laws = WITHOUT_TWIN - {"semi_definite"}
    op = pb.hessian(nested_loss)
    checked = check_operation(op, params, None, BATCH, laws=laws, rtol=1e-2, atol=1e-2)
    assert set(checked) == laws - {"derivative"}  # the loss does not run in double precision
    alone = pb.gauss_newton(lambda params, buffers, batch: (batch["x"] @ params).cos())
    batch = {"x": BATCH, "name": "digits"}
    assert set(check_operation(alone, torch.ones(2), {}, batch, laws=laws)) == laws - {"key_order"}
    assert "split" not in check_operation(RIGHT, PARAMS, BUFFERS, BATCH[:1], laws=UNCOMPILED)


def average_of(average):
    """The average as the kit takes it: `average(pairs)` of pairs (product, batch)."""

    def mean_op(params, buffers, batches, v):
        return average((RIGHT(params, buffers, batch, v), batch) for batch in batches)

    return mean_op


def pydvl_point_average(pairs):
    """pyDVL 0.10's PointAveraging, as described: points read off the product, the first product not weighted."""
    total, points = None, 0
    for product, _ in pairs:
        n = product["a"].shape[0]
        total = product if total is None else map_leaves(lambda a, b, n=n: a + n * b, total, product)
        points += n
    return times(1 / points, total)


def of_the_last(pairs):
    return reduce(lambda _, pair: pair, pairs)[0]


def reading_twice(params, buffers, batches, v):
    count = sum(1 for _ in batches)
    total = reduce(lambda sum_, batch: map_leaves(torch.add, sum_, RIGHT(params, buffers, batch, v)), batches, times(0, v))
    return times(1 / count, total)


def reading_the_first(params, buffers, batches, v):
    return pb.averaged(RIGHT)(params, buffers, islice(batches, 2), v)


def zero_of_nothing(params, buffers, batches, v):
    products = pb.averaged(RIGHT)
    first = next(iter(batches := iter(batches)), None)
    return times(0, v) if first is None else products(params, buffers, chain([first], batches), v)


def writing_average(write):
    def mean_op(params, buffers, batches, v):
        mean = pb.averaged(RIGHT)(params, buffers, batches, v)
        write(batches, v)
        return mean

    return mean_op


PLANTED_AVERAGES = {
    "equal order whole": [average_of(pydvl_point_average)],
    "equal whole": [lambda *arguments: times(2, pb.averaged(RIGHT)(*arguments))],
    "order whole": [average_of(of_the_last)],
    "whole": [pb.averaged(RIGHT, weight=lambda batch: 1)],
    "once whole": [reading_twice],
    "once order whole": [reading_the_first],
    "lazy": [
        lambda params, buffers, batches, v: pb.averaged(RIGHT)(params, buffers, list(batches), v),
        average_of(lambda pairs: pb.point_average(list(pairs))),
    ],
    "empty": [zero_of_nothing],
    "untouched": [
        writing_average(lambda batches, v: isinstance(batches, list) and batches.pop()),
        writing_average(lambda batches, v: isinstance(batches, list) and batches[0].mul_(2)),
        writing_average(lambda batches, v: v["a"].zero_()),
    ],
}


@pytest.mark.parametrize(
    ("laws", "mean_op"), [(laws.split(), mean_op) for laws, planted in PLANTED_AVERAGES.items() for mean_op in planted]
)
def test_each_law_finds_the_average_planted_against_it_and_it_alone(laws, mean_op):
    found = broken(
        lambda **options: check_average(mean_op, RIGHT, PARAMS, BUFFERS, BATCHES, **options),
        AVERAGE_LAWS,
    )
    assert set(found) == set(laws)
    for law, message in found.items():
        check_message(message, law, inspect.getdoc(AVERAGE_LAWS[law]))


@pytest.mark.parametrize(
    "mean_op",
    [pb.averaged(RIGHT), pb.averaged(RIGHT, progress=iter), average_of(pb.point_average)],
    ids=["op", "tqdm", "pairs"],
)
def test_right_averages_pass_every_law(mean_op):
    assert check_average(mean_op, RIGHT, PARAMS, BUFFERS, iter(BATCHES)) == tuple(AVERAGE_LAWS)


def test_average_of_products_passes_every_law_but_that_of_any_split():
    def mean_op(params, buffers, batches, v):
        return pb.chunk_average(RIGHT(params, buffers, batch, v) for batch in batches)

    laws = AVERAGE_LAWS.keys() - {"whole"}
    assert set(check_average(mean_op, RIGHT, PARAMS, BUFFERS, BATCHES, laws=laws)) == laws
    ragged = [torch.zeros(1, 2), torch.zeros(1, 3)]
    op = pb.gauss_newton(lambda params, buffers, batch: batch.sum(1) * params)
    assert "whole" not in check_average(pb.averaged(op), op, torch.tensor(1.0), {}, ragged)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"laws": ["linear", "linaer"]}, ValueError, "laws must be among 'linear', 'symmetric', .* got 'linaer'"),
        ({"rtol": -1.0}, ValueError, "rtol must not be negative, got -1.0"),
        ({"seed": 0.5}, TypeError, "seed must be a whole number, got 0.5"),
        ({"batch_dim": None}, TypeError, "batch_dim must be the number of an axis, got None"),
    ],
)
def test_check_refuses_options_that_are_none(options, error, message):
    with pytest.raises(error, match=message):
        check_operation(RIGHT, PARAMS, BUFFERS, BATCH, **options)


def test_check_refuses_what_is_no_function_and_no_batches():
    with pytest.raises(TypeError, match="op must be a function, got NoneType"):
        check_operation(None, PARAMS, BUFFERS, BATCH)
    with pytest.raises(TypeError, match="mean_op must be a function, got int"):
        check_average(3, RIGHT, PARAMS, BUFFERS, BATCHES)
    with pytest.raises(ValueError, match="batches must hold at least one batch, got none"):
        check_average(pb.averaged(RIGHT), RIGHT, PARAMS, BUFFERS, iter([]))
