"""Averages and products over real processes on the loopback address, all bounded in time."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

import pure_batchops as pb
from pure_batchops import distributed
from tests import processes
from tests.strategies import flat, problem, seeds, vectors

SIZE, SAMPLES = 3, 8
EXACT = {torch.float64: {"rtol": 1e-12, "atol": 1e-12}, torch.float32: {"rtol": 1e-6, "atol": 1e-7}}


@pytest.fixture(scope="module")
def everywhere(tmp_path_factory):
    with processes.ranks(SIZE, tmp_path_factory.mktemp("group")) as run:
        yield run


def case(kind, matrix, form, dtype, seed):
    """An operation, params, buffers, data and v."""
    p = problem(kind, SAMPLES, seed)
    op = getattr(pb, matrix)(p.loss) if matrix != "ensemble" else pb.gauss_newton(p.loss)
    params, buffers, data = (torch.utils._pytree.tree_map(lambda t: cast(t, dtype), x) for x in (p.params, p.buffers, p.batch))
    v = vectors(params, None if form in ("flat", "tree") else 3, seed)
    if matrix == "ensemble":
        op = torch.vmap(op, in_dims=(0, 0, None, None))
        params, buffers = pb.stack_states([({k: s * leaf for k, leaf in params.items()}, buffers) for s in (1, 2)])
    return op, params, buffers, data, v if "tree" in form else flat(v, None if form == "flat" else 3)


def cast(leaf, dtype):
    return leaf.to(dtype) if leaf.is_floating_point() else leaf


def parts(data, sizes, owners, rank=None):
    """The batches, of those sizes, of one rank or of all."""
    ends = [sum(sizes[:i]) for i in range(len(sizes) + 1)]
    ranges = zip(ends, ends[1:], owners, strict=False)
    return [tuple(part[a:b] for part in data) for a, b, owner in ranges if rank in (None, owner)]


def averaged_on(rank, arguments, sizes, owners):
    op, params, buffers, data, v = case(*arguments)
    return distributed.averaged(op)(params, buffers, parts(data, sizes, owners, rank), v)


cases = st.tuples(
    st.sampled_from(["perceptron", "tied"]),
    st.sampled_from(["hessian", "gauss_newton", "ensemble"]),
    st.sampled_from(["flat", "rows", "tree", "trees"]),
    st.sampled_from([torch.float32, torch.float64]),
    seeds,
)
sizes_of_batches = st.lists(st.integers(1, 3), min_size=1, max_size=4).filter(lambda sizes: sum(sizes) <= SAMPLES)


@given(arguments=cases, sizes=sizes_of_batches, owners=st.lists(st.integers(0, SIZE - 1), min_size=4, max_size=4))
def test_average_over_ranks_is_that_of_one_process_and_the_same_on_all(everywhere, arguments, sizes, owners):
    if arguments[3] == torch.float32 and arguments[0] == "tied":
        arguments = ("perceptron", *arguments[1:])  # the criterion of the other has weights in float64
    op, params, buffers, data, v = case(*arguments)
    expected = pb.averaged(op)(params, buffers, parts(data, sizes, owners), v)
    found = everywhere(averaged_on, arguments, sizes, owners)
    for product in found:
        assert_close(product, expected, **EXACT[arguments[3]])
        assert_close(product, found[0], rtol=0, atol=0)


def counted(rank, count):
    op, params, buffers, data, v = case("perceptron", "gauss_newton", "trees", torch.float32, 0)
    calls, real = [], dist.all_reduce

    def counting(tensor, *args, **kwargs):
        calls.append(tensor.numel())
        return real(tensor, *args, **kwargs)

    dist.all_reduce = counting
    try:
        multiply = distributed.averaged(op).at(params, buffers, parts(data, [1] * 8, [0, 1, 2, 0, 0, 1, 1, 1], rank))
        for _ in range(count):
            multiply(v)
    finally:
        dist.all_reduce = real
    return calls, 3 * sum(leaf.numel() for leaf in params.values())


def test_product_takes_one_all_reduce_of_its_numbers(everywhere):
    for calls, numbers in everywhere(counted, 2):
        assert calls == [numbers, numbers]


def solved(rank, mean, batches):
    op, params, buffers, data, v = case("perceptron", "gauss_newton", "flat", torch.float64, 1)
    damped, own = pb.damped(mean(op), 0.1), parts(data, *batches, rank)
    x = pb.conjugate_gradient(mean(op), 0.1, tolerance=1e-10)(params, buffers, own, v)
    return x, damped(params, buffers, own, x)


def test_conjugate_gradient_solves_on_all_ranks_in_step(everywhere):
    batches = ([3, 1, 2, 2], [0, 2, 2, 2])
    expected, _ = solved(None, pb.averaged, batches)
    _, _, _, _, v = case("perceptron", "gauss_newton", "flat", torch.float64, 1)
    found = everywhere(solved, distributed.averaged, batches)
    for x, product in found:
        assert_close(x, expected, rtol=1e-9, atol=1e-9)  # the system is solved to 1e-10
        assert_close(product, v)
        assert torch.equal(x, found[0][0])


def in_a_subgroup(rank):
    group = dist.new_group([0, 2])
    op, params, buffers, data, v = case("perceptron", "hessian", "flat", torch.float64, 0)
    return distributed.averaged(op, group)(params, buffers, parts(data, [3, 5], [0, 2], rank), v)


def test_group_of_some_ranks_averages_over_those(everywhere):
    op, params, buffers, data, v = case("perceptron", "hessian", "flat", torch.float64, 0)
    first, outside, last = everywhere(in_a_subgroup)
    assert "must be a member of group" in str(outside)
    assert_close([first, last], [op(params, buffers, data, v)] * 2)


def sharded(rank, count, form, failing=None, mean=False, differing=None):
    op, params, buffers, data, _ = case("perceptron", "gauss_newton", "flat", torch.float64, 0)
    params = {name: cast(leaf, torch.float32) if form == "mixed" else leaf for name, leaf in params.items()}
    seen = []

    def multiply(params, buffers, batch, v):
        seen.append(len(v) if isinstance(v, torch.Tensor) else len(next(iter(v.values()))))
        if rank == failing:
            msg = "broken"
            raise OSError(msg)
        return op(params, buffers, batch, v)

    v = vectors(params, count, 1 + (rank == differing))
    if count is not None and form == "rows":
        v = flat(v, count)
    whole = multiply
    if mean:  # each rank a group of its own: the rows of a mesh of one column
        whole = distributed.averaged(op, [dist.new_group([other]) for other in range(SIZE)][rank])
    found = distributed.sharded_vectors(whole)(params, buffers, [data] if mean else data, v)
    return found, seen, op(params, buffers, data, v)


@given(count=st.integers(0, 7) | st.none(), form=st.sampled_from(["rows", "tree"]), mean=st.booleans())
def test_sharded_vectors_are_the_products_of_all(everywhere, count, form, mean):
    answers = everywhere(sharded, count, form, None, mean)
    for found, _, expected in answers:
        assert_close(found, expected)
        assert_close(found, answers[0][0], rtol=0, atol=0)
    shares = [seen[0] if seen else 0 for _, seen, _ in answers]
    if count is not None and any(seen for _, seen, _ in answers):
        assert sum(shares) == count
        assert max(shares) - min(shares) <= 1


def mixed_sharded(rank, other_form):
    params = {"a": torch.tensor([1.0, 2.0, 3.0], dtype=torch.bfloat16), "b": torch.tensor(2.0, dtype=torch.float64)}
    op = pb.batch_operation(lambda params, buffers, batch: lambda v: {"b": 3 * v["b"], "a": 2 * v["a"]})
    if other_form:

        def op(*_):
            return {"a": torch.ones(2, 1, 3), "b": torch.ones(2, 1)}

    v = {"a": torch.ones(4, 3, dtype=torch.bfloat16), "b": torch.arange(4.0, dtype=torch.float64)}
    return distributed.sharded_vectors(op)(params, {}, None, v)


def test_leaves_of_several_dtypes_are_gathered_and_products_of_another_form_refused(everywhere):
    expected = {"a": torch.full((4, 3), 2.0, dtype=torch.bfloat16), "b": 3 * torch.arange(4.0, dtype=torch.float64)}
    for found in everywhere(mixed_sharded, False):
        assert_close(found, expected, rtol=0, atol=0)
    for error in everywhere(mixed_sharded, True):
        assert "must have the shapes" in str(error)
        assert "ensemble" in str(error)


def failing(rank, where):
    op, params, buffers, data, v = case("perceptron", "hessian", "flat", torch.float64, 0)
    batches = parts(data, [2, 2, 2, 2], [0, 0, 1, 2], rank) if where != "empty" else []
    if where == "data" and rank == 0:
        batches[1] = (batches[1][0], batches[1][1][:1])
    if where == "forms" and rank == 0:
        v = v[None]
    if where == "vector" and rank == 0:
        v = v[1:]
    if where == "other v" and rank == 2:
        v = 1.01 * v
    if where == "other params" and rank == 2:
        params = {name: leaf + 0.01 for name, leaf in params.items()}
    return distributed.averaged(op)(params, buffers, batches, v)


def misused(rank):
    op, params, buffers, data, v = case("perceptron", "hessian", "rows", torch.float64, 0)
    return distributed.sharded_vectors(distributed.averaged(op))(params, buffers, [data], v)


def test_error_of_one_rank_is_raised_on_all_and_names_the_rank(everywhere):
    own, *others = everywhere(failing, "data")
    assert isinstance(own, ValueError)
    assert "in batch 1 of" in str(own)
    for error in others:
        assert isinstance(error, RuntimeError)
        assert "got an error on rank 0: ValueError" in str(error)
        assert "in batch 1 of" in str(error)
    for error in everywhere(failing, "vector")[1:]:
        assert "on rank 0: ValueError: a flat v must" in str(error)
    for error in everywhere(failing, "forms"):
        assert "all products must have one shape and dtype, got" in str(error)
    for error in everywhere(failing, "empty"):
        assert isinstance(error, ValueError)
        assert "nothing to average" in str(error)
    for error in [*everywhere(sharded, 4, "rows", None, False, 2), *everywhere(failing, "other v")]:
        assert "v must be the same on all ranks, got other values on rank 2 than on rank 0;" in str(error)
    for error in everywhere(failing, "other params"):
        assert "params must be the same on all ranks, got other values on rank 2 than on rank 0;" in str(error)
    for error in everywhere(misused):
        assert "cannot be averaged over the same group" in str(error)
    own, *others = everywhere(sharded, 4, "rows", 0)
    assert isinstance(own, OSError)
    assert all("on rank 0: OSError: broken" in str(error) for error in others)
    assert not any(isinstance(answer, Exception) for answer in everywhere(failing, "nothing"))  # the group still works


def struck(rank, how):
    """An average in the middle of which rank 1 is struck by a signal."""
    op, params, buffers, data, v = case("perceptron", "hessian", "flat", torch.float64, 0)

    def batches():
        for i, batch in enumerate(parts(data, [1] * 8, [0, 1] * 4, rank)):
            if rank == 1 and i == 2:
                os.kill(os.getpid(), how)
            yield batch

    start = time.monotonic()
    try:
        product = distributed.averaged(op)(params, buffers, batches(), v)
    except RuntimeError as error:
        return str(error), time.monotonic() - start
    return product


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_rank_that_is_killed_or_stopped_ends_the_others_within_the_timeout(tmp_path, how):
    timeout = 4
    with processes.ranks(SIZE, tmp_path, timeout) as run:
        answers = run(struck, how, seconds=30, answering=(0, 2))
        assert how == signal.SIGSTOP or processes.ended(run.members[1:2], 10) == [-signal.SIGKILL]
    for message, waited in answers:
        assert "within the timeout of the process group, got a rank that ended or was late: rank" in message
        assert waited < 2 * timeout


def resumed_on(rank, path, pause):
    op, weight, (params, buffers, data, v) = processes.job(120, pause)
    mean_op = distributed.resumable(op, path, every=2, weight=weight, name="job")
    return mean_op(params, buffers, data[rank::2], v)


def test_ranks_that_are_killed_go_on_from_their_files(tmp_path):
    op, _, (params, buffers, data, v) = processes.job(120)
    with processes.ranks(2, tmp_path) as run:
        run(case_warm)
        run(resumed_on, tmp_path / "state.pt", 0.005, answering=())
        deadline = time.monotonic() + 30
        while not (tmp_path / "state.pt.1of2").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.1)
        for process in run.members:
            processes.kill(process)
    done = [torch.load(tmp_path / f"state.pt.{rank}of2", weights_only=True)["state"]["batches"] for rank in range(2)]
    assert all(0 < count < 60 for count in done)
    with processes.ranks(2, tmp_path) as run:
        first, second = run(resumed_on, tmp_path / "state.pt", 0.0)
    assert torch.equal(first, second)
    assert_close(first, pb.averaged(op)(params, buffers, data, v), rtol=1e-12, atol=1e-12)


def case_warm(rank):
    op, _, (params, buffers, data, v) = processes.job(1)
    op(params, buffers, data[0], v)


def test_options_and_the_group_are_checked():
    op, params, buffers, data, v = case("perceptron", "hessian", "flat", torch.float64, 0)
    for factory in (distributed.averaged, distributed.sharded_vectors):
        with pytest.raises(TypeError, match="op must be a function"):
            factory(None)
        with pytest.raises(TypeError, match="group must be a torch.distributed.ProcessGroup, .* got str"):
            factory(op, "gloo")
        with pytest.raises(ValueError, match="process group must be initialised .* got none; call"):
            factory(op)(params, buffers, [data], v)
    with pytest.raises(ValueError, match="iterable again"):
        distributed.averaged(op).at(params, buffers, iter([data]))
    with pytest.raises(ValueError, match="every must be at least 1"):
        distributed.resumable(op, "state.pt", every=0)


def cubes(params, buffers, x):
    return ((x @ params["w"]).tanh() + params["b"] * buffers["scale"]).pow(3)


def gradients(rank, owners, what, mean=distributed.averaged):
    """The first and the second derivative of a function of the product, by one of the arguments."""
    torch.manual_seed(0)
    params = {"w": torch.randn(3, dtype=torch.float64), "b": torch.randn((), dtype=torch.float64)}
    buffers, v = {"scale": torch.rand((), dtype=torch.float64)}, torch.randn(4, dtype=torch.float64)
    x, weights = torch.randn(8, 3, dtype=torch.float64), torch.randn(4, dtype=torch.float64)
    leaf = {"params": params["w"], "buffers": buffers["scale"], "v": v}[what].requires_grad_()
    batches = [part[0] for part in parts((x,), [3, 1, 2, 2], owners, rank)]
    product = mean(pb.hessian(cubes))(params, buffers, batches, v)
    (first,) = torch.autograd.grad((product.sin() * weights).sum(), leaf, create_graph=True)
    (second,) = torch.autograd.grad(first.cos().sum(), leaf)
    return product.detach(), first.detach(), second


@pytest.mark.parametrize("what", ["params", "buffers", "v"])
@pytest.mark.parametrize("owners", [[0, 1, 2, 0], [1, 1, 1, 1]])  # in the second, two ranks have no batch
def test_every_rank_gets_the_derivatives_that_one_process_gets(everywhere, what, owners):
    expected = gradients(None, owners, what, pb.averaged)
    for found in everywhere(gradients, owners, what):
        assert_close(found, expected)


def undifferentiable(rank, what):
    op, params, buffers, data, v = case("perceptron", "hessian", "rows", torch.float64, 0)
    scale = torch.ones((), dtype=torch.float64, requires_grad=what == "loss")
    scaled = pb.damped(op, 1.0) if what != "loss" else pb.batch_operation(lambda *_: lambda u: {k: scale * u[k] for k in u})
    mean_op, batches = distributed.averaged(scaled), [data]
    if what == "batch":
        batches = [(data[0].clone().requires_grad_(rank == 1), data[1])]
    if what == "some ranks":
        v = v.clone().requires_grad_(rank == 1)
    if what == "sharded":
        return distributed.sharded_vectors(op)(params, buffers, data, v.clone().requires_grad_())
    if what == "vmap":
        return torch.vmap(lambda row: mean_op(params, buffers, batches, row))(v)
    if what == "grad":
        return torch.func.grad(lambda u: mean_op(params, buffers, batches, u).sum())(v)
    return mean_op(params, buffers, batches, v)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("loss", "must be differentiated by params, buffers or v, got another tensor that requires gradients"),
        ("batch", "must be differentiated by params, buffers or v, got another tensor that requires gradients"),
        ("some ranks", "must require gradients on all ranks or on none, got 1 such tensors on rank 1 and 0 on rank 0"),
        ("sharded", "a product of sharded vectors must not require gradients"),
        ("vmap", "must be taken outside of transforms of torch.func"),
        ("grad", "must be taken outside of transforms of torch.func"),
    ],
)
def test_derivatives_that_would_be_those_of_one_rank_are_refused(everywhere, what, message):
    if what in ("vmap", "grad") and torch.__version__ < "2.2":
        pytest.skip("torch 2.1 does not tell of its transforms")
    for error in everywhere(undifferentiable, what):
        assert message in str(error)


def of_another_size(rank, size, change, leaf):
    params = {"a": torch.ones(3, dtype=torch.float64), "b": torch.full((2,), size, dtype=torch.float64)}
    op = pb.batch_operation(lambda params, buffers, batch: lambda v: {key: batch.mean() * v[key] for key in v})
    v = {key: size * torch.ones_like(value) for key, value in params.items()}
    if rank == 2:
        {"params": params, "v": v}[leaf]["b"].mul_(1 + change)
    return distributed.averaged(op)(params, {}, [torch.ones(2, dtype=torch.float64)], v)


@pytest.mark.parametrize("leaf", ["params", "v"])
def test_numbers_of_ranks_are_compared_relative_to_their_leaf(everywhere, leaf):
    for size in (1e-7, 1e-30, 1e7):
        for error in everywhere(of_another_size, size, 1e-5, leaf):
            assert f"{leaf} must be the same on all ranks, got other values on rank 2" in str(error)
        for found in everywhere(of_another_size, size, 1e-12, leaf):
            assert_close(found["a"], torch.full((3,), size, dtype=torch.float64))


SCRIPT = """
import datetime, sys
import torch, torch.distributed as dist
import pure_batchops as pb
from pure_batchops import distributed

