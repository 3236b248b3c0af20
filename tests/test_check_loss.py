"""The laws of a loss: each finds the loss that was planted against it, and it alone; right losses pass them all."""

import inspect

import pytest
import torch
from torch import nn

import pure_batchops as pb
from pure_batchops.testing import LOSS_LAWS, check_loss
from tests.strategies import KINDS, problem

PARAMS = {"a": torch.tensor([0.5, -1.0]), "gate": torch.tensor(0.0)}  # float32, as in a notebook
BUFFERS = {"shift": torch.tensor(0.5)}
BATCH = {
    "x": torch.tensor([[-0.7, 1.0], [0.1, 0.4], [0.2, 0.8], [0.9, -0.6], [1.5, 1.1]]),  # sorted by its first column
    "weights": torch.tensor([0.5, 2.0]),
    "name": "five samples",
}
HEAD = nn.Linear(2, 1)


def right(params, buffers, batch):
    values = (batch["x"] @ params["a"] + buffers["shift"]).sin() * batch["weights"].sum()
    return (values + params["gate"] * batch["x"][:, 0]).square()


def spoiled(function):
    """A loss that is wrong, `function(params, buffers, batch, right losses)`."""
    return lambda params, buffers, batch: function(params, buffers, batch, right(params, buffers, batch))


def seeding(params, buffers, batch, values):
    torch.manual_seed(0)
    return values


def numbered():
    calls = []

    def loss(params, buffers, batch, values):
        calls.append(0)
        return values * (1 + 0.1 * (len(calls) % 7))

    return loss


def emptied(params, buffers, batch, values):
    batch.pop("name", None)
    return values


def written(params, buffers, batch):
    batch["x"].add_(0)
    return right(params, buffers, batch)


def unsorted(params, buffers, batch, values):
    """Samples meet as soon as they are not sorted."""
    first = batch["x"][:, 0]
    return values + (first[:-1] - first[1:]).relu().sum()


def read_in_python(params, buffers, batch, values):
    return values if params["a"].detach().sum().item() < 100 else -values


def batch_norm(params, buffers, batch, values):
    x = batch["x"]
    return values + (((x - x.mean(0)) / (x.var(0, unbiased=False) + 1e-5).sqrt()) @ params["a"]).square()


def softmax_over_the_batch(params, buffers, batch, values):
    return values.log_softmax(0)


PLANTED = {  # the law planted against, then whatever else cannot hold without it
    "shape independent order repeatable depends closed ensemble": [
        spoiled(lambda params, buffers, batch, values: values.mean()),
        spoiled(lambda params, buffers, batch, values: values[:, None]),
        spoiled(lambda params, buffers, batch, values: values.round().long()),
        spoiled(lambda params, buffers, batch, values: values.tolist()),
    ],
    "shape independent order": [spoiled(lambda params, buffers, batch, values: torch.cat([values, 2 * values]))],
    "repeatable": [spoiled(seeding)],
    "repeatable independent order ensemble": [
        spoiled(lambda params, buffers, batch, values: values + 0.1 * torch.rand(len(values))),
        spoiled(numbered()),
    ],
    "repeatable ensemble": [spoiled(lambda params, buffers, batch, values: values + 0 * torch.rand(()))],
    "untouched": [spoiled(emptied), written],
    "depends": [
        lambda params, buffers, batch: batch["x"].square().sum(1),
        lambda params, buffers, batch: right({name: leaf.detach() for name, leaf in params.items()}, buffers, batch),
    ],
    "closed": [spoiled(lambda params, buffers, batch, values: values + HEAD.weight.square().sum().to(values))],
    "closed depends": [lambda params, buffers, batch: HEAD(batch["x"].float())[:, 0].square()],
    "independent": [
        spoiled(lambda params, buffers, batch, values: values - values.mean()),
        spoiled(lambda params, buffers, batch, values: values + params["gate"] * values.mean()),
        spoiled(lambda params, buffers, batch, values: values + params["gate"] ** 2 * values.mean()),
        spoiled(lambda params, buffers, batch, values: values + 1e-4 * values.mean()),
        spoiled(lambda params, buffers, batch, values: values / len(values)),
        spoiled(batch_norm),
        spoiled(softmax_over_the_batch),
    ],
    "independent order": [
        spoiled(lambda params, buffers, batch, values: values * torch.arange(1.0, 1 + len(values)).to(values)),
        spoiled(lambda params, buffers, batch, values: values.cumsum(0)),
    ],
    "order": [spoiled(unsorted)],
    "ensemble": [spoiled(read_in_python)],
}
ROWS = [
    pytest.param(laws.split(), loss, id=f"{laws}-{i}") for laws, losses in PLANTED.items() for i, loss in enumerate(losses)
]


