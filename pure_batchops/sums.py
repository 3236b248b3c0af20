"""Weighted sums of products: the monoid of pairs (weighted sum, weight), whose states add, so partial sums merge."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from pure_batchops.trees import named, named_leaves, rebuilt, same_leaves
from pure_batchops.types import Tree

Weighted = tuple[Tree, Tree, float]
"""(Σ w t, an example of t, Σ w): the sum one precision wider than the products, whose shapes and dtypes the example has."""

_WIDER = {
    torch.float16: torch.float32,
    torch.bfloat16: torch.float32,
    torch.float32: torch.float64,
    torch.complex64: torch.complex128,
}


def weighted(product: Tree, weight: Any) -> Weighted:
    """The state of one product.

    Returns:
        What `Weighted` says.

    Raises:
        TypeError: if the product holds no floating-point numbers, or the weight is no number.
        ValueError: if the weight is negative or not finite.
    """
    number = _weight(weight)
    for path, leaf in named_leaves(product).items():
        if not isinstance(leaf, Tensor) or not (leaf.is_floating_point() or leaf.is_complex()):
            seen = leaf.dtype if isinstance(leaf, Tensor) else type(leaf).__name__
            msg = f"a product must hold floating-point tensors, got {seen} at {named(path)}"
            raise TypeError(msg)
    return tree_map(lambda leaf: leaf.to(_WIDER.get(leaf.dtype, leaf.dtype)) * number, product), product, number


def _weight(weight: Any) -> float:
    if isinstance(weight, (str, bytes)) or weight is None or (isinstance(weight, Tensor) and weight.numel() != 1):
        msg = f"a weight must be a number, got {weight!r}"
        raise TypeError(msg)
    number = float(weight)
    if not math.isfinite(number) or number < 0:
        msg = f"a weight must be finite and not negative, got {number}"
        raise ValueError(msg)
    return number


def merged(one: Weighted | None, other: Weighted) -> Weighted:
    """(s, w) + (s', w') = (s + s', w + w'); nothing yet is None.

    Returns:
        The state of both.

    Raises:
        ValueError: if their products differ in structure, shape or dtype.
    """
    if one is None:
        return other
    expected = named_leaves(one[1])
    examples = same_leaves("each product", expected, other[1])
    for (path, leaf), found in zip(expected.items(), examples, strict=True):
        if leaf.shape != found.shape or leaf.dtype != found.dtype:
            msg = (
                f"all products must have one shape and dtype, got at {named(path)} {tuple(leaf.shape)} {leaf.dtype} "
                f"and {tuple(found.shape)} {found.dtype}"
            )
            raise ValueError(msg)
    return _zipped(torch.add, one[0], other[0]), one[1], one[2] + other[2]


def quotient(state: Weighted | None) -> Tree:
    """The average of a state, Σ w t / Σ w, in the dtype of the products.

    Returns:
        A product, new.

    Raises:
        ValueError: if there is no product, or the total weight is zero.
    """
    if state is None:
        msg = "there is nothing to average: the stream is empty (a generator that was already used up?)"
        raise ValueError(msg)
    total, like, weight = state
    if weight == 0:
        msg = "the total weight must be positive, got zero (batches without points?)"
        raise ValueError(msg)
    return _zipped(lambda leaf, example: (leaf / weight).to(example.dtype), total, like)


def _zipped(function: Callable[[Tensor, Tensor], Tensor], one: Tree, other: Tree) -> Tree:
    expected = named_leaves(one)
    others = same_leaves("each product", expected, other)
    return rebuilt(one, [function(a, b) for a, b in zip(expected.values(), others, strict=True)])
