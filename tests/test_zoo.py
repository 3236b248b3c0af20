"""Every law meets every model of the zoo, at numbers that are not the module's own."""

import contextlib
from functools import cached_property, lru_cache

import pytest
import torch
from torch.testing import assert_close

import pure_batchops as pb
from pure_batchops.noise import uniform
from tests.marks import compiles
from tests.zoo import COMPILED, DIFFERENTIATED, ROWS
from tests.zoo_rows import EVERY_LAW, NAN
from tests.zoo_twin import LAMBDA, Twin, cut, tensors_in

SEED = 5  # of the sampled Fisher


@contextlib.contextmanager
def double_precision():
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(default)


def anew(tensor):
    """Other numbers than those of the module: scales stay positive, and labels and masks stay as they are."""
    if not tensor.is_floating_point():
        return tensor.clone()
    return tensor * (0.8 + 0.4 * torch.rand_like(tensor))


class Case:
    """A row at a point, with its losses and operations and their twins."""

    def __init__(self, name):
        self.row = ROWS[name]
        self.built = self.build()
        self.point, self.other = self.draw(1), self.draw(2)
        self.batch, self.model = self.built.batch, self.built.model
        self.forward = self.model if self.built.forward is None else self.built.forward
        self.numbers = sum(leaf.numel() for leaf in self.point[0].values())
        self.v = torch.randn(3, self.numbers, dtype=torch.float64)
        self.twin = self.twin_at(self.point)

    def build(self):
        torch.manual_seed(0)
        with double_precision():
            return self.row.build()

    def draw(self, seed):
        torch.manual_seed(seed)
        params, buffers = pb.functional_state(self.built.model, self.built.restrict_to)
        params = {name: 0.8 * leaf + 0.3 * torch.randn_like(leaf) for name, leaf in params.items()}
        return params, {name: anew(leaf) for name, leaf in buffers.items()}

    def twin_at(self, point):
        return Twin(self.build(), *point, mixes=self.row.mixes)

    @cached_property
    def twin_of_other(self):
        return self.twin_at(self.other)

    @cached_property
    def loss(self):
        b = self.built
        return b.loss if b.loss is not None else pb.sample_losses(self.forward, b.criterion, b.batch_dim)

    def operation(self, name, **options):
        b = self.built
        if name == "generalized_gauss_newton":
            return pb.generalized_gauss_newton(self.forward, b.criterion, batch_dim=b.batch_dim)
        if name == "inverse_harmonic_mean":
            return pb.inverse_harmonic_mean(self.loss, LAMBDA, **options)
        return getattr(pb, name)(self.loss, **options)

    def close(self, actual, expected):
        assert_close(actual, expected, **self.row.tolerance)

    @property
    def parts(self):
        """Two batches of unequal lengths."""
        if self.built.parts is not None:
            return self.built.parts
        return [cut(self.batch, start, size, self.built.batch_dim) for start, size in ((0, 1), (1, self.twin.n - 1))]


case = lru_cache(maxsize=1)(Case)  # the tests of a row stand together


def product(name, **options):
    def law(c):
        c.close(c.operation(name, **options)(*c.point, c.batch, c.v), getattr(c.twin, name)(c.v))

    return law


def finite_difference(c):
    """Differences are exact relative to the largest number."""
    found, expected = c.operation("hessian", mode="finite_difference")(*c.point, c.batch, c.v), c.twin.hessian(c.v)
    scale = expected.abs().max()
    assert_close(found / scale, expected / scale, rtol=0.0, atol=1e-4)


def ensemble(name):
    def law(c):
        states = pb.stack_states([c.point, c.other])
        found = torch.vmap(c.operation(name), in_dims=(0, 0, None, None))(*states, c.batch, c.v)
        c.close(found, torch.stack([getattr(twin, name)(c.v) for twin in (c.twin, c.twin_of_other)]))

    return law


def average(name):
    def law(c):
        mean_op = pb.averaged(c.operation(name))
        c.close(mean_op(*c.point, iter(c.parts), c.v), getattr(c.twin, name)(c.v))

    return law


def forms(name):
    """No vector, one, and a tree in another order, all at one point."""

    def law(c):
        multiply, expected = c.operation(name).at(*c.point, c.batch), getattr(c.twin, name)(c.v)
        assert multiply(c.v[:0]).shape == (0, c.numbers)
        c.close(multiply(c.v[:1]), expected[:1])
        params = c.point[0]
        found = multiply(dict(reversed(pb.unflatten(params, c.v[1]).items())))
        assert list(found) == list(params)
        c.close(pb.flatten(params, found), expected[1])

    return law


def one_vector(c):
    """A vector (D,), for which forward mode may serve."""
    found = c.operation("generalized_gauss_newton")(*c.point, c.batch, c.v[0])
    c.close(found, c.twin.generalized_gauss_newton(c.v[:1])[0])


def losses(c):
    expected = c.twin.losses(c.batch, c.twin.n).detach()
    c.close(c.loss(*c.point, c.batch), expected)


