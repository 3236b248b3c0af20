"""An average that is interrupted: killed, refused, out of disk."""

import errno
import random
import time
from collections import UserDict
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import pure_batchops as pb
from tests import processes

KILLS = 20


def done(path):
    return torch.load(path, weights_only=True)["state"]["batches"] if path.exists() else 0


def interrupted(path, batches, op=None, stop=3, **options):
    """The arguments of an average of which some batches were done when it failed."""
    own, _, arguments = processes.job(batches)
    params, buffers, data, v = arguments

    def failing():
        yield from data[:stop]
        msg = "no more data"
        raise OSError(msg)

    with pytest.raises(OSError, match=rf"no more data \(in batch {stop} of"):
        pb.resumable(op or own, path, every=1, **options)(params, buffers, failing(), v)
    assert done(path) == stop
    return op or own, arguments


def never(*_):
    msg = "multiplied"
    raise AssertionError(msg)


def test_average_killed_twenty_times_is_bit_for_bit_that_of_no_interruption(tmp_path):
    count, pause = 400, 0.001
    op, weight, arguments = processes.job(count)
    expected = pb.averaged(op, weight)(*arguments)
    moments, path, product = random.Random(0), tmp_path / "state.pt", tmp_path / "product.pt"
    reached = []
    for turn in range(KILLS):
        ready = processes.CONTEXT.Event()
        process = processes.started(processes.resumed, path, 3, count, pause, ready)
        assert ready.wait(60)
        deadline = time.monotonic() + 30
        while turn % 2 and done(path) == reached[-1] and time.monotonic() < deadline:
            time.sleep(0.002)  # every other one gets somewhere, however busy the machine
        process.join(moments.uniform(0, 0.05))
        assert process.is_alive(), "the job was done before it was killed: make it longer"
        processes.kill(process)
        reached.append(done(path))
    assert reached == sorted(reached)
    assert len(set(reached)) >= KILLS // 2
    assert reached[-1] < count
    last = processes.started(processes.resumed, path, 3, count, pause, ready, product)
    assert processes.ended([last], 60) == [0]
    assert torch.equal(torch.load(product, weights_only=True), expected)
    assert list(tmp_path.glob("*.partial")) == []


@pytest.mark.parametrize("form", ["flat", "rows", "tree"])
def test_average_goes_on_where_it_stopped_and_multiplies_one_batch_when_done(tmp_path, form):
    _, _, (params, buffers, data, v) = processes.job(5)
    forms = {"flat": v, "rows": torch.stack([v, -v, 0 * v]), "tree": {k: torch.ones_like(leaf) for k, leaf in params.items()}}
    v, multiplied = forms[form], []

    def counting(*arguments):
        multiplied.append(1)
        return processes.job(5)[0](*arguments)

    for name, compared in (("counting", 0), (None, 1)):
        multiplied.clear()
        mean_op = pb.resumable(counting, tmp_path / f"{name}.pt", every=2, name=name)
        mean_op(params, buffers, data[:3], v)
        product = mean_op(params, buffers, data, v)  # more data, the old ones first
        assert len(multiplied) == 5 + compared
        torch.testing.assert_close(product, pb.averaged(processes.job(5)[0])(params, buffers, data, v), rtol=0, atol=0)
        again = mean_op.at(params, buffers, data)(v)
        assert len(multiplied) == 5 + 2 * compared
        torch.testing.assert_close(again, product, rtol=0, atol=0)


def test_trees_of_other_classes_and_ensembles_are_resumed(tmp_path):
    op = pb.hessian(lambda params, buffers, x: (params[0] * x) ** 2 + params[1][0] * x**3)
    params = (torch.tensor([0.5]), [torch.tensor([2.0])])
    data = [torch.rand(2) for _ in range(4)]
    members = (torch.rand(3, 1), [torch.rand(3, 1)])
    cases = ((op, params, params), (torch.vmap(op, in_dims=(0, None, None, None)), members, params))
    for i, (each, point, v) in enumerate(cases):
        path = tmp_path / f"{i}.pt"
        pb.resumable(each, path, every=1)(point, {}, data[:2], v)
        torch.testing.assert_close(pb.resumable(each, path)(point, {}, data, v), pb.averaged(each)(point, {}, data, v))


