"""An average that goes on where a killed process left it."""

import os
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path

from pure_batchops import checks
from pure_batchops.averages import fingerprints
from pure_batchops.averages.averaged import operation_on_batches
from pure_batchops.averages.folds import average_fold
from pure_batchops.averages.saved import SavedAverage, save, saved_average
from pure_batchops.averages.state import AverageState, average_result
from pure_batchops.averages.stream import Progress, Weight, weighted_products
from pure_batchops.trees import move, parameter_leaves
from pure_batchops.types import Batch, Buffers, Operation, Params, Vector


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
    """The operation averaged over batches, m(batches) = Σ w(b) m(b) / Σ w(b), whose state is kept in a file as it goes.

    Called again after the process was killed, it reads over the batches that were done and goes on with the next; the product
    is, bit for bit, that of an average without interruption. Called again when it is done, it multiplies nothing.

    Args:
        op: any operation on a batch.
        path: of the file, of this product alone, in a folder that exists. It is written beside its place, brought to the
            disk, and renamed, so that it holds a whole state at any moment. It is not deleted.
        every: after how many batches it is written; also at the start and at the end. It holds the numbers of the product,
            one precision wider.
        weight: what a batch counts, as for `averaged`.
        progress: wraps the stream of batches, those that were done included.
        finite: whether a product that is not finite is an error.
        name: what tells the operation and the weights from others. By default the code of op, loss and weight, and what they
            close over: options, numbers, tensors, modules. Objects of your own classes count by their class alone; after a
            change of code that does not change the product, or of Python, give a name from the start.

    Returns:
        `mean_op(params, buffers, batches, v) -> product`, eager; batches come in the same order each time.

    Raises:
        TypeError: if op, weight or progress is no function, path no path, or every no whole number.
        ValueError: if every is not positive. The operation raises it if the file holds no state, or one of other params,
            buffers, v or operation, if the batches are others or in another order, and where `averaged` does.
        OSError: by the operation, if the file cannot be written; the last state that was saved stays.

    Examples:
        >>> import tempfile, torch
        >>> from pure_batchops import gauss_newton
        >>> path = Path(tempfile.mkdtemp()) / "average.pt"
        >>> mean_op = resumable(gauss_newton(lambda params, buffers, x: params * x), path, every=1)
        >>> mean_op(torch.tensor([1.0]), {}, [torch.tensor([1.0, 2.0]), torch.tensor([4.0])], torch.tensor([1.0]))
        tensor([7.])
    """
    file = Path(path)
    resume = resumed(op, every, weight, progress, finite=finite, name=name)

    def operation(params: Params, buffers: Buffers, batches: Iterable[Batch], v: Vector) -> Vector:
        device = next(iter(parameter_leaves(params).values())).device
        return move(average_result(resume(file, params, buffers, batches, v)), device)

    return operation_on_batches(operation)


def resumed(
    op: Operation, every: int, weight: Weight | None, progress: Progress | None, *, finite: bool, name: str | None
) -> Callable[[Path, Params, Buffers, Iterable[Batch], Vector], AverageState]:
    """The state after all batches, from the file on, which is kept.

    Returns:
        `(path, params, buffers, batches, v) -> state`.

    Raises:
        TypeError: as `resumable`.
        ValueError: as `resumable`.
    """
    stream = weighted_products(op, weight, finite=finite)
    checks.function_or_none("progress", progress)
    step = checks.whole("every", every)
    if name is not None and not isinstance(name, str):
        msg = f"name must be a string, got {name!r}"
        raise TypeError(msg)

    def state(path: Path, params: Params, buffers: Buffers, batches: Iterable[Batch], v: Vector) -> AverageState:
        marks = {
            "params": fingerprints.of_tree(params),
            "buffers": fingerprints.of_tree(buffers, ordered=False),
            "v": fingerprints.of_tree(v, ordered=False),
            "operation": fingerprints.of_function((op, weight)) if name is None else name,
        }
        saved = saved_average(path, marks, params)
        source = iter(batches if progress is None else progress(batches))
        _read_over(source, saved)
        so_far, order = saved.state, [saved.order]

        def following() -> Iterator[Batch]:
            for batch in source:
                order[0] = fingerprints.of_batches(order[0], batch)
                yield batch

        pairs = iter(stream(params, buffers, following(), v, so_far.batches))
        while (now := average_fold(so_far, islice(pairs, step))) is not so_far:
            so_far = now
            save(SavedAverage(so_far, order[0]), path, marks, params)
        return so_far

    return state


def _read_over(source: Iterator[Batch], saved: SavedAverage) -> None:
    order, count = "", 0
    for batch in islice(source, saved.state.batches):
        order, count = fingerprints.of_batches(order, batch), count + 1
    if order != saved.order:
        seen = f"{count} instead of at least {saved.state.batches}" if count < saved.state.batches else "others among them"
        msg = (
            f"batches must begin with the {saved.state.batches} that were done before the interruption, in their order, got "
            f"{seen}; do not shuffle, or shuffle by a generator with the same seed"
        )
        raise ValueError(msg)
