"""The peak memory of one call in a fresh process: `python -m benchmarks.memory PROBLEM SAMPLES OPERATION... [--vectors K]`.

The process builds the problem, takes a plain gradient, and multiplies once on the tiny problem: the first transform of
torch.func in a process loads some 75 MB of Python modules, which say nothing about the operation. The memory resident after
that is the base. The figure is the peak over the base of one product `op(params, buffers, batch, v)`, in MB of 10⁶ bytes.
`CONTESTANT/OPERATION` is the product of a contestant.

On Linux the process resets the peak by writing "5" to /proc/self/clear_refs, and reads it as VmHWM from /proc/self/status.
Elsewhere it reads `ru_maxrss` of getrusage, the peak over the whole life of the process, and the figure is a lower bound.

`peak_memories` makes glibc give back freed memory, so that the figure is right also where several calls share a process. The
command above, when you type it, leaves glibc alone.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from pkgutil import resolve_name

import torch

from benchmarks.cases.influences import INFLUENCES
from benchmarks.cases.operations import GRADIENT, OPERATIONS, product
from benchmarks.cases.problems import Problem, plain_gradient, problem_named, vectors
from benchmarks.contestants import field
from benchmarks.times import Call

_ROOT = Path(__file__).parent.parent


def peak_memories(name: str, samples: int, operations: Sequence[str], count: int = 0) -> list[float]:
    """The peak over the base in MB of each operation, one after the other in one fresh process.

    Args:
        name: the problem.
        samples: the size of its batch.
        operations: names of rows of OPERATIONS or INFLUENCES, the name of the plain gradient, a product of a contestant,
            `"contestant/operation"`, or any function `"module:name"` like the rows of OPERATIONS.
        count: the number of vectors, `(K, D)`; 0 for one vector `(D,)`.

    Returns:
        One number for each operation.
    """
    command = [sys.executable, "-m", "benchmarks.memory", name, str(samples), *operations, "--vectors", str(count)]
    giving_back = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    printed = subprocess.run(command, cwd=_ROOT, env=giving_back, stdout=subprocess.PIPE, text=True, check=True).stdout
    return [float(line) for line in printed.splitlines()]


def is_measurable() -> bool:
    """Whether this platform tells the peak memory of a process."""
    try:
        return _peak() > 0
    except ImportError:
        return False


def _peak_over_base(name: str, samples: int, operation: str, count: int) -> int:
    at_scale = problem_named(name, samples)
    plain_gradient(at_scale)()
    _call(problem_named("tiny"), operation, count)()
    call = _call(at_scale, operation, count)
    _reset_peak()
    base = _peak()
    call()
    return max(0, _peak() - base)  # the kernel counts roughly, and may count less than before


def _call(problem: Problem, operation: str, count: int) -> Call:
    if operation == GRADIENT:
        return plain_gradient(problem)
    if operation in INFLUENCES:
        return INFLUENCES[operation](problem)
    v = vectors(problem, *([count] if count else []))
    contestant, _, theirs = operation.rpartition("/")
    if contestant:
        return field([contestant]).products[contestant][theirs](problem, v).call
    return product((OPERATIONS.get(operation) or resolve_name(operation))(problem), problem, v)


def _reset_peak() -> None:
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return  # without the file, or the right to write it, the figure is a lower bound


def _peak() -> int:
    """The peak of resident memory since it was last reset, in bytes."""
    status = Path("/proc/self/status")
    lines = status.read_text(encoding="utf-8").splitlines() if status.exists() else []
    for line in lines:
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    import resource  # Windows has no such module

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory")
    parser.add_argument("problem")
    parser.add_argument("samples", type=int)
    parser.add_argument("operation", nargs="+")
    parser.add_argument("--vectors", type=int, default=0, metavar="K")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for operation in options.operation:
        print(_peak_over_base(options.problem, options.samples, operation, options.vectors) / 1e6)


if __name__ == "__main__":
    _main()