def test_state_of_other_params_buffers_v_or_operation_is_refused(tmp_path):
    path = tmp_path / "state.pt"
    op, (params, buffers, data, v) = interrupted(path, 5)
    before = path.read_bytes()
    other = {name: leaf + 1e-12 for name, leaf in params.items()}
    wrong = pb.resumable(op, path)
    for arguments, what in (
        ((other, buffers, data, v), "other params at"),
        ((params, {"more": v}, data, v), "other buffers at"),
        ((params, buffers, data, -v), "other v at"),
        ((params, buffers, data, v.reshape(1, -1)), "other v at"),
        ((other, buffers, data, -v), "other params and other v at"),
    ):
        with pytest.raises(ValueError, match=f"must belong to this average, got one of {what}.*delete the file"):
            wrong(*arguments)
    loss, smooth = processes.problem("perceptron").loss, torch.nn.CrossEntropyLoss(label_smoothing=0.1)
    others = {
        "matrix": pb.hessian(loss),
        "wrapper": pb.damped(op, 0.1),
        "criterion": pb.gauss_newton(pb.sample_losses(processes.problem("perceptron").model, smooth)),
        "options": pb.inverse_harmonic_mean(loss, 0.1),
    }
    for different in others.values():
        with pytest.raises(ValueError, match="other operation"):
            pb.resumable(different, path)(params, buffers, data, v)
    with pytest.raises(ValueError, match="other weights"):
        pb.resumable(op, path, weight=lambda batch: 1)(params, buffers, data, v)
    with pytest.raises(ValueError, match="other operation"):
        pb.resumable(op, path, name="mine")(params, buffers, data, v)
    assert path.read_bytes() == before
    assert torch.equal(wrong(params, buffers, data, v), pb.averaged(op)(params, buffers, data, v))


def test_same_product_is_the_same_operation(tmp_path):
    path = tmp_path / "state.pt"
    op, (params, buffers, data, v) = interrupted(path, 5)
    before = path.read_bytes()
    loss = processes.problem("perceptron").loss
    same = {
        "an option that changes no product": pb.gauss_newton(loss, chunk_size=3),
        "another route": pb.gauss_newton(loss, held=0),
        "a function around it": lambda *arguments: op(*arguments),
        "a function around the loss": pb.gauss_newton(lambda *arguments: loss(*arguments)),
    }
    for other in same.values():
        product = pb.resumable(other, path)(params, buffers, data, v)
        torch.testing.assert_close(product, pb.averaged(op)(params, buffers, data, v))
        path.write_bytes(before)


SCALE = 1.0


def scaled(x):
    return SCALE * x


class Scaling:
    """A loss that is an object of the user's class."""

    def __init__(self, scale):
        self.scale = scale

    def __call__(self, params, buffers, x):
        return self.scale * params * x


def test_operations_are_told_apart_by_what_they_compute_wherever_the_change_is(tmp_path, monkeypatch):
    def by_default(params, buffers, x, scale=2.0):
        return scale * params * x

    losses = {
        "closure": lambda params, buffers, x: 3.0 * params * x,
        "tensor": lambda params, buffers, x: torch.tensor(1.001) * params * x,
        "default": by_default,
        "code": lambda params, buffers, x: params + x,
        "object": Scaling(2.0),
    }
    data = [torch.tensor([1.0, 2.0]), torch.tensor([3.0])]
    params, v = torch.tensor([1.0]), torch.tensor([1.0])
    path = tmp_path / "state.pt"
    by_global = pb.gauss_newton(lambda params, buffers, x: scaled(params * x))
    pb.resumable(by_global, path, every=1)(params, {}, data[:1], v)
    for loss in losses.values():
        with pytest.raises(ValueError, match="another operation, which has another product with the first batch"):
            pb.resumable(pb.gauss_newton(loss), path)(params, {}, data, v)
    monkeypatch.setitem(globals(), "SCALE", 1.001)
    with pytest.raises(ValueError, match="another operation"):
        pb.resumable(by_global, path)(params, {}, data, v)
    monkeypatch.setitem(globals(), "SCALE", 1.0)
    expected = pb.averaged(by_global)(params, {}, data, v)
    assert torch.equal(pb.resumable(pb.gauss_newton(Scaling(1.0)), path)(params, {}, data, v), expected)


