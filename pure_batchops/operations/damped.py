"""A matrix with a multiple of the identity on top."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from pure_batchops import checks
from pure_batchops.batches import sample_axis
from pure_batchops.operations.operation import with_at
from pure_batchops.trees import map_leaves
from pure_batchops.types import Batch, Buffers, Operation, Params, Vector
from pure_batchops.vectors import vector_form


def damped(op: Operation, regularization: float | Tensor) -> Operation:
    """The damped matrix, m(batch) + λI.

    Args:
        op: any operation, on a batch or, as `averaged(op)`, on batches.
        regularization: λ, positive and finite; or a 0-dim tensor, which may be vmapped.
            Where no number can be read, under vmap and torch.compile, the product is NaN if λ is not positive.

    Returns:
        `op(params, buffers, batch, v) -> product`, symmetric if op is, positive definite if op is semi-definite.

    Raises:
        TypeError: if op is no function, or regularization is no number.
        ValueError: if regularization is not positive and finite.

    Examples:
        >>> import torch
        >>> from pure_batchops import hessian
        >>> op = damped(hessian(lambda params, buffers, x: (params * x) ** 2), 0.5)
        >>> op(torch.tensor([1.0]), {}, torch.tensor([1.0, 1.0]), torch.tensor([1.0]))
        tensor([2.5000])
    """
    checks.operation("op", op)
    damping = checks.positive("regularization", regularization)

    def sum_with(product: Callable[[Vector], Vector], params: Params, v: Vector) -> Vector:
        ordered = v if isinstance(v, Tensor) else vector_form(params, v).tree()
        return map_leaves(lambda a, b: a + (damping * b).to(b.dtype), product(v), ordered)

    def operation(params: Params, buffers: Buffers, batch: Batch, v: Vector) -> Vector:
        return sum_with(lambda u: op(params, buffers, batch, u), params, v)

    def at(params: Params, buffers: Buffers, batch: Batch) -> Callable[[Vector], Any]:
        product = op.at(params, buffers, batch)
        return lambda v: sum_with(product, params, v)

    return with_at(operation, at, sample_axis(op))
