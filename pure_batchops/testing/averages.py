"""Every law of an average, in one line."""

from collections.abc import Collection, Iterable
from typing import Any

from pure_batchops import checks
from pure_batchops.testing import averaging, options
from pure_batchops.testing.case import Case, Law
from pure_batchops.types import Batch, Buffers, Params

AVERAGE_LAWS: dict[str, Law] = {
    "equal": averaging.equal,
    "order": averaging.order,
    "whole": averaging.whole,
    "once": averaging.once,
    "lazy": averaging.lazy,
    "empty": averaging.empty,
    "untouched": averaging.untouched,
}
"""Each law of an average, by its name; its docstring is the law in words."""


def check_average(
    mean_op: Any,
    op: Any,
    params: Params,
    buffers: Buffers,
    batches: Iterable[Batch],
    *,
    laws: Collection[str] = tuple(AVERAGE_LAWS),
    batch_dim: int = 0,
    rtol: float | None = None,
    atol: float | None = None,
    seed: int = 0,
) -> tuple[str, ...]:
    """Check the laws of an average of an operation, `mean_op(params, buffers, batches, v)` for a random v.

    An average of pairs or of products is checked as the average of an operation, from which its pairs come:
    `lambda params, buffers, batches, v: average((op(params, buffers, batch, v), batch) for batch in batches)`.

    Args:
        mean_op: the average, as `averaged(op)` gives it; it has to serve a list as well as a generator of batches.
        op: the operation that it is the average of.
        params: a tree of floating-point tensors, D numbers in all.
        buffers: what else the operation reads.
        batches: at least one batch, better three of different lengths; read once.
        laws: the names of the laws to check, by default all of `AVERAGE_LAWS`. `AVERAGE_LAWS.keys() - {"whole"}` is for an
            average that does not weigh a batch by its points.
        batch_dim: the axis of the points in the tensors of a batch.
        rtol: the relative tolerance, by default that of `torch.testing.assert_close` for the dtype.
        atol: the absolute tolerance, likewise. In addition 32 epsilons of the largest number are allowed for rounding.
        seed: of the random vector and cuts.

    Returns:
        The names of the laws that were checked: not those for which there is nothing to check, as the order of one batch.

    Raises:
        AssertionError: if a law is broken, with the law in words, the number that differs most, and what it should be.
        TypeError: if mean_op or op is no function.
        ValueError: if laws are not among `AVERAGE_LAWS`, a tolerance is negative, or there is no batch.

    Examples:
        >>> import torch
        >>> from pure_batchops import averaged, gauss_newton
        >>> op = gauss_newton(lambda params, buffers, x: params["w"] * x)
        >>> point = ({"w": torch.tensor([0.5])}, {}, [torch.tensor([1.0]), torch.tensor([2.0, 3.0])])
        >>> check_average(averaged(op), op, *point)
        ('equal', 'order', 'whole', 'once', 'lazy', 'empty', 'untouched')
        >>> check_average(averaged(op, weight=lambda batch: 1), op, *point)
        Traceback (most recent call last):
        AssertionError: whole: The average over any split of the points into batches must be the operation on all ...
    """
    checks.function("mean_op", mean_op)
    checks.function("op", op)
    found = list(batches)
    if not found:
        msg = "batches must hold at least one batch, got none (a generator that was already used up?)"
        raise ValueError(msg)
    mean = Case(
        mean_op,
        params,
        buffers,
        found,
        checks.axis("batch_dim", batch_dim),
        checks.whole("seed", seed, 0),
        options.tolerance(rtol, atol),
    )
    return options.hold(averaging.AverageCase(mean, op), options.chosen(laws, AVERAGE_LAWS))
