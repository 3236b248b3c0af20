"""Which tensors of a batch have samples: one predicate, and parts that share whatever has none."""

import pytest
import torch
from torch.testing import assert_close

import pure_batchops as pb
from pure_batchops.batches import chunks, has_samples, length, pair, part, split
from pure_batchops.losses.shared import without_shared

WEIGHTS = torch.tensor([0.5, 2.0])
X, LABELS = torch.randn(5, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 1, 0, 1])
BATCH = {"x": X, "labels": LABELS, "weights": WEIGHTS, "name": "five points"}
PARAMS = {"w": torch.tensor([[0.5, -1.0, 0.2], [0.1, 0.3, -0.7]])}


def weighted(params, buffers, batch):
    """A loss of one's own, whose batch also holds the weights of the two classes."""
    losses = torch.nn.functional.cross_entropy(batch["x"] @ params["w"].mT, batch["labels"], reduction="none")
    return batch["weights"][batch["labels"]] * losses


def closed(params, buffers, batch):
    """The same loss, with the weights of the classes out of the batch."""
    return weighted(params, buffers, {**batch, "weights": WEIGHTS})


@pytest.mark.parametrize(
    ("leaf", "axis", "n", "expected"),
    [
        (X, 0, None, True),
        (X, 1, None, True),
        (X, -2, None, True),
        (X, 2, None, False),
        (X, -3, None, False),
        (X, 0, 5, True),
        (X, 0, 3, False),
        (torch.ones(()), 0, None, False),
        ("name", 0, None, False),
        (None, 0, 5, False),
    ],
)
def test_a_tensor_with_the_axis_has_samples_and_nothing_else_has(leaf, axis, n, expected):
    assert has_samples(leaf, axis, n) is expected


def test_a_bare_batch_must_agree_on_its_length():
    with pytest.raises(ValueError, match=r"one number of samples along axis 0, got the shapes \(5, 3\), \(5,\), \(2,\)"):
        pb.n_points(BATCH)
    with pytest.raises(ValueError, match="one number of samples along axis 0"):
        list(chunks(BATCH, 2))
    assert pb.n_points({**BATCH, "weights": torch.tensor(2.0)}) == 5


def test_tensors_with_axes_but_without_that_of_the_samples_are_shared_by_a_count_and_refused_by_a_pair():
    tree = (torch.ones(3, 5), torch.ones(7))
    assert pb.n_points(tree, 1) == 5
    with pytest.raises(ValueError, match="inputs and targets must have one number of samples along axis 1"):
        pair(tree, 1)
    with pytest.raises(ValueError, match="the tensors must have one number of samples along axis 1"):
        length("the tensors", tree, 1)


@pytest.mark.parametrize("axis", [0, -2])
def test_chunks_cut_what_has_the_samples_and_share_the_rest(axis):
    batch = {"x": X, "more": 2 * X, "scale": torch.tensor(2.0), "name": "five points"}
    parts = list(chunks(batch, 2, axis))
    assert [len(part["x"]) for part in parts] == [len(part["more"]) for part in parts] == [2, 2, 1]
    assert_close(torch.cat([part["x"] for part in parts]), X)
    assert all(part["scale"] is batch["scale"] and part["name"] == "five points" for part in parts)


@pytest.mark.parametrize("axis", [1, -1])
def test_parts_and_samples_share_what_has_another_length(axis):
    x, shared = torch.arange(15.0).reshape(3, 5), torch.ones(3, 2)
    assert_close(part((x, shared), 3, 2, axis, 5)[0], x[:, 3:])
    assert part((x, shared), 3, 2, axis, 5)[1] is shared
    alone, (samples,) = split((x, shared), 5, axis)
    assert_close(alone(samples[4])[0], x[:, 4:])
    assert alone(samples[4])[1] is shared


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_a_loss_without_the_shared_tensors_can_be_cut_even_into_parts_of_their_length(size):
    loss, batch = without_shared(weighted, PARAMS, {}, BATCH, 0)
    cut = torch.cat([loss(PARAMS, {}, each) for each in chunks(batch, size)])
    assert_close(cut, weighted(PARAMS, {}, BATCH))


def test_class_weights_in_a_batch_are_shared_by_operations_and_influences():
    v = torch.ones(6)
    for operation in (pb.gauss_newton, lambda loss: pb.inverse_harmonic_mean(loss, 0.1)):
        expected = operation(closed)(PARAMS, {}, {"x": X, "labels": LABELS}, v)
        assert_close(operation(weighted)(PARAMS, {}, BATCH, v), expected)

    def scores(loss, batch, **options):
        inverse = pb.direct(lambda_mean(loss), 0.1)
        others = [{**batch, "x": 2 * batch["x"]}]
        influences = pb.influence(inverse, loss, **options)(PARAMS, {}, [batch, *others], batch)
        return influences, pb.self_influence(inverse, loss, **options)(PARAMS, {}, [batch, *others])

    def lambda_mean(loss):
        return pb.averaged(pb.gauss_newton(loss), weight=lambda batch: len(batch["x"]))

    expected = scores(closed, {"x": X, "labels": LABELS})
    for options in ({}, {"chunk_size": 2}):
        assert_close(scores(weighted, BATCH, **options), expected)


def test_influence_refuses_a_batch_in_which_nothing_has_as_many_samples_as_there_are_losses():
    def loss(params, buffers, batch):
        return (X @ params["w"].mT).sum(1) * batch["scale"]

    inverse = pb.direct(pb.averaged(pb.gauss_newton(loss), weight=lambda batch: 1), 0.1)
    batch = {"scale": torch.tensor(2.0)}
    with pytest.raises(ValueError, match="batch must hold a tensor with 5 samples along axis 0, as many as there are losses"):
        pb.influence(inverse, loss)(PARAMS, {}, [batch], batch)


def test_one_batch_given_to_an_average_is_an_error_that_says_so():
    loss = pb.sample_losses(torch.nn.Linear(3, 1), torch.nn.MSELoss())
    state = pb.functional_state(torch.nn.Linear(3, 1))
    with pytest.raises(ValueError, match=r"got Tensor; an average takes an iterable of batches, so give it one batch as \[\("):
        pb.averaged(pb.hessian(loss))(*state, (X, X[:, :1]), torch.ones(4))
