"""The stream under every average over batches: a product and its weight for each batch, and errors that name the batch."""

from collections.abc import Callable, Iterable, Iterator
from itertools import count
from typing import NamedTuple, TypeVar

from pure_batchops import checks, tracing
from pure_batchops.averages.checked import check_finite, checked_weight
from pure_batchops.points import Seen, counted, points_of
from pure_batchops.trees import device_of, move
from pure_batchops.types import Batch, Buffers, Operation, Params, Tree, Vector

WeightedProduct = tuple[Tree, float]
"""A product and its weight."""

Weight = Callable[[Batch], float]
"""The weight of a batch."""

Progress = Callable[[Iterable[Batch]], Iterable[Batch]]
"""What is put around the stream of batches, for example `tqdm`."""

T = TypeVar("T")


class Stream(NamedTuple):
    """The products of an operation with batches, and the weights of the batches.

    Attributes:
        multiply: `(params, buffers, batch, v) -> (product, weight)`, with a batch on any device.
        progress: put around the stream of batches, or None.
    """

    multiply: Callable[[Params, Buffers, Batch, Vector], WeightedProduct]
    progress: Progress | None

    def batches(self, batches: Iterable[Batch]) -> Iterable[Batch]:
        """The batches, with the progress around them."""
        return batches if self.progress is None else self.progress(batches)

    def products(self, params: Params, buffers: Buffers, batches: Iterable[Batch], v: Vector) -> Iterable[WeightedProduct]:
        """The product and the weight of each batch, one batch at a time. An error in a batch names its number."""

        def multiplied(batch: Batch) -> WeightedProduct:
            return self.multiply(params, buffers, batch, v)

        if tracing.compiling():  # C1
            return [multiplied(batch) for batch in self.batches(batches)]
        return numbered(multiplied, self.batches(batches))


def stream_of(op: Operation, weight: Weight | None, progress: Progress | None, *, finite: bool) -> Stream:
    """The stream under an average, from its options, which are checked here.

    Args:
        op: any operation on a batch.
        weight: the weight of a batch; None for the number of losses that the operation sees.
        progress: put around the stream of batches, or None.
        finite: whether a product that is not finite is an error.

    Returns:
        A stream, which moves each batch to the device of params.

    Raises:
        TypeError: if op, weight or progress is no function, or finite neither True nor False.
    """
    checks.function("op", op)
    checks.function_or_none("weight", weight)
    checks.function_or_none("progress", progress)
    checks.boolean("finite", finite)

    def multiply(params: Params, buffers: Buffers, batch: Batch, v: Vector) -> WeightedProduct:
        product, weight_of_batch = weighted_product(op, weight, params, buffers, move(batch, device_of(params)), v)
        if finite:
            check_finite(product)
        return product, weight_of_batch

    return Stream(multiply, progress)


def weighted_product(
    op: Operation, weight: Weight | None, params: Params, buffers: Buffers, batch: Batch, v: Vector
) -> WeightedProduct:
    """The product with one batch, and the weight of the batch."""
    product, seen = counted(op, params, buffers, batch, v)
    return product, checked_weight(_points(seen, batch) if weight is None else weight(batch))


def _points(seen: Seen, batch: Batch) -> float:
    points = points_of(seen, batch)
    if points is None:
        told = sorted({points for points, _ in seen.points} or set(seen.losses))
        got = f"losses of {', '.join(map(str, told))} samples" if told else "an operation that saw no losses of samples"
        msg = (
            f"an average must know how many samples a batch holds, got {got} (a bare function, a loss that returns one "
            "number, an operation that takes the batch in parts?); give weight=, for instance weight=pure_batchops.n_points "
            "for samples along axis 0, or weight=lambda batch: len(batch[1]) where tensors differ in length, as the nodes and "
            "edges of a graph do; or give batch_dim= to batch_operation"
        )
        raise ValueError(msg)
    return points


def numbered(function: Callable[[Batch], T], batches: Iterable[Batch], first: int = 0) -> Iterator[T]:
    """What the function makes of each batch, one at a time. An error names the number of its batch, counted from first."""
    source, end = iter(batches), object()
    for number in count(first):
        try:
            batch = next(source, end)
            if batch is end:
                return
            result = function(batch)
        except Exception as error:
            raise in_batch(number, error) from error
        yield result
        del batch, result  # before the next is loaded


def in_batch(number: int, error: Exception) -> Exception:
    """The error with the number of its batch. It has the same type if that type takes a message; else it is a RuntimeError."""
    message = f"{error} (in batch {number} of the average, the first being 0)"
    try:
        said = type(error)(message)
    except Exception:  # the type takes other arguments
        return RuntimeError(f"{type(error).__name__}: {message}")
    return said if f"in batch {number} " in str(said) else RuntimeError(f"{type(error).__name__}: {message}")
