"""Averages of products: one fold over a stream, with the states of `state`."""

from collections.abc import Iterable
from typing import Any

from pure_batchops import checks
from pure_batchops.averages.state import AverageState, average_result, average_start, step_by
from pure_batchops.averages.terms import added, added_in_place
from pure_batchops.batches import n_points
from pure_batchops.types import Batch, Tree


def weighted_average(pairs: Iterable[tuple[Tree, float]]) -> Tree:
    """The weighted average of products, Σ wᵢ tᵢ / Σ wᵢ.

    Args:
        pairs: `(product, weight)`, read once, one at a time. Products are trees or tensors, all with the same structure,
            shapes and dtypes. Weights are finite and not negative.

    Returns:
        A new product in the dtype of the products. The sum is kept in the next wider dtype.

    Raises:
        TypeError: if a product holds no floating-point numbers, or a weight is no number.
        ValueError: if there is no product, the total weight is zero, a weight is negative or not finite, or products
            differ in structure, shape or dtype.

    Examples:
        >>> import torch
        >>> weighted_average([(torch.tensor([1.0]), 1), (torch.tensor([4.0]), 2)])
        tensor([3.])
    """
    return average_result(average_fold(average_start(), pairs))


def average_fold(state: AverageState, pairs: Iterable[tuple[Tree, float]]) -> AverageState:
    """The state after all the pairs (product, weight)."""
    add = added
    for item in pairs:
        state = step_by(add, state, *_pair(item))
        add = added_in_place  # the first step made new sums, which nobody else holds
    return state


def chunk_average(products: Iterable[Tree]) -> Tree:
    """The plain average of products, Σ tᵢ / count. Every batch has the same weight.

    Args:
        products: trees or tensors, as for `weighted_average`.

    Returns:
        A new product.

    Raises:
        TypeError: if a product holds no floating-point numbers.
        ValueError: if there is no product, or products differ in structure, shape or dtype.

    Examples:
        >>> import torch
        >>> chunk_average(torch.tensor([float(i)]) for i in range(3))
        tensor([1.])
    """
    return weighted_average((product, 1) for product in products)


def point_average(pairs: Iterable[tuple[Tree, Batch]], batch_dim: int = 0) -> Tree:
    """The average of products, weighted by the points of their batches, Σ n(bᵢ) tᵢ / Σ n(bᵢ).

    For any split of the data into batches the result is the product of all the data.

    Args:
        pairs: `(product, batch)`. The points are counted in the batch, and not in the product.
        batch_dim: the axis of the points in the tensors of a batch.

    Returns:
        A new product.

    Raises:
        TypeError: if a product holds no floating-point numbers.
        ValueError: as for `weighted_average`, and if the tensors of a batch differ in length.

    Examples:
        >>> import torch
        >>> three_equal = [(torch.ones(2), (torch.zeros(n, 5), torch.zeros(n))) for n in (1, 2, 3)]
        >>> point_average(three_equal)
        tensor([1., 1.])
    """
    batch_dim = checks.axis("batch_dim", batch_dim)
    return weighted_average((product, n_points(batch, batch_dim)) for product, batch in map(_pair, pairs))


def _pair(item: Any) -> tuple[Any, Any]:
    if not isinstance(item, (tuple, list)) or len(item) != 2:
        msg = f"an average must be given pairs (product, weight or batch), got {type(item).__name__}"
        raise ValueError(msg)
    return item[0], item[1]
