"""The stream under every average over batches: a product and its weight for each batch, and errors that name the batch."""

from collections.abc import Callable, Iterable, Iterator
from itertools import count
from typing import Any

from pure_batchops import checks, tracing
from pure_batchops.points import Seen, counted, points_of
from pure_batchops.trees import device_of, move, named, named_leaves
from pure_batchops.types import Batch, Buffers, Operation, Params, Tree, Vector

WeightedProduct = tuple[Tree, float]
"""A product and its weight."""

Weight = Callable[[Batch], float]
Progress = Callable[[Iterable[Batch]], Iterable[Batch]]
Stream = Callable[..., Iterable[WeightedProduct]]
"""`(params, buffers, batches, v, first=0) -> (product, weight)` of each batch; errors count batches from first on."""


def weighted_products(op: Operation, weight: Weight | None, *, finite: bool) -> Stream:
    """The products of an operation with the batches of a stream, and the weights of these batches.

    Args:
        op: any operation on a batch.
        weight: the weight of a batch; None for the number of losses that the operation sees.
        finite: whether a product that is not finite is an error.

    Returns:
        A stream that is read one batch at a time. Each batch is moved to the device of params. An error in a batch names the
        number of the batch.

    Raises:
        TypeError: if op or weight is no function, or finite neither True nor False.
    """
    checks.function("op", op)
    checks.function_or_none("weight", weight)
    checks.boolean("finite", finite)

    def stream(params: Params, buffers: Buffers, batches: Iterable[Batch], v: Vector, first: int = 0) -> Any:
        device = device_of(params)

        def weighted(batch: Batch) -> WeightedProduct:
            pair = weighted_product(op, weight, params, buffers, move(batch, device), v)
            if finite:
                _check_finite(pair[0])
            return pair

        if tracing.compiling():  # C1
            return [weighted(batch) for batch in batches]
        return _numbered(weighted, batches, first)

    return stream


def weighted_product(
    op: Operation, weight: Weight | None, params: Params, buffers: Buffers, batch: Batch, v: Vector
) -> WeightedProduct:
    """The product with one batch, and the weight of the batch."""
    product, seen = counted(op, params, buffers, batch, v)
    return product, _points(seen, batch) if weight is None else weight(batch)


def _points(seen: Seen, batch: Batch) -> float:
    points = points_of(seen, batch)
    if points is None:
        told = sorted(set(seen.points or seen.losses))
        got = f"the numbers {', '.join(map(str, told))}" if told else "an operation that saw no losses of samples"
        msg = (
            f"an average must know how many samples a batch holds, got {got} (a bare function, or a loss that returns one "
            "number?); give weight=, for instance weight=pure_batchops.n_points for samples along axis 0"
        )
        raise ValueError(msg)
    return points


def _numbered(weighted: Callable[[Batch], WeightedProduct], batches: Iterable[Batch], first: int) -> Iterator[WeightedProduct]:
    source, end = iter(batches), object()
    for number in count(first):
        try:
            batch = next(source, end)
            if batch is end:
                return
            pair = weighted(batch)
        except Exception as error:
            raise _in_batch(number, error) from error
        yield pair
        del batch, pair  # before the next is loaded


def _in_batch(number: int, error: Exception) -> Exception:
    """The error with the number of its batch: of the same type, if that takes a message, or a RuntimeError."""
    message = f"{error} (in batch {number} of the average, the first being 0)"
    try:
        said = type(error)(message)
    except Exception:  # a type that takes something else
        return RuntimeError(f"{type(error).__name__}: {message}")
    return said if f"in batch {number} " in str(said) else RuntimeError(f"{type(error).__name__}: {message}")


def _check_finite(product: Tree) -> None:
    for path, leaf in named_leaves(product).items():
        if not leaf.isfinite().all():
            first = leaf[~leaf.isfinite()][0].item()
            msg = f"a product must be finite, got {first} at {named(path)}; look at this batch, or average with finite=False"
            raise ValueError(msg)
