"""What an average knows of a batch, and what is known of a function, do not depend on how the functions are wrapped."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial, wraps

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812  # its usual name
from torch.testing import assert_close

import pure_batchops as pb
from pure_batchops.traits import traits_of
from tests.marks import compiles

PARAMS = {"w": torch.tensor([0.7, -0.3], dtype=torch.float64)}
V = {"w": torch.tensor([1.0, 2.0], dtype=torch.float64)}
SIZES = (2, 5, 1)
STEPS = (4, 3, 3)


def model(params, _, x):
    """Time steps on axis 0, samples on axis 1."""
    return (x * params["w"]).sum(-1).tanh()


def by_hand(params, _, batch):
    x, y = batch
    return ((x * params["w"]).sum(-1).tanh() - y).square().mean(0)


def decorated(function):
    @wraps(function)
    def same(*arguments):
        return function(*arguments)

    return same


LOSSES = {
    "sample_losses": pb.sample_losses(model, nn.MSELoss(), batch_dim=1),
    "by hand": by_hand,
    "declared": pb.declared(by_hand, batch_dim=1),
}
WRAPPERS = {
    "bare": lambda function: function,
    "lambda": lambda function: lambda *arguments: function(*arguments),
    "partial": partial,
    "decorator": decorated,
}
OPERATIONS = {
    "hessian": pb.hessian,
    "hessian, lazy": lambda loss: pb.hessian(loss, mode="reverse_over_forward"),
    "gauss_newton": pb.gauss_newton,
    "gauss_newton, unformed": lambda loss: pb.gauss_newton(loss, held=0),
    "inverse_harmonic_mean": lambda loss: pb.inverse_harmonic_mean(loss, 0.3),
    "damped": lambda loss: pb.damped(pb.hessian(loss), 0.3),
    "block_diagonal": lambda loss: pb.block_diagonal(pb.hessian(loss), ["w"]),
    "own": lambda loss: pb.batch_operation(lambda *point: pb.hessian(loss).at(*point)),
    "own, lazy": lambda loss: pb.batch_operation(lambda *point: lambda v: pb.hessian(loss)(*point, v)),
    "a sum": lambda loss: lambda *a: pb.tree_axpy(1, pb.hessian(loss)(*a), pb.gauss_newton(loss)(*a)),
}


@pytest.fixture
def batches():
    def batch(steps, n):
        return torch.randn(steps, n, 2, dtype=torch.float64), torch.randn(steps, n, dtype=torch.float64)

    return [batch(steps, n) for steps, n in zip(STEPS, SIZES, strict=True)]


def expected(op, batches):
    products = [op(PARAMS, {}, batch, V)["w"] for batch in batches]
    return {"w": sum(n * product for n, product in zip(SIZES, products, strict=True)) / sum(SIZES)}


def needs_axis(loss, operation):
    """The inverse harmonic mean takes samples out of the batch: a loss that does not say on which axis is refused."""
    return operation == "inverse_harmonic_mean" and traits_of(loss).batch_dim != 1


@pytest.mark.parametrize("around_op", WRAPPERS)
@pytest.mark.parametrize("around_loss", WRAPPERS)
@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("loss", LOSSES)
def test_average_weighs_by_the_losses_that_the_operation_saw(loss, operation, around_loss, around_op, batches):
    wrapped = WRAPPERS[around_loss](LOSSES[loss])
    op = WRAPPERS[around_op](OPERATIONS[operation](wrapped))
    if needs_axis(wrapped, operation):
        with pytest.raises(ValueError, match="along axis 0"):
            pb.averaged(op)(PARAMS, {}, batches, V)
    else:
        assert_close(pb.averaged(op)(PARAMS, {}, batches, V), expected(op, batches))


@pytest.mark.parametrize("around_op", WRAPPERS)
@pytest.mark.parametrize("around_loss", WRAPPERS)
def test_average_with_error_and_average_from_a_file_weigh_by_the_same_losses(around_loss, around_op, batches, tmp_path):
    op = WRAPPERS[around_op](pb.hessian(WRAPPERS[around_loss](by_hand)))
    with_error = pb.averaged_with_error(op)(PARAMS, {}, batches, V)
    assert_close(with_error.value, expected(op, batches))
    resumable = pb.resumable(op, tmp_path / "state.pt", every=1)
    resumable(PARAMS, {}, batches[:2], V)
    assert_close(resumable(PARAMS, {}, batches, V), expected(op, batches))


def test_average_of_a_vmapped_operation_counts_the_samples_of_a_member(batches):
    ensemble = {"w": torch.stack([PARAMS["w"], 2 * PARAMS["w"]])}
    op = torch.vmap(pb.hessian(LOSSES["by hand"]), in_dims=(0, None, None, None))
    alone = [pb.averaged(pb.hessian(LOSSES["by hand"]))({"w": w}, {}, batches, V)["w"] for w in ensemble["w"]]
    assert_close(pb.averaged(op)(ensemble, {}, batches, V)["w"], torch.stack(alone))


def test_average_of_averages_weighs_groups_by_their_points(batches):
    op = pb.hessian(LOSSES["by hand"])
    groups = [batches[:1], batches[1:]]
    assert_close(pb.averaged(pb.averaged(op))(PARAMS, {}, groups, V), expected(op, batches))


@pytest.mark.parametrize(
    "op",
    [
        lambda params, buffers, batch, v: v,
        pb.hessian(lambda params, buffers, batch: by_hand(params, buffers, batch).mean()),
        lambda *a: [pb.hessian(by_hand)(*a), pb.hessian(lambda *p: by_hand(*p)[:1])(*a)][0],
    ],
    ids=["bare function", "one number", "two numbers"],
)
def test_weight_that_cannot_be_known_is_asked_for(op, batches):
    with pytest.raises(ValueError, match=r"must know how many samples a batch holds.*give weight="):
        pb.averaged(op)(PARAMS, {}, batches, V)
    by_samples = pb.averaged(op, weight=lambda batch: pb.n_points(batch, 1))
    assert_close(by_samples(PARAMS, {}, batches, V), expected(op, batches))


def test_own_operation_that_takes_samples_apart_is_counted_along_the_axis_it_declares(batches):
    loss = LOSSES["sample_losses"]

    def gradient(params, buffers, *sample):
        return torch.func.grad(lambda p: loss(p, buffers, sample)[0])(params)["w"]

    def at(params, buffers, batch):  # one sample at a time: no call sees all losses
        pairs = zip(*(part.split(1, 1) for part in batch), strict=True)
        rows = [gradient(params, buffers, *sample) for sample in pairs]
        return lambda v: {"w": sum(row * (row @ v["w"]) for row in rows) / len(rows)}

    silent, says = pb.batch_operation(at), pb.batch_operation(at, batch_dim=1)
    assert_close(pb.averaged(says)(PARAMS, {}, batches, V), expected(says, batches))
    with pytest.raises(ValueError, match="give weight="):
        pb.averaged(silent)(PARAMS, {}, batches, V)


def test_threads_do_not_mix_their_counts(batches):
    op = pb.averaged(pb.hessian(LOSSES["by hand"]))
    orders = [batches, batches[::-1], batches[1:] + batches[:1]] * 8
    with ThreadPoolExecutor(4) as pool:
        for product in pool.map(lambda order: op(PARAMS, {}, order, V), orders):
            assert_close(product, expected(pb.hessian(by_hand), batches))


@compiles
def test_average_of_a_compiled_operation_weighs_by_its_losses(batches):
    op = pb.hessian(LOSSES["by hand"])
    for compiled in (torch.compile(op, fullgraph=True, backend="eager"), torch.compile(pb.hessian(by_hand), backend="eager")):
        assert_close(pb.averaged(compiled)(PARAMS, {}, batches, V), expected(op, batches))
        assert_close(pb.averaged(lambda *a, op=compiled: op(*a))(PARAMS, {}, batches, V), expected(op, batches))
    whole = torch.compile(pb.averaged(op), fullgraph=True, backend="eager")
    assert_close(whole(PARAMS, {}, batches, V), expected(op, batches))


@pytest.mark.parametrize(
    "around", [lambda op: pb.damped(op, 0.2), lambda op: pb.block_diagonal(op, ["w"])], ids=["damped", "block_diagonal"]
)
def test_lissa_takes_the_same_single_batches_of_whatever_is_made_of_an_average(around, batches):
    op = pb.gauss_newton(by_hand)
    outside, inside = (pb.lissa(mean, 0.1, scale=3.0, depth=20) for mean in (around(pb.averaged(op)), pb.averaged(around(op))))
    assert_close(outside(PARAMS, {}, batches, V), inside(PARAMS, {}, batches, V))
    whole = pb.lissa(lambda *arguments: around(pb.averaged(op))(*arguments), 0.1, scale=3.0, depth=20)
    assert (whole(PARAMS, {}, batches, V)["w"] - inside(PARAMS, {}, batches, V)["w"]).norm() > 1e-3  # another algorithm


def test_decorator_that_mixes_samples_does_not_inherit_that_they_are_independent():
    loss = pb.sample_losses(nn.Linear(3, 2).double(), nn.MSELoss())
    assert traits_of(loss).independent
    assert traits_of(partial(loss)).independent

    @wraps(loss)
    def mixed(*arguments):
        values = loss(*arguments)
        return values + values.mean() ** 2

    assert not traits_of(mixed).independent
    params = {name: torch.randn_like(p) for name, p in nn.Linear(3, 2).double().named_parameters()}
    batch = torch.randn(4, 3).double(), torch.randn(4, 2).double()
    rows = torch.func.jacrev(mixed)(params, {}, batch)
    flat = torch.cat([rows[name].flatten(1) for name in params], 1)
    assert_close(pb.dense(pb.gauss_newton(mixed))(params, {}, batch), flat.mT @ flat / 4)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [({"batch_dim": 1.0}, TypeError, "batch_dim"), ({"independent": 1}, TypeError, "independent must be True or False")],
)
def test_facts_of_another_kind_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        pb.declared(by_hand, **options)


def test_declared_function_keeps_its_products_and_its_at():
    op = pb.declared(pb.hessian(by_hand), batch_dim=1)
    batch = torch.randn(3, 2, 2, dtype=torch.float64), torch.randn(3, 2, dtype=torch.float64)
    assert_close(op.at(PARAMS, {}, batch)(V), op(PARAMS, {}, batch, V))


def in_chunks(size):
    """The Hessian, a chunk of samples at a time: the samples lie on axis 1."""
    op = pb.hessian(LOSSES["by hand"])

    def product(params, buffers, batch, v):
        n = batch[1].shape[1]
        parts = zip(*(part.split(size, 1) for part in batch), strict=True)
        return {"w": sum(op(params, buffers, part, v)["w"] * part[1].shape[1] for part in parts) / n}

    return product


@pytest.mark.parametrize("size", [1, 2, 3])
def test_operation_that_takes_the_batch_in_parts_is_asked_for_the_weight(size):
    data = torch.randn(5, 14, 2, dtype=torch.float64), torch.randn(5, 14, dtype=torch.float64)
    batches = list(zip(*(part.split([8, 4, 2], 1) for part in data), strict=True))
    with pytest.raises(ValueError, match="takes the batch in parts.*give weight="):
        pb.averaged(in_chunks(size))(PARAMS, {}, batches, V)
    mean = pb.averaged(in_chunks(size), weight=lambda batch: pb.n_points(batch, 1))
    assert_close(mean(PARAMS, {}, batches, V), pb.hessian(by_hand)(PARAMS, {}, data, V))


def test_operation_on_some_tensors_of_a_batch_is_believed(batches):
    op = pb.hessian(LOSSES["by hand"])
    dicts = [{"x": x, "y": y, "of all": torch.ones(7)} for x, y in batches]
    mean = pb.averaged(lambda params, buffers, batch, v: op(params, buffers, (batch["x"], batch["y"]), v))
    assert_close(mean(PARAMS, {}, dicts, V), expected(op, batches))


def sequence_first(params, _, batch):
    x, y = batch
    hidden = torch.tanh(F.linear(x, params["w"], params["b"]))
    return (F.linear(hidden, params["v"])[..., 0] - y).square().sum(0)


def samples_first(params, buffers, batch):
    return sequence_first(params, buffers, (batch[0].movedim(1, 0), batch[1].T))


def prototypes(params, buffers, batch):
    codes = F.linear(buffers["codes"], params["w"], params["b"])
    return (F.linear(batch[0], params["w"], params["b"]) @ codes.T).square().sum(1) + 0 * params["v"].sum()


def turned_round(params, _, batch):
    return F.linear(F.linear(batch[0].flip(0), params["w"], params["b"]).sin(), params["v"])[:, 0].flip(0)


@pytest.mark.parametrize(
    ("loss", "batch_dim", "shape"),
    [(sequence_first, 1, (4, 4, 3)), (samples_first, 0, (4, 4, 3)), (prototypes, 0, (4, 3)), (turned_round, 0, (4, 3))],
)
def test_layers_whose_rows_are_no_samples_are_not_taken_for_them(loss, batch_dim, shape):
    """The samples are independent, as declared, but row i of a layer does not belong to sample i."""
    shapes = {"w": (5, 3), "b": (5,), "v": (1, 5)}
    params = {name: torch.randn(shape, dtype=torch.float64) for name, shape in shapes.items()}
    buffers = {"codes": torch.randn(4, 3, dtype=torch.float64)}
    batch = torch.randn(shape, dtype=torch.float64), torch.randn(4, 4, dtype=torch.float64)
    rows = torch.func.jacrev(loss)(params, buffers, batch)
    declared = pb.declared(loss, independent=True, batch_dim=batch_dim)
    assert_close(pb.sample_gradients(declared)(params, buffers, batch), rows)


@pytest.mark.parametrize("mode", ["reverse_over_reverse", "forward_over_reverse", "reverse_over_forward", "finite_difference"])
def test_no_vectors_count_the_samples_too(mode):
    op = pb.averaged(pb.hessian(lambda params, buffers, x: (params * x).square().sum(1) / 2, mode=mode))
    batches = [torch.ones(3, 2), torch.ones(3, 2)]
    assert op(torch.zeros(2), {}, batches, torch.zeros(0, 2)).shape == (0, 2)
    solved = pb.lissa(op, 1.0, scale=5.0, depth=100)(torch.zeros(2), {}, batches, torch.ones(2))
    assert_close(solved, torch.tensor([0.5, 0.5]))
