"""Real processes: forked from a server that has imported torch once, bounded in time, and what they run."""

import contextlib
import datetime as dt
import os
import pickle
import signal
import time

import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing

import pure_batchops as pb
from tests.strategies import problem

os.environ["GLOO_SOCKET_IFNAME"] = "lo"  # processes meet on the loopback address

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["torch", "torch.distributed", "torch._dynamo", "hypothesis", "pytest", "pure_batchops"])


def started(target, *arguments):
    """A process that runs target, one torch thread."""
    process = CONTEXT.Process(target=_quietly, args=(target, arguments), daemon=True)
    process.start()
    return process


def _quietly(target, arguments):
    torch.set_num_threads(1)
    target(*arguments)


def ended(processes, seconds):
    """The exit codes of processes that end by themselves within so many seconds; else they are killed, and it fails."""
    deadline = time.monotonic() + seconds
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
    late = [process for process in processes if process.is_alive()]
    for process in late:
        process.kill()
        process.join()
    assert not late, f"{len(late)} of {len(processes)} processes did not end within {seconds} s"
    return [process.exitcode for process in processes]


def kill(process):
    """End a process at once, as a power failure does."""
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert process.exitcode == -signal.SIGKILL


def job(batches, pause=0.0):
    """An average of a few numbers: op, weight and the arguments of the average on it."""
    p = problem("perceptron", 2 * batches)
    data = [tuple(part[2 * i : 2 * i + 2 - i % 2] for part in p.batch) for i in range(batches)]

    def weight(batch):
        time.sleep(pause)
        return pb.n_points(batch)

    v = torch.linspace(-1, 1, p.numbers, dtype=torch.float64)
    return pb.gauss_newton(p.loss), weight, (p.params, p.buffers, data, v)


def resumed(path, every, batches, pause, ready, product=None):
    """Go on with the average at path; say when it starts, and save the product."""
    op, weight, arguments = job(batches, pause)
    params, buffers, data, v = arguments
    op(params, buffers, data[0], v)  # the first product of a process imports and compiles
    ready.set()
    found = pb.resumable(op, path, every=every, weight=weight)(*arguments)
    if product is not None:
        torch.save(found, product)


@contextlib.contextmanager
def ranks(size, folder, timeout=60):
    """Processes in one group: a function that runs another on all of them and gives what each returns, or raises."""
    place = f"file://{folder}/store-{time.monotonic_ns()}"
    pipes = [CONTEXT.Pipe() for _ in range(size)]
    members = [started(_rank, rank, size, place, timeout, pipe) for rank, (_, pipe) in enumerate(pipes)]
    for _, pipe in pipes:
        pipe.close()  # so that it ends with the process

    def everywhere(function, *arguments, seconds=60, answering=range(size)):
        for pipe, _ in pipes:
            pipe.send((function, arguments))
        deadline = time.monotonic() + seconds
        return [_answer(pipes[i][0], members[i], deadline) for i in answering]

    everywhere.members = members
    try:
        yield everywhere
    finally:
        for process in members:
            process.kill()
            process.join()


def _answer(pipe, process, deadline):
    while not pipe.poll(0.02):
        if not process.is_alive() and not pipe.poll():
            return f"ended by {process.exitcode}"
        assert time.monotonic() < deadline, "a rank did not answer in time: it hangs"
    try:
        return pickle.loads(pipe.recv_bytes())
    except (EOFError, OSError):
        process.join()
        return f"ended by {process.exitcode}"


def _rank(rank, size, place, timeout, pipe):
    limit = dt.timedelta(seconds=timeout)
    dist.init_process_group("gloo", init_method=place, rank=rank, world_size=size, timeout=limit)
    while True:
        function, arguments = pipe.recv()
        try:
            answer = function(rank, *arguments)
        except Exception as error:
            answer = error if type(error).__module__ == "builtins" else RuntimeError(repr(error))
        pipe.send_bytes(pickle.dumps(answer))  # numbers and all: shared memory would need the process to stay
