"""The four forms of a vector: a tree like params, K of them on leading axes, flat, and K flat rows."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from pure_batchops.trees import Path, leaves, map_leaves, named, parameter_leaves, rebuilt, same_leaves
from pure_batchops.types import Params, Tree, Vector


class Form(NamedTuple):
    """A vector in one of its forms.

    Attributes:
        vectors: their number K, None for one without an axis.
        tree: when called, the vector as a tree in the order of params, K of them with a leading axis on every leaf.
        rows: when called, the vectors as rows, `(K, D)`, one as `(1, D)`.
        of_tree: a product that is such a tree, in the form of the vector.
        of_trees: K products, in trees like params with some of them along a first axis, in the form of the vector.
        of_rows: a product that is such rows, in the form of the vector.
    """

    vectors: int | None
    tree: Callable[[], Tree]
    rows: Callable[[], Tensor]
    of_tree: Callable[[Tree], Vector]
    of_trees: Callable[[Iterable[Tree]], Vector]
    of_rows: Callable[[Tensor], Vector]


def vector_form(params: Params, v: Vector) -> Form:
    """The form of a vector.

    Returns:
        What `Form` says.

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
    lead = () if counts[0] is None else (counts[0],)

    def rows() -> Tensor:
        return torch.cat(
            [leaf.reshape(*(lead or (1,)), like.numel()) for leaf, like in zip(found, expected.values(), strict=True)], 1
        )

    return Form(
        counts[0],
        lambda: rebuilt(params, found),
        rows,
        lambda product: product,
        lambda products: map_leaves(lambda *parts: torch.cat(parts), *products),
        lambda product: rebuilt(params, _parts(product, lead, expected)),
    )


def _flat_form(params: Params, expected: dict[Path, Tensor], v: Tensor) -> Form:
    if not is_uniform(params):
        msg = "params must all have one dtype and device for a flat v; give v as a tree like params"
        raise ValueError(msg)
    total = sum(leaf.numel() for leaf in expected.values())
    if v.dim() not in (1, 2) or v.shape[-1] != total:
        msg = f"a flat v must have the shape ({total},) or (K, {total}), as params hold {total} numbers, got {tuple(v.shape)}"
        raise ValueError(msg)
    _check_kind("", v, next(iter(expected.values())))
    lead = v.shape[:-1]

    def of_tree(product: Tree) -> Tensor:
        sized = zip(leaves(product), expected.values(), strict=True)
        return torch.cat([leaf.reshape(*lead, like.numel()) for leaf, like in sized], -1)

    def of_trees(products: Any) -> Tensor:  # torch 2.5 cannot trace an annotation in brackets
        found, end = None, 0
        for product in products:
            some = torch.cat([leaf.reshape(len(leaf), -1) for leaf in leaves(product)], 1)
            found = some.new_empty(v.shape) if found is None else found  # and no second copy of all
            found[end : end + len(some)] = some
            end += len(some)
        return cast("Tensor", found)

    return Form(
        v.shape[0] if lead else None,
        lambda: rebuilt(params, _parts(v, lead, expected)),
        lambda: v if lead else v[None],
        of_tree,
        of_trees,
        lambda product: product if lead else product[0],
    )


def is_uniform(params: Params) -> bool:
    """Whether all leaves have one dtype and device, so that they make one vector."""
    first, *others = leaves(params)
    return all(leaf.dtype == first.dtype and leaf.device == first.device for leaf in others)


def _parts(flat: Tensor, lead: tuple[int, ...], expected: dict[Path, Tensor]) -> list[Tensor]:
    sizes = [leaf.numel() for leaf in expected.values()]
    return [part.reshape((*lead, *leaf.shape)) for part, leaf in zip(flat.split(sizes, -1), expected.values(), strict=True)]


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
