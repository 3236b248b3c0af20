"""The sides of comparisons: calls that make one product, or many, in one way or another."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.cases.operations import OPERATIONS, product
from benchmarks.cases.problems import RECIPES, Problem, members, pieces, plain_gradient, stacked_members
from benchmarks.comparison import NotMeasured, Side
from benchmarks.contestants import Multiplication, Product, reason
from benchmarks.times import Call
from pure_batchops import averaged


def ours(problem: Problem, operation: str, v: Tensor) -> Call:
    """One call with all vectors."""
    return product(OPERATIONS[operation](problem), problem, v)


def one_by_one(problem: Problem, operation: str, v: Tensor) -> Multiplication:
    """A call for each vector."""
    calls = [ours(problem, operation, row) for row in v]
    return Multiplication(lambda: [call() for call in calls], torch.stack)


def theirs(product: Product) -> Side:
    """The product of a contestant."""
    return lambda problem, _, v: product(problem, v)


def gradient(problem: Problem, _operation: str, _v: Tensor) -> Call:
    """One plain gradient, eager."""
    return plain_gradient(problem)


def compiled(problem: Problem, operation: str, v: Tensor) -> Call:
    """One call, compiled."""
    return _after_compilation(OPERATIONS[operation](problem), problem.params, problem.buffers, problem.batch, v)


def ensemble(count: int) -> Side:
    """One call of vmap over the members of an ensemble."""
    return lambda problem, operation, v: partial(*_of_ensemble(problem, operation, v, count))


def compiled_ensemble(count: int) -> Side:
    """One call of vmap over the members of an ensemble, compiled."""
    return lambda problem, operation, v: _after_compilation(*_of_ensemble(problem, operation, v, count))


def loop_of_ours(count: int) -> Side:
    """A call for each member of an ensemble."""

    def side(problem: Problem, operation: str, v: Tensor) -> Multiplication:
        calls = [ours(member, operation, v) for member in members(problem, count)]
        return Multiplication(lambda: [call() for call in calls], torch.stack)

    return side


def loop_of_theirs(count: int, product: Product) -> Side:
    """A call of a contestant for each member of an ensemble."""

    def side(problem: Problem, _operation: str, v: Tensor) -> Multiplication:
        all_of_them = [product(member, v) for member in members(problem, count)]
        flat = lambda results: torch.stack([each.flat(one) for each, one in zip(all_of_them, results, strict=True)])  # noqa: E731
        return Multiplication(lambda: [each.call() for each in all_of_them], flat)

    return side


def average(problem: Problem, operation: str, v: Tensor) -> Call:
    """The average over the batch in pieces, each as large as the recipe's batch."""
    op, batches = averaged(OPERATIONS[operation](problem)), pieces(problem.batch, RECIPES[problem.name].samples)
    return lambda: op(problem.params, problem.buffers, batches, v)


def added_by_hand(problem: Problem, operation: str, v: Tensor) -> Call:
    """The same average, as a loop that adds up."""
    op, batches = OPERATIONS[operation](problem), pieces(problem.batch, RECIPES[problem.name].samples)

    def call() -> Tensor:
        total = torch.zeros_like(v)
        for batch in batches:
            total += len(batch[1]) * op(problem.params, problem.buffers, batch, v)
        return total / len(problem.batch[1])

    return call


def _of_ensemble(problem: Problem, operation: str, v: Tensor, count: int) -> tuple[Any, ...]:
    """The operation under vmap over the members, and its arguments."""
    multiply = torch.vmap(OPERATIONS[operation](problem), in_dims=(0, 0, None, None))
    return multiply, *stacked_members(problem, count), problem.batch, v


def _after_compilation(function: Callable[..., Any], *arguments: Any) -> Call:
    """The call of the compiled function, after a first one that compiles it.

    Raises:
        NotMeasured: if it does not compile, for want of a C++ compiler or because this torch cannot do it.
    """
    torch.compiler.reset()  # or one function that is compiled for many operations reaches the limit of recompilations
    try:
        compiled = torch.compile(function, fullgraph=True)
        compiled(*arguments)
    except Exception as error:
        msg = f"does not compile here: {reason(error)}"
        raise NotMeasured(msg) from error
    return lambda: compiled(*arguments)
