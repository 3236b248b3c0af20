"""Averages of products, and operations averaged over batches: one fold over a generator.

All are folds on the monoid of pairs (weighted sum, weight): pairs add, so partial averages merge.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from functools import partial, reduce
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from pure_batchops import checks
from pure_batchops.batches import n_points
from pure_batchops.operations.batch_operation import with_at
from pure_batchops.trees import move, named, named_leaves, parameter_leaves, rebuilt, same_leaves
from pure_batchops.types import Batch, Buffers, LinearMap, Operation, Params, Tree, Vector

Weighted = tuple[Tree, Tree, float]
"""(Σ w t, an example of t, Σ w): the sum one precision wider than the products, whose shapes and dtypes the example has."""

_WIDER = {
    torch.float16: torch.float32,
    torch.bfloat16: torch.float32,
    torch.float32: torch.float64,
    torch.complex64: torch.complex128,
}


def weighted_average(pairs: Iterable[tuple[Tree, float]]) -> Tree:
    """The weighted average of products, Σ wᵢ tᵢ / Σ wᵢ.

    Args:
        pairs: `(product, weight)`, read once, one at a time. Products are trees or tensors, all of one structure, shape
            and dtype; weights are finite and not negative.

    Returns:
        A product, new, in the dtype of the products, summed in the next wider one.

    Raises:
        TypeError: if a product holds no floating-point numbers, or a weight is no number.
        ValueError: if there is no product, the total weight is zero, a weight is negative or not finite, or products
            differ in structure, shape or dtype.

    Examples:
        >>> weighted_average([(torch.tensor([1.0]), 1), (torch.tensor([4.0]), 2)])
        tensor([3.])
    """
    states = (_weighted(*_pair(item)) for item in pairs)
    average = reduce(_merged, states, None)
    if average is None:
        msg = "there is nothing to average: the stream is empty (a generator that was already used up?)"
        raise ValueError(msg)
    total, like, weight = average
    if weight == 0:
        msg = "the total weight must be positive, got zero (batches without points?)"
        raise ValueError(msg)
    return _zipped(lambda leaf, example: (leaf / weight).to(example.dtype), total, like)


def chunk_average(products: Iterable[Tree]) -> Tree:
    """The plain average of products, Σ tᵢ / count: every batch counts the same.

    Args:
        products: trees or tensors, as for `weighted_average`.

    Returns:
        A product, new.

    Raises:
        TypeError: if a product holds no floating-point numbers.
        ValueError: if there is no product, or products differ in structure, shape or dtype.

    Examples:
        >>> chunk_average(torch.tensor([float(i)]) for i in range(3))
        tensor([1.])
    """
    return weighted_average((product, 1) for product in products)


def point_average(pairs: Iterable[tuple[Tree, Batch]], batch_dim: int = 0) -> Tree:
    """The average of products, weighted by the points of their batches, Σ n(bᵢ) tᵢ / Σ n(bᵢ).

    Over any split of the data into batches it is the product of all the data.

    Args:
        pairs: `(product, batch)`; points are counted in the batch, never read off the product.
        batch_dim: the axis of the points in the tensors of a batch.

    Returns:
        A product, new.

    Raises:
        TypeError: if a product holds no floating-point numbers.
        ValueError: as for `weighted_average`, and if the tensors of a batch differ in length.

    Examples:
        >>> three_equal = [(torch.ones(2), (torch.zeros(n, 5), torch.zeros(n))) for n in (1, 2, 3)]
        >>> point_average(three_equal)
        tensor([1., 1.])
    """
    axis = checks.axis("batch_dim", batch_dim)
    return weighted_average((product, n_points(batch, axis)) for product, batch in map(_pair, pairs))


def averaged(
    op: Operation,
    weight: Callable[[Batch], float] = n_points,
    progress: Callable[[Iterable[Batch]], Iterable[Batch]] | None = None,
) -> Operation:
    """The operation averaged over batches, m(batches) = Σ w(b) m(b) / Σ w(b).

    Args:
        op: any operation on a batch, also under vmap.
        weight: what a batch counts. By default its points, which makes the average the operation on all the data, over
            any split; `lambda batch: 1` counts every batch the same.
        progress: wraps the stream of batches, `tqdm` for one.

    Returns:
        `mean_op(params, buffers, batches, v) -> product`: batches is any iterable, read once and one at a time, each batch
        moved to the device of params. `mean_op.at(params, buffers, batches)` reads them for each v, so they must be
        iterable again, as a list or a DataLoader is.

    Raises:
        TypeError: if op, weight or progress is no function.
        ValueError: if there is no batch, or the total weight is zero.

    Examples:
        >>> from pure_batchops import gauss_newton
        >>> mean_op = averaged(gauss_newton(lambda params, buffers, x: params * x))
        >>> mean_op(torch.tensor([1.0]), {}, [torch.tensor([1.0, 2.0]), torch.tensor([4.0])], torch.tensor([1.0]))
        tensor([7.])
    """
    for name, function in (("op", op), ("weight", weight), ("progress", progress or iter)):
        checks.function(name, function)

    def terms(params: Params, buffers: Buffers, batches: Iterable[Batch]) -> Iterator[tuple[LinearMap, float]]:
        device = next(iter(parameter_leaves(params).values())).device
        stream = (move(batch, device) for batch in (batches if progress is None else progress(batches)))
        return ((partial(op, params, buffers, batch), weight(batch)) for batch in stream)

    def operation(params: Params, buffers: Buffers, batches: Iterable[Batch], v: Vector) -> Vector:
        return weighted_average((product(v), count) for product, count in terms(params, buffers, batches))

    def at(params: Params, buffers: Buffers, batches: Iterable[Batch]) -> Callable[[Vector], Vector]:
        if isinstance(batches, Iterator):
            msg = f"batches must be iterable again for each v, as a list or a DataLoader is, got a {type(batches).__name__}"
            raise ValueError(msg)
        return lambda v: operation(params, buffers, batches, v)

    operation.terms = terms  # type: ignore[attr-defined]  # for a recursion over single batches, as lissa is
    return with_at(operation, at)


def _pair(item: Any) -> tuple[Any, Any]:
    if not isinstance(item, (tuple, list)) or len(item) != 2:
        msg = f"an average must be given pairs (product, weight or batch), got {type(item).__name__}"
        raise ValueError(msg)
    return item[0], item[1]


def _weighted(product: Tree, weight: Any) -> Weighted:
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


def _merged(one: Weighted | None, other: Weighted) -> Weighted:
    """(s, w) + (s', w') = (s + s', w + w'); nothing yet is None."""
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


def _zipped(function: Callable[[Tensor, Tensor], Tensor], one: Tree, other: Tree) -> Tree:
    expected = named_leaves(one)
    others = same_leaves("each product", expected, other)
    return rebuilt(one, [function(a, b) for a, b in zip(expected.values(), others, strict=True)])
