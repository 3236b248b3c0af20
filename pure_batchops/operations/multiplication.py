"""A linear map, applied to one vector or to K of them, in any of the forms of v."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from pure_batchops.budget import NUMBERS_BY_VMAP, fitting
from pure_batchops.trees import leaves, map_leaves
from pure_batchops.types import LinearMap, Tree, Vector
from pure_batchops.vectors import Form


class OnTrees(NamedTuple):
    """A linear map of one vector, `v -> m v`, on trees like params.

    Attributes:
        multiply: the map.
        numbers_at_once: the most numbers, over all vectors, that are multiplied together by vmap.
    """

    multiply: LinearMap
    numbers_at_once: int = NUMBERS_BY_VMAP


class OnRows(NamedTuple):
    """A linear map of any number of vectors as rows, `(K, D) -> (K, D)`.

    Attributes:
        multiply: the map.
        numbers_at_once: the most numbers that are multiplied together.
    """

    multiply: Callable[[Tensor], Tensor]
    numbers_at_once: int


Multiplication = OnTrees | OnRows


def products(multiplication: Multiplication, form: Form, chunk_size: int | None) -> Vector:
    """The product with each vector, a chunk of vectors at a time, in the form of v."""
    multiply, numbers_at_once = multiplication
    if isinstance(multiplication, OnRows):
        rows = form.rows()
        chunk = chunk_size or fitting(rows.shape[1], numbers_at_once)
        return form.of_rows(
            multiply(rows) if chunk >= len(rows) else torch.cat([multiply(part) for part in rows.split(chunk)])
        )
    tree = form.tree()
    if form.vectors is None:
        return form.of_tree(multiply(tree))
    if form.vectors == 0:
        multiply(map_leaves(lambda leaf: leaf.new_zeros(leaf.shape[1:]), tree))  # so that an average learns how many samples
        return form.of_tree(map_leaves(torch.zeros_like, tree))
    chunk = chunk_size or fitting(sum(leaf[0].numel() for leaf in leaves(tree)), numbers_at_once)
    if chunk >= form.vectors > 1:
        return form.of_tree(torch.vmap(multiply)(tree))
    return form.of_trees(_chunk(multiply, tree, start, chunk) for start in range(0, form.vectors, chunk))


def _chunk(multiply: LinearMap, vectors: Tree, start: int, chunk: int) -> Tree:
    """The products of a chunk of the vectors by vmap; of a single one without."""
    some = map_leaves(lambda leaf: leaf[start : start + chunk], vectors)
    if chunk > 1:
        return torch.vmap(multiply)(some)
    return map_leaves(lambda leaf: leaf[None], multiply(map_leaves(lambda leaf: leaf[0], some)))
