"""A matrix as a map of rows in working precision, whatever the shapes and dtypes of params."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from pure_batchops.operations.operation import at_point
from pure_batchops.trees import leaves, parameter_leaves, rebuilt
from pure_batchops.types import Batch, Buffers, Operation, Params


class RowMap(NamedTuple):
    """A matrix that multiplies rows.

    Attributes:
        size: D.
        multiply: `(K, D) -> (K, D)`, row by row v ↦ m v, both in working precision.
        like: a tensor without numbers, of the working precision (that of params, at least single) and their device.
        eps: the rounding of a product, relative: that of the least precise of params.
    """

    size: int
    multiply: Callable[[Tensor], Tensor]
    like: Tensor
    eps: float


def row_map(op: Operation, params: Params, buffers: Buffers, batch: Batch) -> RowMap:
    """The matrix of the operation at this point.

    Returns:
        What `RowMap` says.

    Raises:
        TypeError: if params are not trees of floating-point tensors.
        ValueError: if there are none, or batch is an iterator over batches.
    """
    found = list(parameter_leaves(params).values())
    sizes, device = [leaf.numel() for leaf in found], found[0].device
    dtype = torch.float32
    for leaf in found:
        dtype = torch.promote_types(dtype, leaf.dtype)
    product = at_point(op, params, buffers, batch)

    def multiply(rows: Tensor) -> Tensor:
        parts = zip(rows.split(sizes, 1), found, strict=True)
        v = [part.reshape(-1, *leaf.shape).to(device=leaf.device, dtype=leaf.dtype) for part, leaf in parts]
        products = leaves(product(rebuilt(params, v)))
        flat = [leaf.reshape(-1, size).to(device=device, dtype=dtype) for leaf, size in zip(products, sizes, strict=True)]
        return torch.cat(flat, 1)

    eps = max(torch.finfo(leaf.dtype).eps for leaf in found)
    return RowMap(sum(sizes), multiply, torch.empty(0, dtype=dtype, device=device), eps)
