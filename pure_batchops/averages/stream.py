"""The stream under every average over batches: a product and its weight for each, and errors that name the batch."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import count

from pure_batchops import checks, tracing
from pure_batchops.batches import n_points, sample_axis
from pure_batchops.trees import move, named, named_leaves, parameter_leaves
from pure_batchops.types import Batch, Buffers, Operation, Params, Tree, Vector

Term = tuple[Tree, float]
"""A product and its weight."""

Weight = Callable[[Batch], float]
Progress = Callable[[Iterable[Batch]], Iterable[Batch]]
Stream = Callable[[Params, Buffers, Iterable[Batch], Vector, int], Iterable[Term]]
"""`(params, buffers, batches, v, first) -> (product, weight)` of each batch; first is the number of the first, for errors."""


def weighted_products(op: Operation, weight: Weight, *, finite: bool) -> Stream:
    """The products of an operation with the batches of a stream, and the weights of these batches.

    Args:
        op: any operation on a batch.
        weight: what a batch counts.
        finite: whether each product is looked at, and refused if it is not finite.

    Returns:
        A stream, read one at a time; each batch is moved to the device of params. What a batch raises, it raises with
        the number of the batch.

    Raises:
        TypeError: if op or weight is no function, or finite is neither True nor False.
    """
    checks.function("op", op)
    weigh = counting(op, weight)
    checks.boolean("finite", finite)

    def stream(params: Params, buffers: Buffers, batches: Iterable[Batch], v: Vector, first: int = 0) -> Iterable[Term]:
        device = next(iter(parameter_leaves(params).values())).device

        def term(batch: Batch) -> Term:
            batch = move(batch, device)
            product = op(params, buffers, batch, v)
            if finite:
                _check_finite(product)
            return product, weigh(batch)

        if tracing.compiling():  # torch 2.5 can call a closure only within the function that it is of
            return [term(batch) for batch in batches]
        return _numbered(term, batches, first)

    return stream


def counting(op: Operation, weight: Weight) -> Weight:
    """What a batch counts: its points, if that is the weight, along the axis of the operation."""
    checks.function("weight", weight)
    return partial(n_points, batch_dim=sample_axis(op)) if weight is n_points else weight


def _numbered(term: Callable[[Batch], Term], batches: Iterable[Batch], first: int) -> Iterator[Term]:
    source, end = iter(batches), object()
    for number in count(first):
        try:
            batch = next(source, end)
            if batch is end:
                return
            found = term(batch)
        except Exception as error:
            raise _in_batch(number, error) from error
        yield found
        del batch, found  # before the next is loaded


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
