"""Arithmetic of trees like params: a step of a descent, an angle, a random direction.

The functions can be differentiated, mapped by `torch.vmap` and compiled.
"""

from functools import reduce

import torch
from torch import Tensor

from pure_batchops import checks
from pure_batchops.noise import normal
from pure_batchops.trees import named, named_leaves, rebuilt, same_leaves, tensor_leaves
from pure_batchops.types import Tree


def tree_axpy(scale: float | Tensor, x: Tree, y: Tree) -> Tree:
    """The tree scale · x + y, leaf by leaf.

    Args:
        scale: a number or a 0-dim tensor.
        x: a tree of tensors.
        y: a tree with the leaves of x, of the same shapes. Its keys may be in another order.

    Returns:
        A tree with the containers of y, its keys in the order of y: `tree_axpy(-rate, gradient, params)` is like params.

    Raises:
        TypeError: if a leaf is no tensor.
        ValueError: if x and y have different leaves or shapes.

    Examples:
        >>> params, gradient = {"w": torch.tensor([1.0, 2.0])}, {"w": torch.tensor([10.0, -10.0])}
        >>> tree_axpy(-0.1, gradient, params)
        {'w': tensor([0., 3.])}
    """
    return rebuilt(y, [scale * of_x + of_y for of_x, of_y in zip(*_matched(x, y), strict=True)])


def tree_inner_product(x: Tree, y: Tree) -> Tensor:
    """The inner product of two trees, Σᵢ xᵢ yᵢ over all their numbers.

    Args:
        x: a tree of tensors.
        y: a tree with the leaves of x, of the same shapes. Its keys may be in another order.

    Returns:
        A 0-dim tensor, in at least single precision.

    Raises:
        TypeError: if a leaf is no tensor.
        ValueError: if x and y have different leaves or shapes, or hold no tensor.

    Examples:
        >>> x, y = {"w": torch.tensor([1.0, 2.0]), "b": torch.tensor(3.0)}, {"b": torch.ones(()), "w": torch.ones(2)}
        >>> tree_inner_product(x, y)
        tensor(6.)
    """
    terms = [(_wide(of_x) * _wide(of_y)).sum() for of_x, of_y in zip(*_matched(x, y), strict=True)]
    if not terms:
        msg = "x and y must hold at least one tensor, got none"
        raise ValueError(msg)
    return reduce(torch.add, terms)


def tree_norm(x: Tree) -> Tensor:
    """The Euclidean norm of a tree, (Σᵢ xᵢ²)^½ over all its numbers.

    Args:
        x: a tree of tensors.

    Returns:
        A 0-dim tensor, in at least single precision. Its gradient at zero is zero.

    Raises:
        TypeError: if a leaf is no tensor.
        ValueError: if x holds no tensor.

    Examples:
        >>> tree_norm({"w": torch.tensor([3.0, 0.0]), "b": torch.tensor(4.0)})
        tensor(5.)
    """
    norms = [torch.linalg.vector_norm(_wide(leaf)) for leaf in tensor_leaves("x", x)]
    if not norms:
        msg = "x must hold at least one tensor, got none"
        raise ValueError(msg)
    dtype = _common_dtype(norms)
    return torch.linalg.vector_norm(torch.stack([norm.to(dtype) for norm in norms]))


def tree_random(like: Tree, seed: int | Tensor = 0, count: int | None = None) -> Tree:
    """Independent standard normal numbers in the shape of a tree.

    They depend on the seed and the shapes alone, and on no random number generator of torch's.

    Args:
        like: a tree of floating-point tensors, such as params.
        seed: a whole number of at least zero; or a 0-dim integer tensor, which torch.vmap may map over.
        count: how many trees to draw; None draws one.

    Returns:
        A tree like `like`, in its dtypes and on its devices. With a count, every leaf has a leading axis of that length.

    Raises:
        TypeError: if a leaf is no floating-point tensor, or seed or count is no whole number.
        ValueError: if the seed is negative, or the count is less than one.

    Examples:
        >>> v = tree_random({"w": torch.zeros(2, 3), "b": torch.zeros(3)}, seed=1, count=5)
        >>> {name: tuple(leaf.shape) for name, leaf in v.items()}
        {'w': (5, 2, 3), 'b': (5, 3)}
    """
    flat = tensor_leaves("like", like)
    for path, leaf in named_leaves(like).items():
        if not leaf.is_floating_point():
            msg = f"like must be a tree of floating-point tensors, got {leaf.dtype} at {named(path)}"
            raise TypeError(msg)
    if not flat:
        return like
    seed = checks.seed("seed", seed)
    lead = () if count is None else (checks.whole("count", count),)
    sizes = [leaf.numel() for leaf in flat]
    numbers = normal(seed, (*lead, sum(sizes)), torch.empty((), dtype=_common_dtype(flat), device=flat[0].device))
    parts = zip(numbers.split(sizes, -1), flat, strict=True)
    return rebuilt(like, [part.reshape((*lead, *leaf.shape)).to(leaf.device, leaf.dtype) for part, leaf in parts])


def _matched(x: Tree, y: Tree) -> tuple[list[Tensor], list[Tensor]]:
    """The leaves of x and y in the order of y, checked to be tensors of equal shapes."""
    expected, of_y = named_leaves(y), tensor_leaves("y", y)
    of_x = same_leaves("x", expected, x)
    tensor_leaves("x", x)
    for path, left, right in zip(expected, of_x, of_y, strict=True):
        if left.shape != right.shape:
            msg = f"x and y must have the same shapes, got {tuple(left.shape)} and {tuple(right.shape)} at {named(path)}"
            raise ValueError(msg)
    return of_x, of_y


def _wide(leaf: Tensor) -> Tensor:
    return leaf.to(torch.promote_types(leaf.dtype, torch.float32))


def _common_dtype(tensors: list[Tensor]) -> torch.dtype:
    return reduce(torch.promote_types, (tensor.dtype for tensor in tensors))
