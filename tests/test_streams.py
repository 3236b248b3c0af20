"""Whatever reads its batches more than once needs the same batches each time: others are refused, by what they hold."""

from typing import Any

import pytest
import torch
from torch.testing import assert_close
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

import pure_batchops as pb
from pure_batchops.streams import in_one_order
from tests.strategies import flat, problem, vectors
from tests.tables import each

SAMPLES = 12
REFUSED = "must be the same, in the same order, each time that they are read, got .*give a list of the batches"


class Around:
    """A class of the user's around a loader, or around an iterator."""

    def __init__(self, loader: Any) -> None:
        self.loader = loader

    def __iter__(self) -> Any:
        return iter(self.loader)


class Noisy(Dataset):
    """Random transforms of its samples."""

    def __init__(self, data: Any) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, i: int) -> Any:
        x, y = self.data[i]
        return x + torch.randn_like(x), y


class Stream(IterableDataset):
    """Samples in an order that changes."""

    def __init__(self, data: Any) -> None:
        self.data = data

    def __iter__(self) -> Any:
        return (self.data[i] for i in torch.randperm(len(self.data)).tolist())


LOADERS = {
    "shuffle": lambda data: DataLoader(data, 3, shuffle=True),
    "drop_last": lambda data: DataLoader(data, 5, shuffle=True, drop_last=True),
    "subset": lambda data: DataLoader(data, 3, sampler=SubsetRandomSampler(range(8))),
    "weighted": lambda data: DataLoader(data, 3, sampler=WeightedRandomSampler(torch.ones(SAMPLES), SAMPLES)),
    "batch_sampler": lambda data: DataLoader(data, batch_sampler=BatchSampler(RandomSampler(data), 4, drop_last=False)),
    "wrapper": lambda data: Around(DataLoader(data, 3, shuffle=True)),
    "transforms": lambda data: DataLoader(Noisy(data), 3),
    "iterable": lambda data: DataLoader(Stream(data), 3),
    "one reading": lambda data: Around(iter(DataLoader(data, 3))),
}


def influences(function: Any) -> Any:
    def found(p: Any, batches: Any) -> Any:
        inverse = pb.averaged(pb.inverse_harmonic_mean(p.loss, 0.5))
        test = () if function is pb.self_influence else (tuple(part[:2] for part in p.batch),)
        return function(inverse, p.loss)(p.params, p.buffers, batches, *test)

    return found


def solved(solver: Any) -> Any:
    def found(p: Any, batches: Any) -> Any:
        return solver(pb.averaged(pb.gauss_newton(p.loss)))(p.params, p.buffers, batches, flat(vectors(p.params, None, 0)))

    return found


READERS = {
    "influence": influences(pb.influence),
    "self_influence": influences(pb.self_influence),
    "perturbation_influence": influences(pb.perturbation_influence),
    "conjugate_gradient": solved(lambda op: pb.conjugate_gradient(op, 0.1)),
    "block_diagonal": solved(lambda op: pb.block_diagonal(op, ["0.*", "2.*"])),
    "preconditioned": solved(lambda op: pb.conjugate_gradient(op, 0.1, preconditioner=pb.nystroem(op, 0.1, rank=3))),
}


def data_of(p: Any) -> TensorDataset:
    return TensorDataset(*p.batch)


@pytest.mark.parametrize("loader", LOADERS)
@each(READERS, "reader")
def test_batches_that_change_from_one_reading_to_the_next_are_refused(reader: Any, loader: str) -> None:
    p = problem("perceptron", SAMPLES)
    with pytest.raises(ValueError, match=f"{REFUSED}|generator that was already used up"):
        reader(p, LOADERS[loader](data_of(p)))


@each(READERS, "reader")
def test_batches_in_any_order_that_stays_are_the_batches_of_a_list(reader: Any) -> None:
    p = problem("perceptron", SAMPLES)
    data = data_of(p)
    fixed = DistributedSampler(data, num_replicas=1, rank=0)  # it shuffles in the same way each time
    for loader in (DataLoader(data, 5), DataLoader(data, 5, sampler=fixed), Around(DataLoader(data, 5))):
        assert_close(reader(p, loader), reader(p, list(loader)))


def test_eigenpairs_of_batches_that_change_are_refused():
    p = problem("perceptron", SAMPLES)
    with pytest.raises(ValueError, match=REFUSED):
        pb.eigenpairs(pb.averaged(pb.hessian(p.loss)), 2)(p.params, p.buffers, LOADERS["drop_last"](data_of(p)))


