"""The batches that were done before an average was interrupted: they are read again, and must be the same."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from pure_batchops import fingerprints
from pure_batchops.averages.checked import checked_weight
from pure_batchops.averages.identity import check_same_operation, check_same_weight, first_of
from pure_batchops.averages.saved import SavedAverage
from pure_batchops.averages.stream import Stream, Weight, numbered
from pure_batchops.trees import device_of, move
from pure_batchops.types import Batch, Buffers, Params, Vector


class Done(NamedTuple):
    """What the batches that were done are.

    Attributes:
        first: the first of them.
        weight: their total weight, 0 if it is not compared.
    """

    first: Batch
    weight: float


def read_over(source: Iterator[Batch], average: SavedAverage, weight: Weight | None, params: Params) -> Done:
    """Read the batches that were done, one at a time.

    Args:
        source: all batches; the next one is then the first that was not done.
        average: the average of the batches that were done.
        weight: the weight of a batch, or None if it is not compared.
        params: which tell the device of the batches.

    Returns:
        What `Done` says.

    Raises:
        ValueError: if the batches are not the same, in the same order.
    """

    def read(batch: Batch) -> tuple[Batch, float]:
        return batch, 0.0 if weight is None else checked_weight(weight(move(batch, device_of(params))))

    first, order, total, count = None, "", 0.0, 0
    for batch, weight_of_batch in numbered(read, islice(source, average.state.batches)):
        first = batch if count == 0 else first
        order, total, count = fingerprints.of_batches(order, batch), total + weight_of_batch, count + 1
    if order != average.order:
        expected = average.state.batches
        given = f"{count} instead of at least {expected}" if count < expected else "others among them"
        msg = (
            f"batches must begin with the {expected} that were done before the interruption, in their order, got {given}; do "
            "not shuffle, or shuffle by a generator with the same seed"
        )
        raise ValueError(msg)
    return Done(first, total)


def check_same(
    path: Path, average: SavedAverage, done: Done, stream: Stream, weight: Weight | None, point: tuple[Params, Buffers, Vector]
) -> None:
    """The operation and the weights are the same as before the interruption."""
    params, buffers, v = point
    (now,) = numbered(lambda batch: first_of(*stream.multiply(params, buffers, batch, v)), [done.first])
    check_same_operation(path, average.first, now)
    check_same_weight(path, average.first["weight"], now["weight"])
    if weight is not None:
        check_same_weight(path, average.state.weight, done.weight)
