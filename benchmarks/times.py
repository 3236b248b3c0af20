"""The time of a call as a multiple of a plain gradient, taken by turns in one process: what slows one slows both."""

from collections.abc import Callable
from math import ceil
from statistics import median
from timeit import timeit
from typing import NamedTuple

from benchmarks.problems import Problem, plain_gradient, vectors
from pure_batchops import Operation

Call = Callable[[], object]

VECTORS = 16

LEAST_SECONDS = 0.005
"""A shorter call is repeated until a round of it takes as long."""


class Times(NamedTuple):
    """Multiples of one plain gradient.

    Attributes:
        whole: of `op(params, buffers, batch, v)`.
        product: of the product alone, `op.at(params, buffers, batch)` done before.
        each: of one of 16 vectors `(16, D)` multiplied in one call.
    """

    whole: float
    product: float
    each: float


def operation_times(problem: Problem, op: Operation, rounds: int) -> Times:
    """The times of an operation."""
    point = problem.params, problem.buffers, problem.batch
    one, many = vectors(problem), vectors(problem, VECTORS)
    product = op.at(*point)
    return Times(
        ratio(problem, lambda: op(*point, one), rounds),
        ratio(problem, lambda: product(one), rounds),
        ratio(problem, lambda: op(*point, many), rounds) / VECTORS,
    )


def ratio(problem: Problem, call: Call, rounds: int) -> float:
    """The median, over the rounds, of the time of the call over that of the plain gradient next to it."""
    gradient = plain_gradient(problem)
    calls, gradients = _calls(call), _calls(gradient)
    return median(_seconds(call, calls) / _seconds(gradient, gradients) for _ in range(rounds))


def gradient_seconds(problem: Problem, rounds: int) -> float:
    """The median time of the plain gradient."""
    gradient = plain_gradient(problem)
    calls = _calls(gradient)
    return median(_seconds(gradient, calls) for _ in range(rounds))


def _calls(call: Call) -> int:
    """How often to call in a round; finding it is the warm-up."""
    first = _seconds(call, 1)
    return ceil(LEAST_SECONDS / (first if first > 20 * LEAST_SECONDS else _seconds(call, 1)))  # the first may load libraries


def _seconds(call: Call, calls: int) -> float:
    return timeit(call, number=calls) / calls
