"""A matrix with a multiple of the identity on top."""

from collections.abc import Callable

from torch import Tensor

from pure_batchops import checks
from pure_batchops.operations.derived import derived
from pure_batchops.trees import map_leaves
from pure_batchops.types import Operation, Params, Vector
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
    regularization = checks.positive("regularization", regularization)

    def around(product: Callable[[Vector], Vector], params: Params, v: Vector) -> Vector:
        ordered = v if isinstance(v, Tensor) else vector_form(params, v).tree()
        return map_leaves(lambda mv, leaf: mv + (regularization * leaf).to(leaf.dtype), product(v), ordered)  # m v + λ v

    return derived(op, around)
