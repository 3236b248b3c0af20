"""Trees of tensors: their leaves by name, arithmetic, and the four forms of a vector."""

from collections import OrderedDict, defaultdict
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from pure_batchops.types import Params, Tree, Vector

Path = tuple[str, ...]


class Form(NamedTuple):
    """A vector as a tree in the order of params, the number K of vectors (None: one, without an axis), the way back."""

    tree: Tree
    vectors: int | None
    restore: Callable[[Tree], Vector]


def leaves(tree: Tree) -> list[Any]:
    """The leaves of a tree, in its order."""
    return tree_flatten(tree)[0]


def rebuilt(like: Tree, new_leaves: list[Any]) -> Tree:
    """The tree `like` with other leaves."""
    return tree_unflatten(new_leaves, tree_flatten(like)[1])


def map_leaves(function: Callable[..., Any], first: Tree, *others: Tree) -> Tree:
    """The tree of `function(leaf, …)` over the leaves of trees of one structure and order."""
    return rebuilt(first, [function(*group) for group in zip(*map(leaves, (first, *others)), strict=True)])


def move(tree: Tree, device: torch.device) -> Tree:
    """The tree with its tensors on a device; whatever is no tensor stays as it is."""
    return tree_map(lambda leaf: leaf.to(device) if isinstance(leaf, Tensor) else leaf, tree)


def named_leaves(tree: Tree, path: Path = ()) -> dict[Path, Any]:
    """The leaves of a tree by their path, in its order."""
    children = _children(tree)
    if children is None:
        return {path: tree}
    return {name: leaf for key, child in children for name, leaf in named_leaves(child, (*path, key)).items()}


def _children(node: Any) -> list[tuple[str, Any]] | None:
    if type(node) in (dict, OrderedDict, defaultdict):
        return [(key if isinstance(key, str) else f"[{key!r}]", child) for key, child in node.items()]
    if isinstance(node, Tensor):
        return None
    if isinstance(node, tuple) and hasattr(node, "_fields"):
        return list(zip(node._fields, node, strict=True))
    if type(node) in (list, tuple):
        return [(f"[{i}]", child) for i, child in enumerate(node)]
    inner = tree_flatten(node)[0]
    if len(inner) == 1 and inner[0] is node:
        return None
    return [(f"[{i}]", child) for i, child in enumerate(inner)]


def named(path: Path) -> str:
    """A path as a person reads it."""
    return repr("/".join(path)) if path else "the tensor"


def parameter_leaves(params: Params) -> dict[Path, Tensor]:
    """The leaves of params by their path, all of which are real floating-point tensors.

    Returns:
        A dict in the order of params.

    Raises:
        TypeError: if a leaf is no tensor, or holds no real floating-point numbers.
        ValueError: if there is no leaf.
    """
    found = named_leaves(params)
    if not found:
        msg = "params must hold at least one tensor, got none; is everything frozen?"
        raise ValueError(msg)
    for path, leaf in found.items():
        if not isinstance(leaf, Tensor):
            msg = f"params must be a tensor or a tree of tensors, got {type(leaf).__name__} at {named(path)}"
            raise TypeError(msg)
        if not leaf.is_floating_point():
            msg = f"params must be real floating-point tensors, got {leaf.dtype} at {named(path)}; put it into buffers"
            raise TypeError(msg)
    return found


def same_leaves(what: str, expected: dict[Path, Any], tree: Tree) -> list[Any]:
    """The leaves of a tree in the order of those expected, whatever the order of its keys.

    Returns:
        A list, one leaf for each expected.

    Raises:
        ValueError: if a leaf is missing, or one too many.
    """
    found = named_leaves(tree)
    missing = [path for path in expected if path not in found]
    extra = [path for path in found if path not in expected]
    if missing or extra:
        parts = [f"missing {', '.join(map(named, missing))}"] * bool(missing)
        parts += [f"not expected {', '.join(map(named, extra))}"] * bool(extra)
        msg = f"{what} must have the leaves {', '.join(map(named, expected))}; {'; '.join(parts)}"
        raise ValueError(msg)
    return [found[path] for path in expected]


def vector_form(params: Params, v: Vector) -> Form:
    """The vector v, in whichever of its four forms, as a tree in the order of params.

    Returns:
        The tree, the number of vectors, and the function that brings a product into the form of v.

    Raises:
        TypeError: if v is neither a tensor nor a tree of tensors, or has another dtype than params.
        ValueError: if its leaves, shapes, number of vectors or device do not fit params.
    """
    expected = parameter_leaves(params)
    if isinstance(v, Tensor) and not (isinstance(params, Tensor) and params.shape in (v.shape, v.shape[1:])):
        return _flat_form(params, expected, v)
    if v is None or isinstance(v, (str, bytes, int, float)):
        msg = f"v must be a tensor or a tree of tensors like params, got {type(v).__name__}"
        raise TypeError(msg)
    found = same_leaves("v", expected, v)
    counts = [_check_leaf(path, leaf, like) for (path, like), leaf in zip(expected.items(), found, strict=True)]
    if any(count != counts[0] for count in counts):
        seen = ", ".join(
            f"{named(path)} {'one without an axis' if count is None else count}"
            for path, count in zip(expected, counts, strict=True)
        )
        msg = f"all leaves of v must hold the same number of vectors K, got {seen}"
        raise ValueError(msg)
    return Form(rebuilt(params, found), counts[0], lambda product: product)


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


def _flat_form(params: Params, expected: dict[Path, Tensor], v: Tensor) -> Form:
    first = next(iter(expected.values()))
    if any(leaf.dtype != first.dtype or leaf.device != first.device for leaf in expected.values()):
        msg = "params must all have one dtype and device for a flat v; give v as a tree like params"
        raise ValueError(msg)
    sizes = [leaf.numel() for leaf in expected.values()]
    total = sum(sizes)
    if v.dim() not in (1, 2) or v.shape[-1] != total:
        msg = f"a flat v must have the shape ({total},) or (K, {total}), as params hold {total} numbers, got {tuple(v.shape)}"
        raise ValueError(msg)
    _check_kind("", v, first)
    lead = v.shape[:-1]
    parts = [
        part.reshape((*lead, *leaf.shape)) for part, leaf in zip(torch.split(v, sizes, -1), expected.values(), strict=True)
    ]

    def restore(product: Tree) -> Tensor:
        return torch.cat([leaf.reshape((*lead, size)) for leaf, size in zip(leaves(product), sizes, strict=True)], -1)

    return Form(rebuilt(params, parts), v.shape[0] if v.dim() == 2 else None, restore)
