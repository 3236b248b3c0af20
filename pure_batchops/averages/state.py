"""The state of an average, a plain value: start, step, merge, result.

The monoid under every average: pairs (weighted sum, weight) add, so that partial averages merge, in any number of processes.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pure_batchops.trees import leaves, map_leaves, named, named_leaves, rebuilt, same_leaves
from pure_batchops.types import Tree

_WIDER = {
    torch.float16: torch.float32,
    torch.bfloat16: torch.float32,
    torch.float32: torch.float64,
    torch.complex64: torch.complex128,
}


class AverageState(NamedTuple):
    """An average so far, a plain value.

    `torch.save(state._asdict(), path)` writes it, `AverageState(**torch.load(path, weights_only=True))` reads it.

    Attributes:
        total: Σ wᵢ tᵢ, a tree like the products tᵢ, one precision wider; None before the first.
        weight: Σ wᵢ.
        batches: how many products there were.
        dtypes: of the leaves of the products, in their order.
    """

    total: Tree | None
    weight: float
    batches: int
    dtypes: tuple[torch.dtype, ...]


def average_start() -> AverageState:
    """The state of an average of nothing, which changes no state that it is merged with.

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
        state: of the products so far; it stays as it is.
        product: a tree or tensor with the structure, shapes and dtypes of those before.
        weight: w', finite and not negative.

    Returns:
        A new state, in which nothing is an alias of the product.

    Raises:
        TypeError: if the product holds no floating-point numbers, or the weight is no number.
        ValueError: if the weight is negative or not finite, or the product differs from those before in structure, shape
            or dtype.

    Examples:
        >>> average_step(average_start(), torch.tensor([1.0]), 2)
        AverageState(total=tensor([2.], dtype=torch.float64), weight=2.0, batches=1, dtypes=(torch.float32,))
    """
    number = _weight(weight)
    for path, leaf in named_leaves(product).items():
        if not isinstance(leaf, Tensor) or not (leaf.is_floating_point() or leaf.is_complex()):
            seen = leaf.dtype if isinstance(leaf, Tensor) else type(leaf).__name__
            msg = f"a product must hold floating-point tensors, got {seen} at {named(path)}"
            raise TypeError(msg)
    total = map_leaves(lambda leaf: leaf.to(_WIDER.get(leaf.dtype, leaf.dtype)) * number, product)
    return average_merge(state, AverageState(total, number, 1, tuple(leaf.dtype for leaf in leaves(product))))


def average_merge(one: AverageState, other: AverageState) -> AverageState:
    """The state of the products of both, (s + s', w + w'). Sums on two devices are added on that of the other.

    Args:
        one: a state.
        other: a state of products of the same structure, shapes and dtypes.

    Returns:
        A state; the order of one and other changes nothing but rounding.

    Raises:
        ValueError: if their products differ in structure, shape or dtype.

    Examples:
        >>> one, other = (average_step(average_start(), torch.tensor([t]), w) for t, w in ((1.0, 1), (4.0, 2)))
        >>> average_result(average_merge(one, other))
        tensor([3.])
    """
    if one.total is None or other.total is None:
        return other if one.total is None else one
    expected = named_leaves(one.total)
    found = same_leaves("each product", expected, other.total)
    kinds = dict(zip(named_leaves(other.total), other.dtypes, strict=True))
    for (path, leaf), dtype, added in zip(expected.items(), one.dtypes, found, strict=True):
        if leaf.shape != added.shape or dtype != kinds[path]:
            msg = (
                f"all products must have one shape and dtype, got at {named(path)} {tuple(leaf.shape)} {dtype} "
                f"and {tuple(added.shape)} {kinds[path]}"
            )
            raise ValueError(msg)
    sums = [leaf.to(added.device) + added for leaf, added in zip(expected.values(), found, strict=True)]
    return AverageState(rebuilt(one.total, sums), one.weight + other.weight, one.batches + other.batches, one.dtypes)


def average_result(state: AverageState) -> Tree:
    """The average of a state, Σ wᵢ tᵢ / Σ wᵢ.

    Args:
        state: of at least one product.

    Returns:
        A product, new, in the dtypes of the products.

    Raises:
        ValueError: if there was no product, or the total weight is zero.

    Examples:
        >>> average_result(average_step(average_start(), torch.tensor([5.0]), 3))
        tensor([5.])
    """
    if state.total is None:
        msg = "there is nothing to average: the stream is empty (a generator that was already used up?)"
        raise ValueError(msg)
    if state.weight == 0:
        msg = "the total weight must be positive, got zero (batches without points?)"
        raise ValueError(msg)
    means = [(leaf / state.weight).to(dtype) for leaf, dtype in zip(leaves(state.total), state.dtypes, strict=True)]
    return rebuilt(state.total, means)


def _weight(weight: Any) -> float:
    if isinstance(weight, (str, bytes)) or weight is None or (isinstance(weight, Tensor) and weight.numel() != 1):
        msg = f"a weight must be a number, got {weight!r}"
        raise TypeError(msg)
    number = float(weight)
    if not math.isfinite(number) or number < 0:
        msg = f"a weight must be finite and not negative, got {number}"
        raise ValueError(msg)
    return number
