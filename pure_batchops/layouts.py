"""How the leaves of params lie in a flat vector, and whether a vector fits them."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from pure_batchops.trees import Path, leaves, named, parameter_leaves, same_leaves
from pure_batchops.types import Params


class Layout(NamedTuple):
    """The leaves of params, and how they lie in a flat vector.

    Attributes:
        params: the tree.
        leaves: its leaves by path, in its order.
        sizes: the numbers in each leaf.
        size: D, the numbers in all.
        uniform: whether all leaves have one dtype and device, so that they make one flat vector.
    """

    params: Params
    leaves: dict[Path, Tensor]
    sizes: list[int]
    size: int
    uniform: bool


def layout_of(params: Params) -> Layout:
    """The layout of params.

    Returns:
        What `Layout` says.

    Raises:
        TypeError: if params are no tree of real floating-point tensors.
        ValueError: if params hold no tensor.
    """
    expected = parameter_leaves(params)
    sizes = [leaf.numel() for leaf in expected.values()]
    return Layout(params, expected, sizes, sum(sizes), is_uniform(params))


def is_uniform(params: Params) -> bool:
    """Whether all leaves have one dtype and device, so that they make one vector."""
    first, *others = leaves(params)
    return all(leaf.dtype == first.dtype and leaf.device == first.device for leaf in others)


def is_flat(layout: Layout, v: Any) -> bool:
    """Whether a vector is flat, and not a tree of one leaf."""
    params = layout.params
    return isinstance(v, Tensor) and not (isinstance(params, Tensor) and params.shape in (v.shape, v.shape[1:]))


def check_flat(layout: Layout, v: Tensor) -> None:
    """Refuse a flat vector that does not fit params."""
    if not layout.uniform:
        msg = "params must all have one dtype and device for a flat v; give v as a tree like params"
        raise ValueError(msg)
    check_width("a flat v", layout, v)
    _check_kind("", v, next(iter(layout.leaves.values())))


def check_width(name: str, layout: Layout, rows: Tensor) -> None:
    """Refuse flat vectors of another length than params."""
    size = layout.size
    if rows.dim() not in (1, 2) or rows.shape[-1] != size:
        msg = f"{name} must have the shape ({size},) or (K, {size}), as params hold {size} numbers, got {tuple(rows.shape)}"
        raise ValueError(msg)


def checked_leaves(layout: Layout, v: Any) -> tuple[list[Tensor], int | None]:
    """The leaves of v in the order of params, and its number of vectors K, None for one vector without an axis.

    Returns:
        Both.

    Raises:
        TypeError: if v is no tree of tensors, or has another dtype than params.
        ValueError: if its leaves, shapes, number of vectors or device do not fit params.
    """
    _check_tree(layout.params, v)
    expected = layout.leaves
    given = same_leaves("v", expected, v)
    counts = [_check_leaf(path, leaf, like) for (path, like), leaf in zip(expected.items(), given, strict=True)]
    if any(count != counts[0] for count in counts):
        seen = ", ".join(
            f"{named(path)} {'one without an axis' if count is None else count}"
            for path, count in zip(expected, counts, strict=True)
        )
        msg = f"all leaves of v must hold the same number of vectors K, got {seen}"
        raise ValueError(msg)
    return given, counts[0]


def _check_tree(params: Params, v: Any) -> None:
    if v is None or isinstance(v, (str, bytes, int, float)):
        msg = f"v must be a tensor or a tree of tensors like params, got {type(v).__name__}"
        raise TypeError(msg)
    if type(v) in (list, tuple) and not isinstance(params, (list, tuple)):
        msg = f"v must be a tensor or a tree of tensors like params, got a {type(v).__name__} of {len(v)}"
        if isinstance(params, dict):
            msg += "; if it holds one tensor for each parameter, as torch.autograd.grad returns it, use dict(zip(params, v))"
        raise TypeError(msg)


def _check_leaf(path: Path, leaf: Any, like: Tensor) -> int | None:
    """The number of vectors that a leaf of v holds, None for one without an axis."""
    if not isinstance(leaf, Tensor):
        msg = f"v must be a tensor or a tree of tensors like params, got {type(leaf).__name__} at {named(path)}"
        raise TypeError(msg)
    if like.shape not in (leaf.shape, leaf.shape[1:]):
        msg = (
            f"v must have at {named(path)} the shape {tuple(like.shape)} of params, or {('K', *like.shape)} for K "
            f"vectors, got {tuple(leaf.shape)}"
        )
        raise ValueError(msg)
    _check_kind(f" at {named(path)}", leaf, like)
    return None if leaf.dim() == like.dim() else leaf.shape[0]


def _check_kind(where: str, leaf: Tensor, like: Tensor) -> None:
    if leaf.dtype != like.dtype:
        msg = f"v must have the dtype {like.dtype} of params{where}, got {leaf.dtype}"
        raise TypeError(msg)
    if leaf.device != like.device:
        msg = f"v must be on the device {like.device} of params{where}, got {leaf.device}"
        raise ValueError(msg)


def working_dtype(layout: Layout) -> torch.dtype:
    """The dtype that holds the numbers of all leaves without rounding."""
    first, *others = (leaf.dtype for leaf in layout.leaves.values())
    for other in others:
        first = torch.promote_types(first, other)
    return first
