"""An average that goes on where a killed process left it."""

import os
from collections.abc import Callable, Iterable
from functools import reduce
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from pure_batchops import checks, fingerprints, tracing
from pure_batchops.averages.averaged import operation_on_batches
from pure_batchops.averages.done import check_same, read_over
from pure_batchops.averages.identity import first_of, marks_of
from pure_batchops.averages.saved import SavedAverage, save, saved_average
from pure_batchops.averages.state import AverageState, average_result, average_step
from pure_batchops.averages.stream import Progress, Weight, numbered, stream_of
from pure_batchops.trees import device_of, leaves, move
from pure_batchops.types import Batch, Buffers, Operation, Params, Tree, Vector


def resumable(
    op: Operation,
    path: str | os.PathLike[str],
    *,
    every: int = 100,
    weight: Weight | None = None,
    progress: Progress | None = None,
    finite: bool = False,
    name: str | None = None,
) -> Operation:
    """The operation averaged over batches, m(batches) = Σ w(b) m(b) / Σ w(b). Its state is kept in a file as it goes.

    If the process was killed, call it again. It reads over the batches that were done, and goes on with the next one. The
    product is the same, bit for bit, as without the interruption. If it is called again when all batches are done, it
    multiplies one batch only.

    Args:
        op: any operation on a batch.
        path: the path of the file, for this product alone, in a folder that exists. The file holds a whole state at any
            moment, and it is not deleted at the end.
        every: after how many batches the file is written. It is also written at the start and at the end. It holds the
            numbers of the product, one precision wider.
        weight: the weight of a batch, as for `averaged`. It is called again for the batches that were done.
        progress: wraps the stream of batches, together with the batches that were done.
        finite: whether a product that is not finite is an error.
        name: what tells the operation and the weights from others. By default the operation is known by its product with
            the first batch: the product is computed again and compared, up to rounding. With a name only the names are
            compared. Give a name if the product may differ from one run to the next.

    Returns:
        `mean_op(params, buffers, batches, v) -> product`, eager. The batches must come in the same order each time.

    Raises:
        TypeError: if op, weight or progress is no function, path is no path, every no whole number, or name no string.
        ValueError: if every is not positive. The operation raises it if the file holds no state, or the state of other
            params, buffers, v, weights or another operation, if the batches or their order changed, if a product requires
            gradients, and where `averaged` raises it.
        OSError: by the operation, if the file cannot be written. The last state that was saved is still there.

    Examples:
        >>> import tempfile, torch
        >>> from pure_batchops import gauss_newton
        >>> path = Path(tempfile.mkdtemp()) / "average.pt"
        >>> mean_op = resumable(gauss_newton(lambda params, buffers, x: params * x), path, every=1)
        >>> mean_op(torch.tensor([1.0]), {}, [torch.tensor([1.0, 2.0]), torch.tensor([4.0])], torch.tensor([1.0]))
        tensor([7.])
    """
    resume = resumed(op, every, weight, progress, finite=finite, name=name)
    path = Path(path)

    def operation(params: Params, buffers: Buffers, batches: Iterable[Batch], v: Vector) -> Vector:
        return move(average_result(resume(path, params, buffers, batches, v)), device_of(params))

    return operation_on_batches(operation)


def resumed(
    op: Operation, every: int, weight: Weight | None, progress: Progress | None, *, finite: bool, name: str | None
) -> Callable[[Path, Params, Buffers, Iterable[Batch], Vector], AverageState]:
    """The state of the average of all batches, which goes on from a file, and is kept in it.

    Returns:
        `(path, params, buffers, batches, v) -> state`.

    Raises:
        TypeError: as `resumable`.
        ValueError: as `resumable`.
    """
    stream = stream_of(op, weight, progress, finite=finite)
    every = checks.whole("every", every)
    if name is not None and not isinstance(name, str):
        msg = f"name must be a string, got {name!r}"
        raise TypeError(msg)

    def resume(path: Path, params: Params, buffers: Buffers, batches: Iterable[Batch], v: Vector) -> AverageState:
        marks = marks_of(params, buffers, v, name, weight)
        average = saved_average(path, marks, params)
        source = iter(stream.batches(batches))
        done = read_over(source, average, weight if name is None else None, params)
        if name is None and average.first:
            check_same(path, average, done, stream, weight, (params, buffers, v))

        def multiplied(batch: Batch) -> _Multiplied:
            return _Multiplied(batch, *stream.multiply(params, buffers, batch, v))

        products = numbered(multiplied, source, average.state.batches)
        while (longer := reduce(_with_product, islice(products, every), average)) is not average:
            average = longer
            save(average, path, marks, params)
        return average.state

    return resume


class _Multiplied(NamedTuple):
    """A batch, its product and its weight."""

    batch: Batch
    product: Tree
    weight: float


def _with_product(average: SavedAverage, multiplied: _Multiplied) -> SavedAverage:
    """The average with one more product."""
    batch, product, weight = multiplied
    if any(isinstance(leaf, Tensor) and tracing.requires_grad(leaf) for leaf in leaves(product)):
        msg = (
            "a product of a resumable average must not require gradients, which a file does not hold, got one that does; "
            "detach params, buffers and v, or multiply inside torch.no_grad"
        )
        raise ValueError(msg)
    state = average_step(average.state, product, weight)
    return SavedAverage(state, fingerprints.of_batches(average.order, batch), average.first or first_of(product, weight))
