"""`op.at`, and operations made of another operation."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, cast

from pure_batchops import tracing
from pure_batchops.traits import marked, traits_of
from pure_batchops.types import Batch, Buffers, Operation, Params, Term, Traits, Vector


def with_at(
    operation: Callable[..., Vector], at: Callable[..., Callable[[Vector], Vector]], traits: Traits | None = None
) -> Operation:
    """The function as an operation: with its attribute `at`, and what is known of it."""
    operation.at = at  # type: ignore[attr-defined]
    return cast("Operation", operation if traits is None else marked(operation, traits))


def at_point(op: Any, params: Params, buffers: Buffers, batch: Batch) -> Callable[[Vector], Vector]:
    """The product at one point, `v -> m v`: by `op.at`, or by the operation itself if it has no `at`."""
    # C5: under the compiler, too. It finds by itself what is the same for every v.
    if tracing.compiling() or not hasattr(op, "at"):
        return partial(op, params, buffers, batch)
    product: Callable[[Vector], Vector] = op.at(params, buffers, batch)
    return product


def derived(op: Operation, around: Callable[[Callable[[Vector], Vector], Params, Vector], Vector]) -> Operation:
    """An operation made of the products of another one, on one batch or on batches.

    Args:
        op: the operation inside.
        around: `(product, params, v) -> v'`, where `product` is `v -> m v`.

    Returns:
        An operation whose `at`, and whose terms if op is an average, are made in the same way.
    """

    def operation(params: Params, buffers: Buffers, batch: Batch, v: Vector = ...) -> Vector:
        return around(partial(op, params, buffers, batch), params, v)

    def at(params: Params, buffers: Buffers, batch: Batch) -> Callable[[Vector], Vector]:
        return partial(around, at_point(op, params, buffers, batch), params)

    inside = traits_of(op).terms
    if inside is None:
        return with_at(operation, at)

    def terms(params: Params, buffers: Buffers, batches: Iterable[Batch]) -> Iterator[Term]:
        return (partial(_weighted, around, term, params) for term in inside(params, buffers, batches))

    return with_at(operation, at, Traits(terms=terms))


def _weighted(around: Any, term: Term, params: Params, v: Vector) -> tuple[Vector, float]:
    """The product and the weight of one term of an average, with `around` put around the product."""
    weights: list[float] = []

    def product(u: Vector) -> Vector:
        result, weight = term(u)
        weights.append(weight)
        return result

    return around(product, params, v), weights[-1]