class Settings:
    """Where a user may keep a number: a class attribute, a property, a static method."""

    scale = 1.0
    kept = 1.0

    @property
    def read(self):
        return self.kept

    @staticmethod
    def called():
        return 1.0


def test_operations_are_told_apart_by_numbers_of_classes_and_arrays(tmp_path, monkeypatch):
    array, settings = np.ones(2), Settings()
    losses = {
        "attribute": (lambda params, buffers, x: Settings.scale * params * x, "scale", 1.001),
        "property": (lambda params, buffers, x: settings.read * params * x, "read", property(lambda _: 1.001)),
        "static method": (lambda params, buffers, x: Settings.called() * params * x, "called", staticmethod(lambda: 1.001)),
        "array": (lambda params, buffers, x: float(array[1]) * params * x, "array", None),
    }
    data, params, v = [torch.tensor([1.0, 2.0]), torch.tensor([3.0])], torch.tensor([1.0]), torch.tensor([1.0])
    for name, (loss, attribute, value) in losses.items():
        op, path = pb.gauss_newton(loss), tmp_path / f"{name}.pt"
        pb.resumable(op, path, every=1)(params, {}, data[:1], v)
        before = path.read_bytes()
        torch.testing.assert_close(pb.resumable(op, path)(params, {}, data, v), pb.averaged(op)(params, {}, data, v))
        path.write_bytes(before)
        if value is None:
            array[1] = 1.001
        else:
            monkeypatch.setattr(Settings, attribute, value)
        with pytest.raises(ValueError, match="another operation, which has another product with the first batch"):
            pb.resumable(op, path)(params, {}, data, v)


class Sample:
    """A batch of the user's own class, which holds itself."""

    def __init__(self, x):
        self.x, self.whole = x, self


class Slotted:
    __slots__ = ("x",)

    def __init__(self, x):
        self.x = x


BATCHES = {
    "column of ones": lambda x: torch.cat([torch.ones(64, 1), x], 1),
    "array": lambda x: x.numpy().copy(),
    "array of another order": lambda x: x.numpy().T,
    "array of objects": lambda x: np.array([1, x.numpy().tobytes()], dtype=object),
    "dates": lambda x: x.sum().mul(1e30).long().numpy().astype("datetime64[s]"),
    "mapping": lambda x: UserDict(x=x),
    "object": Sample,
    "slots": Slotted,
    "set": lambda x: {"a", "b", x.sum().item()},
    "sparse": lambda x: x.to_sparse(),
    "half": lambda x: x.to(torch.bfloat16),
    "list": lambda x: [{"x": (x, None)}],
}


@pytest.mark.parametrize("kind", BATCHES)
def test_every_number_of_a_batch_counts_whatever_holds_it(tmp_path, kind):
    def batch(number):
        x = torch.zeros(64, 63)
        x[5, 1] = number
        return BATCHES[kind](x)

    def mean_op():
        op = pb.batch_operation(lambda params, buffers, batch: lambda u: u)
        return pb.resumable(op, tmp_path / "state.pt", every=1, weight=lambda batch: 1, name="same")

    mean_op()(torch.zeros(2), {}, [batch(1e-30)], torch.ones(2))
    mean_op()(torch.zeros(2), {}, [batch(1e-30), batch(1.0)], torch.ones(2))  # the same, built again
    with pytest.raises(ValueError, match="must begin with the 2 that were done .*others among them"):
        mean_op()(torch.zeros(2), {}, [batch(1e-30), batch(2e-30)], torch.ones(2))


