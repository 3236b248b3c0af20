"""The laws of an average: the whole over any split, in any order, of a stream that is read once, a batch at a time."""

import gc
from collections.abc import Iterable, Iterator
from itertools import cycle, islice
from typing import Any, NamedTuple

from torch import Tensor

from pure_batchops.testing.agreement import agree
from pure_batchops.testing.case import Case, copied, product, vector
from pure_batchops.testing.parts import cut, joined
from pure_batchops.testing.purity import check_untouched
from pure_batchops.trees import leaves, move
from pure_batchops.types import Batch, Tree


class AverageCase(NamedTuple):
    """The average as an operation on a list of batches, and the operation that it is the average of."""

    mean: Case
    op: Any


def equal(case: AverageCase) -> bool:
    """The average over equal batches must be the operation on one of them."""
    for i, batch in enumerate(case.mean.batch):
        expected = _of_one(case, batch)
        for count in (1, 3):
            agree(_average(case, [batch] * count), expected, case.mean.tolerance, f"for {count} times batch {i}")
    return True


def order(case: AverageCase) -> bool:
    """The average must ignore the order of its batches."""
    first, *others = case.mean.batch
    expected = _average(case, [first, *others])
    for words, batches in {"reversed": [first, *others][::-1], "with the first moved to the end": [*others, first]}.items():
        agree(_average(case, batches), expected, case.mean.tolerance, f"for the batches {words}")
    return bool(others)


def whole(case: AverageCase) -> bool:
    """The average over any split of the points into batches must be the operation on all the points as one batch."""
    points = joined(case.mean.batch, case.mean.batch_dim)
    if points is None:
        return False
    expected = _of_one(case, points)
    splits = {"as given": case.mean.batch, "as one": [points]}
    for i in range(2):
        parts = cut(points, case.mean.batch_dim, case.mean.seed + i)
        splits[f"of {', '.join(str(size) for _, size in parts)} points"] = [part for part, _ in parts]
    for words, batches in splits.items():
        agree(_average(case, batches), expected, case.mean.tolerance, f"for the batches {words}")
    return True


def once(case: AverageCase) -> bool:
    """The average must read its stream once and to the end: a generator of batches must give what their list gives."""
    read: list[Batch] = []
    stream = (read.append(batch) or copied(batch) for batch in case.mean.batch)  # type: ignore[func-returns-value]
    found = _average(case, stream)
    agree(found, _average(case, case.mean.batch), case.mean.tolerance, "for the generator")
    if len(read) != len(case.mean.batch):
        msg = f"got {len(read)} batches read where {len(case.mean.batch)} are expected"
        raise AssertionError(msg)
    return True


def lazy(case: AverageCase) -> bool:
    """The average must take one batch at a time: the tensors in memory must not grow with the number of batches."""
    counts: dict[int, int] = {}

    def stream() -> Iterator[Batch]:
        for i, batch in enumerate(islice(cycle(case.mean.batch), 6), 1):
            if i in (3, 6):  # by the third, whatever is made once and kept has been made
                gc.collect()
                counts[i] = sum(issubclass(type(each), Tensor) for each in gc.get_objects())
            yield copied(batch)

    _average(case, stream())
    if len(counts) == 2 and counts[6] - counts[3] >= 3:
        msg = f"got {counts[3]} tensors in memory before the third batch, and {counts[6]} before the sixth"
        raise AssertionError(msg)
    return True


def empty(case: AverageCase) -> bool:
    """The average over an empty stream must be an error, as there is nothing to average."""
    try:
        found = _average(case, iter([]))
    except Exception:
        return True
    msg = f"got {found}"
    raise AssertionError(msg)


def untouched(case: AverageCase) -> bool:
    """The average must leave its arguments alone, values and versions, and share no memory with them."""
    for batches in (case.mean.batch, case.mean.batch[:1]):
        check_untouched(case.mean._replace(batch=batches), vector(case.mean, 1))
    return True


def _average(case: AverageCase, batches: Iterable[Batch]) -> Tree:
    return product(case.mean._replace(batch=batches), vector(case.mean, 1))


def _of_one(case: AverageCase, batch: Batch) -> Tree:
    on_device = move(batch, leaves(case.mean.params)[0].device)
    return product(case.mean._replace(op=case.op, batch=on_device), vector(case.mean, 1))
