"""The matrix itself, to look at and to test with."""

from collections.abc import Callable

import torch
from torch import Tensor

from pure_batchops import checks
from pure_batchops.trees import parameter_leaves
from pure_batchops.types import Batch, Buffers, Operation, Params


def dense(op: Operation) -> Callable[[Params, Buffers, Batch], Tensor]:
    """The matrix of an operation, column by column m(batch) · eⱼ.

    Args:
        op: any operation.

    Returns:
        `matrix(params, buffers, batch) -> (D, D)`, rows and columns in the order of params.

    Raises:
        TypeError: if op is no function.

    Examples:
        >>> from pure_batchops import hessian
        >>> loss = lambda params, buffers, x: (params @ x.T).square()
        >>> dense(hessian(loss))(torch.zeros(2), {}, torch.tensor([[1.0, 2.0]]))
        tensor([[2., 4.],
                [4., 8.]])
    """
    checks.function("op", op)

    def matrix(params: Params, buffers: Buffers, batch: Batch) -> Tensor:
        found = list(parameter_leaves(params).values())
        # torch 2.1 has no bfloat16 identity
        unit_vectors = torch.eye(sum(leaf.numel() for leaf in found), device=found[0].device).to(found[0].dtype)
        product: Tensor = op(params, buffers, batch, unit_vectors)
        return product.mT.contiguous()

    return matrix
