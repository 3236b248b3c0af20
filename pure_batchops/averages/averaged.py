"""Averages of products, and operations averaged over batches: one fold over a generator.

All are folds on the monoid of `average_states`.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import partial, reduce
from typing import Any

from pure_batchops import checks
from pure_batchops.averages.state import AverageState, average_result, average_start, average_step
from pure_batchops.averages.stream import Progress, Weight, counting, weighted_products
from pure_batchops.batches import n_points
from pure_batchops.operations.operation import with_at
from pure_batchops.trees import move, parameter_leaves
from pure_batchops.types import Batch, Buffers, LinearMap, Operation, Params, Tree, Vector


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
        >>> import torch
        >>> weighted_average([(torch.tensor([1.0]), 1), (torch.tensor([4.0]), 2)])
        tensor([3.])
    """
    return average_result(average_fold(average_start(), pairs))


def average_fold(state: AverageState, pairs: Iterable[tuple[Tree, float]]) -> AverageState:
    """The state after all the pairs (product, weight)."""
    return reduce(lambda so_far, item: average_step(so_far, *_pair(item)), pairs, state)


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
        >>> import torch
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
        >>> import torch
        >>> three_equal = [(torch.ones(2), (torch.zeros(n, 5), torch.zeros(n))) for n in (1, 2, 3)]
        >>> point_average(three_equal)
        tensor([1., 1.])
    """
    axis = checks.axis("batch_dim", batch_dim)
    return weighted_average((product, n_points(batch, axis)) for product, batch in map(_pair, pairs))


def averaged(
    op: Operation,
    weight: Weight = n_points,
    progress: Progress | None = None,
    *,
    finite: bool = False,
) -> Operation:
    """The operation averaged over batches, m(batches) = Σ w(b) m(b) / Σ w(b).

    Args:
        op: any operation on a batch, also under vmap.
        weight: what a batch counts. By default its points, along the axis that the operation's loss says samples have,
            which makes the average the operation on all the data, over any split; `lambda batch: 1` counts every batch
            the same.
        progress: wraps the stream of batches, `tqdm` for one.
        finite: whether a product that is not finite is an error, which names the batch. It waits for each product; off, it
            costs nothing.

    Returns:
        `mean_op(params, buffers, batches, v) -> product`: batches is any iterable, read once and one at a time, each batch
        moved to the device of params. `mean_op.at(params, buffers, batches)` reads them for each v, so they must be
        iterable again, as a list or a DataLoader is.

    Raises:
        TypeError: if op, weight or progress is no function, or finite neither True nor False.
        ValueError: if there is no batch, or the total weight is zero. Whatever a batch raises says which batch it was.

    Examples:
        >>> import torch
        >>> from pure_batchops import gauss_newton
        >>> mean_op = averaged(gauss_newton(lambda params, buffers, x: params * x))
        >>> mean_op(torch.tensor([1.0]), {}, [torch.tensor([1.0, 2.0]), torch.tensor([4.0])], torch.tensor([1.0]))
        tensor([7.])
    """
    stream, weigh = weighted_products(op, weight, finite=finite), counting(op, weight)
    checks.function("progress", progress or iter)

    def operation(params: Params, buffers: Buffers, batches: Iterable[Batch], v: Vector) -> Vector:
        return weighted_average(stream(params, buffers, batches if progress is None else progress(batches), v, 0))

    def terms(params: Params, buffers: Buffers, batches: Iterable[Batch]) -> Iterator[tuple[LinearMap, float]]:
        device = next(iter(parameter_leaves(params).values())).device
        moved = (move(batch, device) for batch in (batches if progress is None else progress(batches)))
        return ((partial(op, params, buffers, batch), weigh(batch)) for batch in moved)

    operation.terms = terms  # type: ignore[attr-defined]  # for a recursion over single batches, as lissa is
    return averaging(operation)


def averaging(operation: Callable[[Params, Buffers, Iterable[Batch], Vector], Vector]) -> Operation:
    """The operation on batches with its `at`, which reads them for each v."""

    def at(params: Params, buffers: Buffers, batches: Iterable[Batch]) -> Callable[[Vector], Vector]:
        if isinstance(batches, Iterator):
            msg = f"batches must be iterable again for each v, as a list or a DataLoader is, got a {type(batches).__name__}"
            raise ValueError(msg)
        return lambda v: operation(params, buffers, batches, v)

    return with_at(operation, at)


def _pair(item: Any) -> tuple[Any, Any]:
    if not isinstance(item, (tuple, list)) or len(item) != 2:
        msg = f"an average must be given pairs (product, weight or batch), got {type(item).__name__}"
        raise ValueError(msg)
    return item[0], item[1]