torch.set_num_threads(1)
dist.init_process_group("gloo", timeout=datetime.timedelta(seconds=30))
rank = dist.get_rank()
op = pb.batch_operation(lambda params, buffers, x: lambda v: x.square().mean() * v)
batches = [torch.arange(1.0, 4.0)] if rank == 0 else [torch.tensor([4.0]), torch.tensor([5.0, 6.0])]
product = distributed.averaged(op)(torch.ones(2), {}, batches, torch.ones(2))
print(f"rank {rank} of {dist.get_world_size()}: {product.tolist()}\\n", end="", flush=True)
dist.barrier()
dist.destroy_process_group()
"""


def test_average_under_torchrun(tmp_path):
    (tmp_path / "job.py").write_text(SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(tmp_path / "job.py")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[:3000]
    mean = sum(i * i for i in range(1, 7)) / 6
    for rank in range(2):
        assert f"rank {rank} of 2: {[torch.tensor(mean).item()] * 2}" in done.stdout


def alone(rank, size, place, folder):
    dist.init_process_group("gloo", init_method=place, rank=rank, world_size=size)
    arguments = ("perceptron", "hessian", "flat", torch.float64, 0)
    torch.save(averaged_on(rank, arguments, [3, 5], [0, 1]), folder / f"{rank}.pt")


def test_average_under_torch_multiprocessing(tmp_path):
    place = f"file://{tmp_path}/store"
    group = multiprocessing.start_processes(alone, (2, place, tmp_path), 2, join=False, start_method="forkserver")
    assert processes.ended(group.processes, 60) == [0, 0]
    op, params, buffers, data, v = case("perceptron", "hessian", "flat", torch.float64, 0)
    for rank in range(2):
        assert_close(
            torch.load(tmp_path / f"{rank}.pt", weights_only=True), op(params, buffers, data, v), rtol=1e-12, atol=1e-12
        )
