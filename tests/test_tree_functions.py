"""Trees added, multiplied, measured and drawn; a stacked state taken apart; the version."""

from collections import OrderedDict, namedtuple

import pytest
import torch
from torch.func import grad, jvp
from torch.testing import assert_close

import pure_batchops as pb
from tests.marks import compiles

Pair = namedtuple("Pair", ["left", "right"])


def draw(seed, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return {
        "w": torch.randn(2, 3, generator=generator, dtype=dtype),
        "inner": Pair(torch.randn((), generator=generator, dtype=dtype), [torch.randn(4, generator=generator, dtype=dtype)]),
    }


def column(tree):
    return torch.cat([tree["w"].flatten(), tree["inner"].left[None], tree["inner"].right[0]])


X, Y = draw(0), draw(1)
TURNED = {"inner": X["inner"], "w": X["w"]}


@pytest.mark.parametrize("x", [X, TURNED, OrderedDict(TURNED)], ids=["same order", "turned", "another dict"])
def test_functions_are_those_of_the_numbers_in_one_column(x):
    total = pb.tree_axpy(-0.3, x, Y)
    assert type(total) is dict
    assert list(total) == list(Y)
    assert type(total["inner"]) is Pair
    assert_close(column(total), -0.3 * column(X) + column(Y))
    assert_close(column(pb.tree_axpy(torch.tensor(2.0), x, Y)), 2 * column(X) + column(Y))
    assert_close(pb.tree_inner_product(x, Y), column(X) @ column(Y))
    assert_close(pb.tree_norm(x), column(X).norm())


def test_a_tensor_is_a_tree():
    x, y = torch.tensor([3.0, 4.0]), torch.ones(2)
    assert_close(pb.tree_axpy(2, x, y), torch.tensor([7.0, 9.0]))
    assert_close(pb.tree_inner_product(x, y), torch.tensor(7.0))
    assert_close(pb.tree_norm(x), torch.tensor(5.0))


def test_sums_are_in_at_least_single_precision():
    halves = {"w": torch.full((3000,), 20.0, dtype=torch.float16), "b": torch.ones((), dtype=torch.bfloat16)}
    for value, expected in ((pb.tree_norm(halves), 1200001**0.5), (pb.tree_inner_product(halves, halves), 1200001.0)):
        assert value.dtype == torch.float32
        assert_close(value, torch.tensor(expected))
    mixed = {"w": torch.ones(2, dtype=torch.float16), "b": torch.ones(2, dtype=torch.float64)}
    assert pb.tree_norm(mixed).dtype == pb.tree_inner_product(mixed, mixed).dtype == torch.float64


def test_functions_can_be_differentiated_and_mapped():
    assert_close(grad(pb.tree_inner_product)(X, Y), Y)
    assert_close(grad(lambda x: pb.tree_norm(x))(X), pb.tree_axpy(1 / column(X).norm() - 1, X, X))
    zeros = pb.tree_axpy(-1, X, X)
    assert_close(grad(pb.tree_norm)(zeros), zeros)
    assert_close(
        grad(lambda scale: pb.tree_inner_product(pb.tree_axpy(scale, X, Y), Y))(torch.tensor(2.0)).double(),
        column(X) @ column(Y),
        rtol=1e-6,
        atol=1e-6,
    )  # the scale is in single precision
    assert_close(jvp(pb.tree_norm, (X,), (Y,))[1], column(X) @ column(Y) / column(X).norm())
    scales, many = torch.tensor([0.5, 2.0], dtype=torch.float64), pb.stack_states([(X, {}), (Y, {})])[0]
    totals = torch.vmap(pb.tree_axpy, in_dims=(0, 0, None))(scales, many, Y)
    for i, x in enumerate((X, Y)):
        assert_close(pb.unstack_states((totals, {}))[i][0], pb.tree_axpy(scales[i], x, Y))
    assert_close(torch.vmap(pb.tree_norm)(many), torch.stack([pb.tree_norm(X), pb.tree_norm(Y)]))
    products = torch.vmap(pb.tree_inner_product, in_dims=(0, None))(many, Y)
    assert_close(products, torch.stack([column(X) @ column(Y), column(Y) @ column(Y)]))


@compiles
def test_functions_compile():
    def angle(x, y):
        v = pb.tree_axpy(0.1, pb.tree_random(x, 3), y)
        return pb.tree_inner_product(x, v) / (pb.tree_norm(x) * pb.tree_norm(v))

    flat = {"w": X["w"], "b": X["inner"].left}
    other = {"w": Y["w"], "b": Y["inner"].left}
    assert_close(torch.compile(angle, fullgraph=True, backend="aot_eager")(flat, other), angle(flat, other))


@pytest.mark.parametrize(
    ("x", "y", "error", "message"),
    [
        ({"a": torch.ones(2)}, {"b": torch.ones(2)}, ValueError, "x must have the leaves 'b'; missing 'b'; not expected 'a'"),
        ({"a": torch.ones(2)}, {"a": torch.ones(1)}, ValueError, r"the same shapes, got \(2,\) and \(1,\) at 'a'"),
        ({"a": 1.0}, {"a": torch.ones(())}, TypeError, "x must be a tensor or a tree of tensors, got float at 'a'"),
        ({"a": torch.ones(())}, {"a": None}, TypeError, "y must be a tensor or a tree of tensors, got NoneType at 'a'"),
    ],
)
def test_trees_that_do_not_match_are_refused(x, y, error, message):
    with pytest.raises(error, match=message):
        pb.tree_axpy(1.0, x, y)
    with pytest.raises(error, match=message):
        pb.tree_inner_product(x, y)


def test_nothing_has_no_norm():
    for call in (lambda: pb.tree_norm({}), lambda: pb.tree_inner_product({}, {})):
        with pytest.raises(ValueError, match="at least one tensor"):
            call()


def test_random_trees_are_normal_and_depend_on_the_seed_alone():
    like = {"w": torch.zeros(40, 50), "b": torch.zeros(7, dtype=torch.float64), "h": torch.zeros(3, dtype=torch.bfloat16)}
    many = pb.tree_random(like, seed=5, count=20)
    assert {name: leaf.shape for name, leaf in many.items()} == {name: (20, *leaf.shape) for name, leaf in like.items()}
    assert {name: leaf.dtype for name, leaf in many.items()} == {name: leaf.dtype for name, leaf in like.items()}
    numbers = many["w"].flatten()
    assert abs(numbers.mean()) < 0.02
    assert abs(numbers.std() - 1) < 0.02
    assert abs(torch.corrcoef(many["w"].flatten(1))[0, 1]) < 0.1
    torch.manual_seed(0)
    first = pb.tree_random(like, seed=5)
    assert {name: leaf.shape for name, leaf in first.items()} == {name: leaf.shape for name, leaf in like.items()}
    assert_close(first, pb.tree_random({name: leaf + 1 for name, leaf in like.items()}, 5), rtol=0, atol=0)
    assert not torch.equal(first["w"], pb.tree_random(like, 6)["w"])
    mapped = torch.vmap(lambda w: pb.tree_random({**like, "w": w}, 5)["w"])(torch.ones(2, 40, 50))
    assert_close(mapped[1], first["w"], rtol=0, atol=0)


def test_random_trees_refuse_what_has_no_normal_numbers():
    with pytest.raises(TypeError, match="like must be a tree of floating-point tensors, got torch.int64 at 'a'"):
        pb.tree_random({"a": torch.arange(2)})
    with pytest.raises(ValueError, match="seed must be at least 0"):
        pb.tree_random(X, -1)
    with pytest.raises(ValueError, match="count must be at least 1"):
        pb.tree_random(X, count=0)
    assert pb.tree_random({}) == {}


def test_unstacked_states_are_the_members_as_views():
    members = [({"w": torch.full((2,), float(i))}, {"mean": torch.tensor(float(-i))}) for i in range(3)]
    stacked = pb.stack_states(members)
    unstacked = pb.unstack_states(stacked)
    assert_close(unstacked, members)
    unstacked[1][0]["w"].zero_()
    assert_close(stacked[0]["w"][1], torch.zeros(2))
    assert_close(pb.stack_states(pb.unstack_states(stacked)), stacked)
    without = pb.unstack_states((torch.ones(2, 3), {}))
    assert_close(without, [(torch.ones(3), {})] * 2)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"w": torch.ones(2)}, r"state must be a pair \(params, buffers\), got dict"),
        (({}, {}), "got no tensor"),
        (({"w": torch.ones(2)}, {"m": torch.ones(3)}), "got 2 at 'w' of params, 3 at 'm' of buffers"),
        (({"w": torch.ones(2)}, {"m": torch.ones(())}), "one length on every leaf.*none at 'm' of buffers"),
        (({"w": torch.ones(0, 2)}, {}), "got none at 'w' of params"),
    ],
)
def test_state_without_one_leading_axis_is_refused(state, message):
    with pytest.raises(ValueError, match=message):
        pb.unstack_states(state)


def test_version_is_that_of_the_installed_package():
    assert pb.__version__[0].isdigit()


def test_random_tree_of_a_mapped_seed_is_that_of_each_seed():
    like = {"w": torch.zeros(2, 3), "b": torch.zeros(3)}
    mapped = torch.vmap(lambda seed: pb.tree_random(like, seed), randomness="error")(torch.tensor([0, 3]))
    for i, seed in enumerate((0, 3)):
        assert_close({name: leaf[i] for name, leaf in mapped.items()}, pb.tree_random(like, seed), rtol=0, atol=0)
