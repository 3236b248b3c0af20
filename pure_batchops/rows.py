"""A matrix as a map of rows: K vectors `(K, D)` in, K products `(K, D)` out, in at least single precision.

Maps are partials of module-level functions, see rule C1 of `tracing`.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from pure_batchops.layouts import Layout, layout_of, working_dtype
from pure_batchops.trees import leaves
from pure_batchops.types import LinearMap, Params
from pure_batchops.vectors import unflatten

RowFunction = Callable[[Tensor], Tensor]
"""A function of K vectors as rows, `(K, D) -> (K, D)`."""


class RowMap(NamedTuple):
    """A matrix that multiplies rows.

    Attributes:
        size: D.
        multiply: `(K, D) -> (K, D)`, row by row v ↦ m v, both in working precision.
        like: a tensor without numbers, of the working precision (that of params, at least single) and their device.
        eps: the relative rounding of a product: that of the least precise of params.
    """

    size: int
    multiply: RowFunction
    like: Tensor
    eps: float


def row_map(product: LinearMap, params: Params) -> RowMap:
    """The map of rows of a linear map v ↦ m v at one point, such as `op.at(params, buffers, batch)`.

    Rows stay rows where params have one dtype and device. Otherwise the map gets a tree like params.

    Returns:
        What `RowMap` says.

    Raises:
        TypeError: if params are no tree of real floating-point tensors.
        ValueError: if params hold no tensor.
    """
    layout = layout_of(params)
    first = next(iter(layout.leaves.values()))
    dtype = torch.promote_types(working_dtype(layout), torch.float32)
    multiply = partial(_by_rows, product, first.dtype) if layout.uniform else partial(_by_trees, product, layout, first.device)
    eps = max(torch.finfo(leaf.dtype).eps for leaf in layout.leaves.values())
    return RowMap(layout.size, multiply, torch.empty(0, dtype=dtype, device=first.device), eps)


def _by_rows(product: LinearMap, dtype: torch.dtype, rows: Tensor) -> Tensor:
    image: Tensor = product(rows.to(dtype))
    if image.shape != rows.shape:
        msg = f"the product must have the shape {tuple(rows.shape)} of v, got {tuple(image.shape)}"
        raise ValueError(msg)
    return image.to(rows.dtype)


def _by_trees(product: LinearMap, layout: Layout, device: torch.device, rows: Tensor) -> Tensor:
    products = leaves(product(unflatten(layout.params, rows)))
    sized = zip(products, layout.sizes, strict=True)
    return torch.cat([leaf.reshape(len(rows), size).to(device=device, dtype=rows.dtype) for leaf, size in sized], 1)


def width(params: Params) -> int:
    """D, the numbers in params.

    Returns:
        Their number.

    Raises:
        ValueError: if params have several dtypes or devices, for which v has no dtype to come in.
    """
    layout = layout_of(params)
    if not layout.uniform:
        kinds = ", ".join(sorted({f"{leaf.dtype} on {leaf.device}" for leaf in layout.leaves.values()}))
        msg = f"params must all have one dtype and device for an inverse, got {kinds}"
        raise ValueError(msg)
    return layout.size