def test_criteria_are_told_apart_by_their_options(tmp_path):
    model, (_, _, arguments) = processes.problem("perceptron").model, processes.job(3)
    params, buffers, _, v = arguments
    inputs = processes.problem("perceptron").batch[0]
    data = [(inputs, torch.arange(len(inputs)) % 3)]
    weights = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    criteria = [{}, {"label_smoothing": 0.1}, {"weight": weights, "reduction": "sum"}]
    for i, own in enumerate(criteria):
        path = tmp_path / f"{i}.pt"
        for options in (own, *(other for other in criteria if other is not own)):
            op = pb.gauss_newton(pb.sample_losses(model, torch.nn.CrossEntropyLoss(**options)))
            if options is own:
                pb.resumable(op, path)(params, buffers, data, v)
            else:
                with pytest.raises(ValueError, match="another operation"):
                    pb.resumable(op, path)(params, buffers, data, v)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_small_change_of_one_number_among_many_is_seen(tmp_path, dtype):
    """Of 100,000 numbers of the product, one that is not in the sample."""
    params = torch.zeros(100_000, dtype=dtype)
    data, v = [torch.ones(1, dtype=dtype)] * 2, torch.ones_like(params)

    def op(place):
        def at(params, buffers, batch):
            ones = torch.ones_like(params)
            ones[place] = 1000
            return lambda u: u * ones

        return pb.batch_operation(at)

    path = tmp_path / "state.pt"
    pb.resumable(op(54_321), path, every=1)(params, {}, data[:1], v)
    pb.resumable(op(54_321), path)(params, {}, data, v)
    with pytest.raises(ValueError, match="another operation"):
        pb.resumable(op(slice(0)), path)(params, {}, data, v)


def test_weights_of_all_batches_that_were_done_are_compared(tmp_path):
    path = tmp_path / "state.pt"
    op, (params, buffers, data, v) = interrupted(path, 5, weight=lambda batch: 2.0)
    weights = iter([2.0, 2.0, 2.5])
    with pytest.raises(ValueError, match="other weights, in which the batches that were done weigh 6.5 instead of 6"):
        pb.resumable(op, path, weight=lambda batch: next(weights, 2.0))(params, buffers, data, v)
    with pytest.raises(ValueError, match="one of other weights at"):  # though the first batch weighs 2 by its losses, too
        pb.resumable(op, path)(params, buffers, data, v)


def test_file_of_another_format_is_refused_and_says_so(tmp_path):
    path = tmp_path / "state.pt"
    _, (params, buffers, data, v) = interrupted(path, 5)
    torch.save(torch.load(path, weights_only=True) | {"version": 1}, path)
    with pytest.raises(ValueError, match="got a file of format 1 instead of 2.*delete the file"):
        pb.resumable(never, path)(params, buffers, data, v)


def test_batches_that_differ_in_a_single_number_are_others(tmp_path):
    op = pb.batch_operation(lambda params, buffers, batch: lambda u: u * batch.mean())
    one = torch.zeros(64, 64, dtype=torch.float64)  # with a first column that is constant, as a bias
    for place in [(0, 0), (5, 1), (63, 63)]:
        path, other = tmp_path / f"{place}.pt", one.clone()
        other[place] = 1e-300
        pb.resumable(op, path, every=1, name="mean")(torch.zeros(2), {}, [one], torch.ones(2))
        with pytest.raises(ValueError, match="others among them"):
            pb.resumable(op, path, name="mean")(torch.zeros(2), {}, [other, one], torch.ones(2))


def test_other_batches_or_another_order_are_refused(tmp_path):
    path = tmp_path / "state.pt"
    op, (params, buffers, data, v) = interrupted(path, 5)
    again = pb.resumable(op, path)
    for batches, what in ((data[::-1], "others among them"), (data[:2], "2 instead of at least 3")):
        with pytest.raises(ValueError, match=f"must begin with the 3 that were done .*got {what}; do not shuffle"):
            again(params, buffers, batches, v)
    again(params, buffers, iter(data), v)


def test_product_that_requires_gradients_is_refused(tmp_path):
    op, _, (params, buffers, data, v) = processes.job(2)
    recorded = v.clone().requires_grad_()
    with pytest.raises(ValueError, match="must not require gradients, which a file does not hold.*no_grad"):
        pb.resumable(op, tmp_path / "state.pt")(params, buffers, data, recorded)
    with torch.no_grad():
        product = pb.resumable(op, tmp_path / "state.pt")(params, buffers, data, recorded)
    torch.testing.assert_close(product, pb.averaged(op)(params, buffers, data, v))


