"""The state of an average, a plain value: start, step, merge, result.

Every average is made of these four. States add, so averages of parts can be merged, in any number of processes.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from pure_batchops.averages.checked import check_product, check_total, checked_weight
from pure_batchops.averages.terms import added, weighted
from pure_batchops.trees import leaves, map_leaves, named, named_leaves, rebuilt, same_leaves
from pure_batchops.types import Tree

NOTHING = "there is nothing to average: the stream is empty (a generator that was already used up?)"
"""What an average over no batches says."""


class AverageState(NamedTuple):
    """An average so far, a plain value.

    `torch.save(state._asdict(), path)` writes it, `AverageState(**torch.load(path, weights_only=True))` reads it.

    Attributes:
        total: Σ wᵢ tᵢ, a tree like the products tᵢ, one precision wider; None before the first product.
        weight: Σ wᵢ.
        batches: the number of products.
        dtypes: the dtypes of the leaves of the products, in their order.
    """

    total: Tree | None
    weight: float
    batches: int
    dtypes: tuple[torch.dtype, ...]


def average_start() -> AverageState:
    """The empty state. Merging it with another state does not change the other state.

    Returns:
        A state.

    Examples:
        >>> average_start()
        AverageState(total=None, weight=0.0, batches=0, dtypes=())
    """
    return AverageState(None, 0.0, 0, ())


def average_step(state: AverageState, product: Tree, weight: float = 1.0) -> AverageState:
    """The state with one more product, (Σ w t + w' t', Σ w + w').

    Args:
        state: the state of the products so far, which is not changed.
        product: a tree or tensor with the structure, shapes and dtypes of the products so far.
        weight: w', finite and not negative.

    Returns:
        A new state. It shares no memory with the product.

    Raises:
        TypeError: if the product holds no floating-point numbers, or the weight is no number.
        ValueError: if the weight is negative or above 1e15, or the product differs from the products so far in structure,
            shape or dtype.

    Examples:
        >>> average_step(average_start(), torch.tensor([1.0]), 2)
        AverageState(total=tensor([2.], dtype=torch.float64), weight=2.0, batches=1, dtypes=(torch.float32,))
    """
    return step_by(added, state, product, weight)


def step_by(add: Callable[[Tensor, Tensor, float], Tensor], state: AverageState, product: Tree, weight: float) -> AverageState:
    """The state with one more product, whose leaves are added by `add(total, leaf, weight)`."""
    weight = checked_weight(weight)
    check_product(product)
    dtypes = tuple(leaf.dtype for leaf in leaves(product))
    if state.total is None:
        return AverageState(map_leaves(lambda leaf: weighted(leaf, weight), product), weight, 1, dtypes)
    sums = [add(total, leaf, weight) for total, leaf in _pairs(state, product, dtypes)]
    return AverageState(rebuilt(state.total, sums), state.weight + weight, state.batches + 1, state.dtypes)


def _pairs(state: AverageState, other: Tree, dtypes: tuple[torch.dtype, ...]) -> list[tuple[Tensor, Tensor]]:
    """The leaves of the sum in a state, each with that of another sum or product; its products have these dtypes."""
    expected = named_leaves(state.total)
    given, other_dtypes = same_leaves("each product", expected, other), dict(zip(named_leaves(other), dtypes, strict=True))
    for (path, leaf), dtype, term in zip(expected.items(), state.dtypes, given, strict=True):
        if leaf.shape != term.shape or dtype != other_dtypes[path]:
            msg = (
                f"all products must have one shape and dtype, got at {named(path)} {tuple(leaf.shape)} {dtype} "
                f"and {tuple(term.shape)} {other_dtypes[path]}"
            )
            raise ValueError(msg)
    return list(zip(expected.values(), given, strict=True))


def average_merge(one: AverageState, other: AverageState) -> AverageState:
    """The state of the products of both, (s + s', w + w').

    Args:
        one: a state.
        other: a state of products of the same structure, shapes and dtypes. Its device is the device of the result.

    Returns:
        A state. The order of one and other changes nothing but rounding.

    Raises:
        ValueError: if their products differ in structure, shape or dtype.

    Examples:
        >>> one, other = (average_step(average_start(), torch.tensor([t]), w) for t, w in ((1.0, 1), (4.0, 2)))
        >>> average_result(average_merge(one, other))
        tensor([3.])
    """
    if one.total is None or other.total is None:
        return other if one.total is None else one
    sums = [leaf.to(term.device) + term for leaf, term in _pairs(one, other.total, other.dtypes)]
    return AverageState(rebuilt(one.total, sums), one.weight + other.weight, one.batches + other.batches, one.dtypes)


def average_result(state: AverageState) -> Tree:
    """The average of a state, Σ wᵢ tᵢ / Σ wᵢ.

    Args:
        state: a state of at least one product.

    Returns:
        A new product in the dtypes of the products.

    Raises:
        ValueError: if there was no product, or the total weight is below 1e-15.

    Examples:
        >>> average_result(average_step(average_start(), torch.tensor([5.0]), 3))
        tensor([5.])
    """
    if state.total is None:
        raise ValueError(NOTHING)
    check_total(state.weight)
    means = [(leaf / state.weight).to(dtype) for leaf, dtype in zip(leaves(state.total), state.dtypes, strict=True)]
    return rebuilt(state.total, means)