def test_recursion_over_batches_that_are_used_up_ends_in_an_error():
    p = problem("perceptron", SAMPLES)
    recursion = pb.lissa(pb.averaged(pb.gauss_newton(p.loss)), 0.1, scale=10.0, depth=10)
    with pytest.raises(ValueError, match="nothing to average: the stream is empty .a generator that was already used up"):
        recursion(p.params, p.buffers, LOADERS["one reading"](data_of(p)), flat(vectors(p.params, None, 0)))


def test_plain_function_around_an_inverse_reads_compared_batches():
    p = problem("perceptron", SAMPLES)
    inverse = pb.conjugate_gradient(pb.averaged(pb.gauss_newton(p.loss)), 0.1)
    plain = pb.influence(lambda *arguments: inverse(*arguments), p.loss)
    with pytest.raises(ValueError, match=f"train_batches {REFUSED}"):
        plain(p.params, p.buffers, LOADERS["shuffle"](data_of(p)), p.batch)


def test_one_product_may_read_shuffled_batches():
    p = problem("perceptron", SAMPLES)
    op, v = pb.gauss_newton(p.loss), flat(vectors(p.params, None, 0))
    shuffled = DataLoader(data_of(p), 5, shuffle=True)
    assert_close(pb.averaged(op)(p.params, p.buffers, shuffled, v), op(p.params, p.buffers, p.batch, v))


class Changing:
    """Batches that are given by the number of the reading."""

    def __init__(self, *readings: Any) -> None:
        self.readings = iter(readings)

    def __iter__(self) -> Any:
        return iter(next(self.readings))


def test_readings_are_compared_number_by_number_and_as_far_as_both_go():
    one, other = torch.zeros(64, 64), torch.zeros(64, 64)
    other[5, 1] = 1e-30
    for readings, got in (
        (([one, one], [one, other]), "another batch 1 than before"),
        (([one, one], [one]), "1 batches instead of at least 2"),
        (([one], [one, one]), "another batch 1 than before"),
        (([one], []), "0 batches instead of at least 1 .a generator inside"),
        (([{"a": one}], [{"a": one.double()}]), "another batch 0"),
        (([{"a": one}], [{"b": one}]), "another batch 0"),
    ):
        stream = in_one_order("batches", Changing(*readings))
        list(stream)
        with pytest.raises(ValueError, match=f"batches must be the same, .* got {got}"):
            list(stream)
    stream = in_one_order("batches", Changing([one, one, other], [one, one, other], [one, one, one]))
    next(iter(stream))  # a reading that stops
    list(stream)
    with pytest.raises(ValueError, match="another batch 2"):
        list(stream)


def test_compared_batches_have_what_the_loader_has():
    loader = DataLoader(TensorDataset(torch.ones(4)), 2)
    stream = in_one_order("batches", loader)
    assert len(stream) == 2
    assert stream.dataset is loader.dataset
    assert in_one_order("batches", stream) is stream
    batches = [torch.ones(1)]
    assert in_one_order("batches", batches) is batches


def test_average_of_compared_batches_tells_its_points_without_reading_again():
    p = problem("perceptron", SAMPLES)
    read = []

    def noted(batch: Any) -> Any:
        read.append(len(batch))
        return torch.utils.data.default_collate(batch)

    loaders = [DataLoader(data_of(p), 5, collate_fn=noted), DataLoader(data_of(p), 4, collate_fn=noted)]
    inner = pb.averaged(pb.gauss_newton(p.loss))
    each_group = pb.batch_operation(lambda params, buffers, batches: inner.at(params, buffers, batches))
    v = flat(vectors(p.params, None, 0))
    product = pb.averaged(each_group)(p.params, p.buffers, loaders, v)
    assert_close(product, pb.gauss_newton(p.loss)(p.params, p.buffers, p.batch, v))
    assert read == [5, 5, 2, 4, 4, 4]


def test_compared_batches_are_read_under_vmap():
    p = problem("perceptron", SAMPLES)
    inverse = pb.conjugate_gradient(pb.averaged(pb.gauss_newton(p.loss)), 0.1, max_steps=30)
    v = flat(vectors(p.params, None, 0))
    members = {key: torch.stack([leaf, 0.5 * leaf]) for key, leaf in p.params.items()}
    batches = Around(list(zip(*(part.split(5) for part in p.batch), strict=True)))
    together = torch.vmap(lambda params: inverse(params, p.buffers, batches, v))(members)
    assert_close(together[0], inverse(p.params, p.buffers, batches, v), rtol=1e-4, atol=1e-4)