def test_full_disk_is_an_error_and_the_last_good_state_stays(tmp_path):
    path = tmp_path / "state.pt"
    op, (params, buffers, data, v) = interrupted(path, 5)
    before = path.read_bytes()
    (tmp_path / "state.pt.partial").symlink_to("/dev/full")
    with pytest.raises(OSError, match="state after 5 batches must be saved at .*the last saved state is still there"):
        pb.resumable(op, path)(params, buffers, data, v)
    assert path.read_bytes() == before
    assert torch.equal(pb.resumable(op, path)(params, buffers, data, v), pb.averaged(op)(params, buffers, data, v))


def test_failing_sync_or_rename_leaves_the_last_good_state(tmp_path, monkeypatch):
    path = tmp_path / "state.pt"
    op, (params, buffers, data, v) = interrupted(path, 5)
    before = path.read_bytes()

    def failing(*_):
        raise OSError(errno.EIO, "broken")

    for name in ("fsync", "replace"):
        with monkeypatch.context() as broken:
            broken.setattr(f"os.{name}", failing)
            with pytest.raises(OSError, match="broken"):
                pb.resumable(op, path)(params, buffers, data, v)
        assert path.read_bytes() == before
        assert [found.name for found in tmp_path.iterdir()] == ["state.pt"]


def test_unwritable_path_is_an_error_before_anything_is_multiplied(tmp_path):
    _, _, arguments = processes.job(2)
    for path in (tmp_path / "missing" / "state.pt", Path("/dev/null/state.pt")):
        with pytest.raises(OSError, match="state after 0 batches must be saved"):
            pb.resumable(never, path, name="never")(*arguments)


def test_file_that_holds_something_else_is_refused_and_stays(tmp_path):
    _, _, arguments = processes.job(2)
    path = tmp_path / "notes.txt"
    torch.save({"weights": torch.ones(3)}, tmp_path / "weights.pt")
    for content in (b"", b"notes", (tmp_path / "weights.pt").read_bytes()):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="path must hold a state that a resumable average saved"):
            pb.resumable(never, path)(*arguments)
        assert path.read_bytes() == content


def test_options_are_checked_in_the_factory():
    for options, error, message in (
        ({"every": 0}, ValueError, "every must be at least 1, got 0"),
        ({"every": 2.5}, TypeError, "every must be a whole number"),
        ({"finite": 1}, TypeError, "finite must be True or False, got 1"),
        ({"name": 3}, TypeError, "name must be a string"),
        ({"weight": 3}, TypeError, "weight must be a function"),
        ({"progress": 3}, TypeError, "progress must be a function"),
    ):
        with pytest.raises(error, match=message):
            pb.resumable(never, "state.pt", **options)


def test_data_loader_with_workers_is_averaged_and_resumed(tmp_path):
    op, _, (params, buffers, _, v) = processes.job(1)
    whole = processes.problem("perceptron", 12).batch
    loader = DataLoader(TensorDataset(*whole), 5, num_workers=2, multiprocessing_context=processes.CONTEXT)
    expected = op(params, buffers, whole, v)
    torch.testing.assert_close(pb.averaged(op)(params, buffers, loader, v), expected)
    path = tmp_path / "state.pt"
    pb.resumable(op, path)(params, buffers, list(islice(DataLoader(TensorDataset(*whole), 5), 2)), v)
    torch.testing.assert_close(pb.resumable(op, path)(params, buffers, loader, v), expected)


def test_memory_does_not_grow_over_ten_thousand_batches(tmp_path):
    numbers, page = 10_000, 4096  # a product that were kept would be 40 kB, all of them 400 MB
    op = pb.batch_operation(lambda params, buffers, batch: lambda v: v * batch)
    params, v = torch.zeros(numbers), torch.ones(numbers)

    def resident(mean_op):
        seen = []

        def batches():
            for i in range(10_000):
                if i in (1_000, 9_999):
                    seen.append(int(Path("/proc/self/statm").read_text().split()[1]) * page)
                yield torch.tensor(float(i))

        torch.testing.assert_close(mean_op(params, {}, batches(), v), v * 4999.5)
        return seen[1] - seen[0]

    one = {"weight": lambda batch: 1}
    for mean_op in (pb.averaged(op, **one), pb.resumable(op, tmp_path / "state.pt", every=1000, **one)):
        assert resident(mean_op) < 8 * 2**20
