"""Shared by the solvers: an operation as a function of rows, and a function of rows as an operation."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from pure_batchops import tracing
from pure_batchops.layouts import Layout, layout_of
from pure_batchops.operations.derived import at_point, with_at
from pure_batchops.rows import RowFunction, RowMap, row_map, width
from pure_batchops.types import Batch, Buffers, Operation, Params, Vector
from pure_batchops.vectors import Form, form_in, vector_form

LinAlgError: type[RuntimeError] = torch.linalg.LinAlgError  # type: ignore[attr-defined]


def rows_of(op: Operation, params: Params, buffers: Buffers, batch: Batch) -> RowMap:
    """The matrix of an operation at one point, as a map of rows in at least single precision."""
    return row_map(at_point(op, params, buffers, batch), params)


def operation_on_rows(at: Callable[[Params, Buffers, Batch], RowFunction]) -> Operation:
    """The operation of a function that gives a linear function of rows in at least single precision."""

    def operation_at(params: Params, buffers: Buffers, batch: Batch) -> Callable[[Vector], Vector]:
        width(params)
        return partial(_of_vector, at(params, buffers, batch), layout_of(params))

    def operation(params: Params, buffers: Buffers, batch: Batch, v: Vector = ...) -> Vector:
        form = vector_form(params, v)  # what is wrong with v is said before anything is computed
        width(params)
        return _of_form(at(params, buffers, batch), form)

    return with_at(operation, operation_at)


def _of_vector(multiply: RowFunction, layout: Layout, v: Vector) -> Vector:
    return _of_form(multiply, form_in(layout, v))


def _of_form(multiply: RowFunction, form: Form) -> Vector:
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


def dots(one: Tensor, other: Tensor) -> Tensor:
    """The inner products of rows, `(K,)`, without a copy of their products where that would be large."""
    if one.numel() < 2**17:
        return torch.linalg.vecdot(one, other)
    return torch.bmm(one[:, None], other[:, :, None]).flatten()


def scales(rows: Tensor) -> Tensor:
    """A power of two near the largest number of each row, `(K, 1)`, or one. Divide a row by it before its numbers are squared.

    The square of a number below 1e-19 is no longer exact in single precision, and below 1e-23 it is zero.

    Returns:
        A constant for everyone who differentiates.
    """
    if rows.shape[1] == 0:
        return torch.ones_like(rows.sum(1, keepdim=True))
    most = rows.detach().abs().amax(1, keepdim=True)
    return torch.where((most > 0) & most.isfinite(), most.log2().floor().exp2(), 1)


def lengths(rows: Tensor) -> Tensor:
    """‖row‖, `(K,)`, right for any size that the dtype can hold."""
    scale = scales(rows)
    return torch.linalg.vector_norm(rows / scale, dim=1) * scale[:, 0]


def plus(one: Tensor, scale: float | Tensor, other: Tensor) -> Tensor:
    """One + scale · other, without a copy of the product where scale is a number."""
    return one + scale * other if isinstance(scale, Tensor) else torch.add(one, other, alpha=scale)
