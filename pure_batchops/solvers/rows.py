"""What the methods share: an operation on rows, `(K, D)`, and the operation that a method on rows makes.

Maps of rows are `partial`s: torch 2.5 cannot compile closures of a function that returns before they are called.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from pure_batchops import tracing
from pure_batchops.operations.operation import at_point, with_at
from pure_batchops.trees import parameter_leaves
from pure_batchops.types import Batch, Buffers, LinearMap, Operation, Params, Vector
from pure_batchops.vectors import is_uniform, vector_form

LinAlgError: type[RuntimeError] = torch.linalg.LinAlgError  # type: ignore[attr-defined]

RowMap = Callable[[Tensor], Tensor]
"""A function of K vectors as rows, `(K, D) -> (K, D)`, in at least single precision."""


def rows_of(op: Operation, params: Params, buffers: Buffers, batch: Batch) -> RowMap:
    """The product of an operation at one point, on rows in at least single precision."""
    return on_rows(at_point(op, params, buffers, batch), params)


def on_rows(product: LinearMap, params: Params) -> RowMap:
    """A product of vectors in the dtype of params, on rows in at least single precision."""
    dtype = next(iter(parameter_leaves(params).values())).dtype
    return partial(_in_its_dtype, product, dtype)


def _in_its_dtype(product: LinearMap, dtype: torch.dtype, rows: Tensor) -> Tensor:
    return product(rows.to(dtype)).to(rows.dtype)


def operation_on_rows(at: Callable[[Params, Buffers, Batch], RowMap]) -> Operation:
    """The operation of a function that gives a linear map of rows in at least single precision."""

    def operation_at(params: Params, buffers: Buffers, batch: Batch) -> Callable[[Vector], Vector]:
        width(params)
        return partial(_of_vector, at(params, buffers, batch), params)

    def operation(params: Params, buffers: Buffers, batch: Batch, v: Vector) -> Vector:
        vector_form(params, v)  # what is wrong with v is said before anything is computed
        return operation_at(params, buffers, batch)(v)

    return with_at(operation, operation_at)


def _of_vector(multiply: RowMap, params: Params, v: Vector) -> Vector:
    form = vector_form(params, v)
    rows = form.rows()
    return form.of_rows(multiply(finite(rows)).to(rows.dtype))


def finite(rows: Tensor) -> Tensor:
    """The rows in at least single precision.

    Returns:
        `(K, D)`.

    Raises:
        ValueError: if a row holds a number that is not finite.
    """
    good = torch.isfinite(rows).all(1)
    if tracing.readable(good.all()) is False:
        msg = f"v must be finite, got {int((~good).sum())} of {len(rows)} right-hand sides with nan or inf"
        raise ValueError(msg)
    return rows.to(torch.promote_types(rows.dtype, torch.float32))


def width(params: Params) -> int:
    """D, the numbers in params.

    Returns:
        Their number.

    Raises:
        ValueError: if params have several dtypes or devices: then there are no rows.
    """
    found = parameter_leaves(params)
    if not is_uniform(params):
        kinds = ", ".join(sorted({f"{leaf.dtype} on {leaf.device}" for leaf in found.values()}))
        msg = f"params must all have one dtype and device for an inverse, got {kinds}"
        raise ValueError(msg)
    return sum(leaf.numel() for leaf in found.values())


def dots(one: Tensor, other: Tensor) -> Tensor:
    """The inner products of rows, `(K,)`, without a copy of their products where that would be large."""
    if one.numel() < 2**17:
        return torch.linalg.vecdot(one, other)
    return torch.bmm(one[:, None], other[:, :, None]).flatten()


def plus(one: Tensor, scale: float | Tensor, other: Tensor) -> Tensor:
    """One + scale · other, without a copy of the product where scale is a number."""
    return one + scale * other if isinstance(scale, Tensor) else torch.add(one, other, alpha=scale)


def only(good: Tensor, rows: Tensor, error: Callable[[Tensor], Exception]) -> Tensor:
    """The rows, if all are good.

    Args:
        good: which rows are, `(K,)`.
        rows: `(K, D)`.
        error: what to raise, from `good`.

    Returns:
        The rows; where no number can be read, under vmap and torch.compile, those that are not good are NaN.
    """
    holds = tracing.readable(good.all())
    if holds is False:
        raise error(good)
    return rows if holds else torch.where(good[:, None], rows, torch.nan)