@pytest.mark.parametrize(("laws", "loss"), ROWS)
def test_each_law_finds_the_loss_planted_against_it_and_it_alone(laws, loss):
    broken = {}
    for law in LOSS_LAWS:
        try:
            check_loss(loss, PARAMS, BUFFERS, BATCH, laws=law)
        except AssertionError as error:
            broken[law] = str(error)
    assert set(broken) == set(laws)
    for law, message in broken.items():
        first, *found = message.splitlines()
        assert first == f"{law}: {inspect.getdoc(LOSS_LAWS[law])}"
        assert found[0].startswith("got ")


def test_something_is_planted_against_every_law():
    assert {law for law in LOSS_LAWS if any(laws.split()[0] == law for laws in PLANTED)} == set(LOSS_LAWS)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_right_loss_passes_every_law(dtype):
    point = ({name: leaf.to(dtype) for name, leaf in PARAMS.items()}, {"shift": BUFFERS["shift"].to(dtype)})
    batch = {**BATCH, "x": BATCH["x"].to(dtype), "weights": BATCH["weights"].to(dtype)}
    assert check_loss(right, *point, batch) == tuple(LOSS_LAWS)


@pytest.mark.parametrize("kind", KINDS)
def test_losses_of_models_pass_every_law(kind):
    p = problem(kind, 4)
    assert check_loss(p.loss, p.params, p.buffers, p.batch) == tuple(LOSS_LAWS)


def test_laws_can_be_chosen_and_need_two_samples_where_samples_are_compared():
    one = {**BATCH, "x": BATCH["x"][:1]}
    assert set(check_loss(right, PARAMS, BUFFERS, one)) == set(LOSS_LAWS) - {"independent", "order"}
    assert check_loss(right, PARAMS, BUFFERS, BATCH, laws=["order", "shape"]) == ("shape", "order")
    with pytest.raises(ValueError, match="laws must be among 'shape', .*got 'magic'"):
        check_loss(right, PARAMS, BUFFERS, BATCH, laws="magic")
    with pytest.raises(TypeError, match="loss must be a function .*got the module Linear"):
        check_loss(HEAD, PARAMS, BUFFERS, BATCH)


def test_axis_of_the_samples_is_read_from_the_loss_or_given():
    def along_the_last(params, buffers, x):
        return (params["w"] @ x).square()

    params, x = {"w": torch.tensor([0.5, -1.0])}, torch.tensor([[0.1, 0.4, -0.3], [1.0, 2.0, 0.5]])
    assert check_loss(along_the_last, params, {}, x, batch_dim=1) == tuple(LOSS_LAWS)
    assert check_loss(along_the_last, params, {}, x, batch_dim=-1) == tuple(LOSS_LAWS)
    with pytest.raises(AssertionError, match="shape: .*\ngot 3 losses, and no tensor of the batch has 3 samples along axis 0"):
        check_loss(along_the_last, params, {}, x)
    p = problem("recurrent", 4)
    assert p.batch_dim == 1
    assert "independent" in check_loss(p.loss, p.params, p.buffers, p.batch)


def test_a_loss_that_fixes_its_dtype_and_a_tree_of_two_dtypes_are_checked():
    scale = torch.tensor([[2.0, 1.0]])

    def fixed(params, buffers, batch):
        return ((batch @ params["a"]) * (batch @ scale.T)[:, 0]).float().square() + params["b"].float()

    params = {"a": torch.tensor([0.5, -1.0]), "b": torch.tensor(1.0, dtype=torch.float16)}
    assert check_loss(fixed, params, None, BATCH["x"]) == tuple(LOSS_LAWS)


def test_message_names_what_a_loss_reads_past_its_arguments():
    def loss(params, buffers, batch):
        return right(params, buffers, batch) + HEAD.weight.square().sum().to(params["a"])

    with pytest.raises(AssertionError, match=r"depend on other tensors that require gradients, of the shapes \(1, 2\); take"):
        check_loss(loss, PARAMS, BUFFERS, BATCH, laws="closed")


def test_the_point_and_the_random_numbers_of_the_caller_are_untouched():
    state, before = torch.get_rng_state(), {name: leaf.clone() for name, leaf in PARAMS.items()}
    check_loss(right, PARAMS, BUFFERS, BATCH)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(PARAMS[name], leaf) for name, leaf in before.items())


def test_public_losses_of_the_package_say_what_they_keep():
    model = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2))
    loss = pb.sample_losses(model, nn.CrossEntropyLoss())
    batch = (BATCH["x"], torch.tensor([0, 1, 1, 0, 1]))
    assert check_loss(loss, *pb.functional_state(model), batch) == tuple(LOSS_LAWS)
