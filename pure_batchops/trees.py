"""Trees of tensors: their leaves by name, and arithmetic."""

from collections import OrderedDict, UserDict, defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree

from pure_batchops.mappings import closed, opened
from pure_batchops.types import Params, Tree

Path = tuple[str, ...]


def tree_flatten(tree: Tree) -> tuple[list[Any], Any]:
    """The leaves of a tree, and its structure."""
    return opened(*_pytree.tree_flatten(tree), tree_flatten)


def tree_unflatten(parts: list[Any], structure: Any) -> Tree:
    """The tree of a structure with these leaves."""
    return _pytree.tree_unflatten(*closed(parts, structure, tree_unflatten))


def tree_map(function: Callable[..., Any], tree: Tree) -> Tree:
    """The tree of `function(leaf)`."""
    parts, structure = tree_flatten(tree)
    return tree_unflatten([function(part) for part in parts], structure)


def leaves(tree: Tree) -> list[Any]:
    """The leaves of a tree, in its order."""
    if type(tree) not in (dict, tuple, list):
        return [tree] if isinstance(tree, Tensor) else tree_flatten(tree)[0]
    parts = list(tree.values() if type(tree) is dict else tree)  # we need not ask torch, which is slow
    return parts if all(isinstance(part, Tensor) for part in parts) else [leaf for part in parts for leaf in leaves(part)]


def rebuilt(like: Tree, new_leaves: list[Any]) -> Tree:
    """The tree `like` with new leaves."""
    return dict(zip(like, new_leaves, strict=True)) if _is_flat(like) else tree_unflatten(new_leaves, tree_flatten(like)[1])


def _is_flat(tree: Tree) -> bool:
    """Whether a tree is a dict of tensors, as most trees are."""
    return type(tree) is dict and all(isinstance(leaf, Tensor) for leaf in tree.values())


def map_leaves(function: Callable[..., Any], first: Tree, *others: Tree) -> Tree:
    """The tree of `function(leaf, …)` for the leaves of trees that have the same structure and order."""
    return rebuilt(first, [function(*group) for group in zip(*map(leaves, (first, *others)), strict=True)])


def device_of(params: Params) -> torch.device:
    """The device of the first leaf of params."""
    return next(iter(parameter_leaves(params).values())).device


def move(tree: Tree, device: torch.device) -> Tree:
    """The tree with its tensors on a device. Leaves that are no tensors are unchanged."""
    return tree_map(lambda leaf: leaf.to(device) if isinstance(leaf, Tensor) else leaf, tree)


def named_leaves(tree: Tree, path: Path = ()) -> dict[Path, Any]:
    """The leaves of a tree by their path, in its order."""
    if not path and _is_flat(tree):
        return {(key if isinstance(key, str) else f"[{key!r}]",): leaf for key, leaf in tree.items()}
    children = _children(tree)
    if children is None:
        return {path: tree}
    return {name: leaf for key, child in children for name, leaf in named_leaves(child, (*path, key)).items()}


def _children(node: Any) -> list[tuple[str, Any]] | None:
    if type(node) in (dict, OrderedDict, defaultdict) or isinstance(node, UserDict):
        return [(key if isinstance(key, str) else f"[{key!r}]", child) for key, child in node.items()]
    if isinstance(node, Tensor):
        return None
    if isinstance(node, tuple) and hasattr(node, "_fields"):
        return list(zip(node._fields, node, strict=True))
    if type(node) in (list, tuple):
        return [(f"[{i}]", child) for i, child in enumerate(node)]
    inner = tree_flatten(node)[0]
    return None if len(inner) == 1 and inner[0] is node else [(f"[{i}]", child) for i, child in enumerate(inner)]


def named(path: Path) -> str:
    """A path in words, for messages."""
    return repr("/".join(path)) if path else "the root"


def tensor_leaves(name: str, tree: Tree) -> list[Tensor]:
    """The leaves of a tree, in its order, all of which must be tensors; else a TypeError."""
    for path, leaf in named_leaves(tree).items():
        if not isinstance(leaf, Tensor):
            msg = f"{name} must be a tensor or a tree of tensors, got {type(leaf).__name__} at {named(path)}"
            raise TypeError(msg)
    return leaves(tree)


def parameter_leaves(params: Params) -> dict[Path, Tensor]:
    """The leaves of params by their path, checked to be real floating-point tensors.

    Returns:
        A dict in the order of params.

    Raises:
        TypeError: if a leaf is no tensor, or holds no real floating-point numbers.
        ValueError: if there is no leaf.
    """
    by_path = named_leaves(params)
    if not by_path:
        msg = "params must hold at least one tensor, got none; is everything frozen?"
        raise ValueError(msg)
    for path, leaf in by_path.items():
        if not isinstance(leaf, Tensor):
            msg = f"params must be a tensor or a tree of tensors, got {type(leaf).__name__} at {named(path)}"
            raise TypeError(msg)
        if not leaf.is_floating_point():
            msg = f"params must be real floating-point tensors, got {leaf.dtype} at {named(path)}; put it into buffers"
            raise TypeError(msg)
    return by_path


def same_leaves(what: str, expected: dict[Path, Any], tree: Tree) -> list[Any]:
    """The leaves of a tree in the expected order, whatever the order of its keys.

    Returns:
        A list, one leaf for each expected leaf.

    Raises:
        ValueError: if a leaf is missing, or not expected.
    """
    by_path = named_leaves(tree)
    missing = [path for path in expected if path not in by_path]
    extra = [path for path in by_path if path not in expected]
    if missing or extra:
        parts = [f"missing {', '.join(map(named, missing))}"] * bool(missing)
        parts += [f"not expected {', '.join(map(named, extra))}"] * bool(extra)
        msg = f"{what} must have the leaves {', '.join(map(named, expected))}; {'; '.join(parts)}"
        raise ValueError(msg)
    return [by_path[path] for path in expected]
