"""Operations averaged over batches."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial

import torch

from pure_batchops import tracing
from pure_batchops.averages.folds import average_fold
from pure_batchops.averages.state import NOTHING, average_result, average_start
from pure_batchops.averages.stream import Progress, Weight, WeightedProduct, in_batch, stream_of
from pure_batchops.operations.derived import with_at
from pure_batchops.points import saw_points
from pure_batchops.streams import in_one_order, uncompared
from pure_batchops.trees import device_of, map_leaves, move
from pure_batchops.types import Batch, Buffers, Operation, Params, Term, Traits, Vector


def averaged(
    op: Operation,
    weight: Weight | None = None,
    progress: Progress | None = None,
    *,
    finite: bool = False,
) -> Operation:
    """The operation averaged over batches, m(batches) = Σ w(b) m(b) / Σ w(b).

    By default w(b) is the number of losses of samples that the operation saw, on whatever axis of the batch they lie. This
    makes the average the operation on all the data, over any split. An operation that sees none, such as a bare function or
    the Hessian of a loss that returns one number, must be given a weight.

    Args:
        op: any operation on a batch, also under vmap, or a function around one.
        weight: the weight of a batch, `batch -> number`. `lambda batch: 1` gives every batch the same weight, and `n_points`
            counts its points along axis 0.
        progress: wraps the stream of batches, for example `tqdm`.
        finite: whether a product that is not finite is an error, which names the batch. It waits for each product. By default
            nothing is checked, at no cost.

    Returns:
        `mean_op(params, buffers, batches, v) -> product`. `batches` is any iterable. It is read once, one batch at a time, and
        each batch is moved to the device of params. `mean_op.at(params, buffers, batches)` reads them for each v, so they must
        be the same each time, in the same order: a list, or a DataLoader that does not shuffle. This is checked.

    Raises:
        TypeError: if op, weight or progress is no function, or finite is neither True nor False.
        ValueError: by the operation, if there is no batch, the total weight is zero, or the weight of a batch cannot be known.
            An error in a batch names the number of the batch.

    Examples:
        >>> import torch
        >>> from pure_batchops import gauss_newton
        >>> mean_op = averaged(gauss_newton(lambda params, buffers, x: params * x))
        >>> mean_op(torch.tensor([1.0]), {}, [torch.tensor([1.0, 2.0]), torch.tensor([4.0])], torch.tensor([1.0]))
        tensor([7.])
    """
    stream = stream_of(op, weight, progress, finite=finite)

    def operation(params: Params, buffers: Buffers, batches: Iterable[Batch], v: Vector = ...) -> Vector:
        state = average_fold(average_start(), stream.products(params, buffers, batches, v))
        saw_points(state.weight, uncompared(batches))  # for an average of averages
        return average_result(state)

    def terms(params: Params, buffers: Buffers, batches: Iterable[Batch]) -> Iterator[Term]:
        number = 0
        for number, batch in enumerate(stream.batches(batches), 1):
            yield partial(_term, number - 1, stream.multiply, params, buffers, move(batch, device_of(params)))
        if number == 0:
            raise ValueError(NOTHING)

    return operation_on_batches(operation, Traits(terms=terms))


def _term(
    number: int, multiply: Callable[..., WeightedProduct], params: Params, buffers: Buffers, batch: Batch, v: Vector
) -> WeightedProduct:
    """The product with one batch, and its weight. An error names the number of the batch."""
    if tracing.compiling():
        return multiply(params, buffers, batch, v)
    try:
        product, weight = multiply(params, buffers, batch, v)
    except Exception as error:
        raise in_batch(number, error) from error
    return product if weight else map_leaves(torch.zeros_like, product), weight  # which adds nothing, whatever it is


def operation_on_batches(
    operation: Callable[[Params, Buffers, Iterable[Batch], Vector], Vector], traits: Traits | None = None
) -> Operation:
    """The operation on batches, with an `at` that reads the batches for each v."""

    def at(params: Params, buffers: Buffers, batches: Iterable[Batch]) -> Callable[[Vector], Vector]:
        return partial(operation, params, buffers, in_one_order("batches", batches))

    return with_at(operation, at, traits)