def sample_gradients(c):
    found = pb.sample_gradients(c.loss)(*c.point, c.batch)
    rows = torch.cat([leaf.reshape(c.twin.n, -1) for leaf in found.values()], 1)
    c.close(rows, c.twin.once(c.twin.gradients))


def half_squares(output, target):
    return (output - target).square().sum() / 2


def monte_carlo_fisher(c):
    axis = c.built.batch_dim
    likelihood = pb.Likelihood(lambda output, noise: output.tanh() + noise, half_squares)
    op = pb.monte_carlo_fisher(c.forward, likelihood, samples=2, seed=SEED, batch_dim=axis)
    found = op(*c.point, c.batch, c.v)
    c.close(op(*c.point, c.batch, c.v[0]), found[0])
    output = torch.cat([output for output, _ in c.twin.once(c.twin.jacobians)], axis)
    rows = output.movedim(axis, 0)
    noise = uniform(SEED, (2, *rows.shape), like=rows).movedim(1, 1 + axis)
    c.close(found, c.twin.sampled_fisher(c.v, noise))


OF_LOSSES = ("hessian", "gauss_newton", "inverse_harmonic_mean")
OPERATIONS = (*OF_LOSSES, "generalized_gauss_newton")
MODES = ("forward_over_reverse", "reverse_over_forward")
LAWS = {
    "losses": losses,
    **{name: product(name) for name in OPERATIONS},
    **{f"hessian {mode}": product("hessian", mode=mode) for mode in MODES},
    "hessian finite_difference": finite_difference,
    **{f"{name} held=0": product(name, held=0) for name in OF_LOSSES[1:]},
    "gauss_newton held=7": product("gauss_newton", held=7),
    "generalized_gauss_newton one vector": one_vector,
    "monte_carlo_fisher": monte_carlo_fisher,
    "sample_gradients": sample_gradients,
    **{f"forms {name}": forms(name) for name in OPERATIONS},
    **{f"averaged {name}": average(name) for name in OPERATIONS},
    **{f"ensemble {name}": ensemble(name) for name in OPERATIONS},
}


def state_of(c):
    """Everything of the user's that an operation must leave as it is."""
    modules = list(c.model.modules())
    own = [{key: id(value) for key, value in vars(module).items()} for module in modules]
    parts = [
        {key: id(value) for key, value in part.items()}
        for module in modules
        for part in vars(module).values()
        if isinstance(part, dict)
    ]
    wanted = [tensor.requires_grad for tensor in c.model.parameters()], [tensor.grad for tensor in c.model.parameters()]
    return own, parts, [module.training for module in modules], wanted


def numbers_of(c):
    return [tensor.detach().clone() for tensor in [*c.model.state_dict().values(), *tensors_in((*c.point, c.batch))]]


@contextlib.contextmanager
def unchanged(c):
    state, numbers = state_of(c), numbers_of(c)
    yield
    assert state_of(c) == state, "the module was changed"
    assert all(torch.equal(a, b) for a, b in zip(numbers, numbers_of(c), strict=True)), "numbers were changed"


PAIRS = [(row, law) for row in ROWS for law in LAWS if law not in ROWS[row].without]


@pytest.mark.parametrize(("row", "law"), PAIRS, ids=lambda name: name.replace(" ", "_"))
def test_law_holds(row, law):
    c = case(row)
    message = c.row.refused.get(law, c.row.refused.get(EVERY_LAW))
    with unchanged(c):
        if message is None:
            LAWS[law](c)
        elif message is NAN:
            with pytest.raises(AssertionError, match="nan"):
                LAWS[law](c)
        else:
            with pytest.raises((ValueError, TypeError), match=message):
                LAWS[law](c)


@pytest.mark.parametrize(("row", "name"), DIFFERENTIATED, ids=lambda name: name.replace(" ", "_"))
def test_derivative_of_a_product_is_that_of_finite_differences(row, name):
    c = case(row)
    op, params, buffers = c.operation(name), *c.point
    direction = pb.unflatten(params, c.v[1])
    v, w = c.v[:1], c.v[2]

    def number(params):
        return op(params, buffers, c.batch, v)[0] @ w

    def along(step):
        twin = c.twin_at(({key: leaf + step * direction[key] for key, leaf in params.items()}, buffers))
        return getattr(twin, name)(v)[0] @ w

    slope = pb.flatten(params, torch.func.grad(number)(params)) @ c.v[1]
    near, far = (along(step) - along(-step) for step in (2e-4, 4e-4))
    finite = (8 * near - far) / 24e-4  # exact to step⁴
    scale = 1 + finite.abs()
    assert_close(slope / scale, finite / scale, rtol=1e-5, atol=1e-5)  # the rounding of finite differences


@compiles
@pytest.mark.parametrize(("row", "name"), COMPILED, ids=lambda name: name.replace(" ", "_"))
def test_compiled_is_the_twin(row, name):
    torch._dynamo.reset()
    c = case(row)
    compiled = torch.compile(c.operation(name), fullgraph=True, backend="aot_eager")
    with unchanged(c):
        c.close(compiled(*c.point, c.batch, c.v[0]), getattr(c.twin, name)(c.v[:1])[0])
