"""The four forms of a vector: a tree like params, K of them on leading axes, flat, and K flat rows."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pure_batchops import tracing
from pure_batchops.layouts import Layout, check_flat, check_width, checked_leaves, is_flat, layout_of, working_dtype
from pure_batchops.trees import leaves, map_leaves, rebuilt
from pure_batchops.types import Params, Tree, Vector


class Form(NamedTuple):
    """A vector, and its form, which its product gets too.

    Attributes:
        layout: of params.
        value: a flat vector `(D,)` or `(K, D)`; or the leaves of a tree, in the order of params.
        vectors: K, None for one vector without an axis.
    """

    layout: Layout
    value: Any
    vectors: int | None

    def tree(self) -> Tree:
        """The vector as a tree in the order of params, K of them with a leading axis on every leaf."""
        given = _parts(self.layout, self.value) if isinstance(self.value, Tensor) else self.value
        return rebuilt(self.layout.params, given)

    def rows(self) -> Tensor:
        """The vectors as rows, `(K, D)`, one as `(1, D)`."""
        count = 1 if self.vectors is None else self.vectors
        if isinstance(self.value, Tensor):
            return self.value.reshape(count, self.layout.size)
        return torch.cat([leaf.reshape(count, size) for leaf, size in zip(self.value, self.layout.sizes, strict=True)], 1)

    def of_tree(self, product: Tree) -> Vector:
        """A product that is such a tree, in the form of the vector."""
        if not isinstance(self.value, Tensor):
            return product
        lead = self.value.shape[:-1]
        sized = zip(leaves(product), self.layout.sizes, strict=True)
        return torch.cat([leaf.reshape(*lead, size) for leaf, size in sized], -1)

    def of_trees(self, products: Iterable[Tree]) -> Vector:
        """K products, in trees like params with some of them along a first axis, in the form of the vector."""
        if not isinstance(self.value, Tensor):
            return map_leaves(lambda *parts: torch.cat(parts), *products)
        joined, end = None, 0
        for product in products:
            blocks = [leaf.reshape(len(leaf), -1) for leaf in leaves(product)]
            if not tracing.is_untraced(blocks):  # under vmap, some may be batched and some not
                blocks = [torch.cat(blocks, 1)]
            joined = blocks[0].new_empty(self.value.shape) if joined is None else joined  # and no second copy of all
            start, end, column = end, end + len(blocks[0]), 0
            for block in blocks:
                joined[start:end, column : column + block.shape[1]] = block
                column += block.shape[1]
        return joined

    def of_rows(self, product: Tensor) -> Vector:
        """A product that is such rows, in the form of the vector."""
        row_or_rows = product[0] if self.vectors is None else product
        if isinstance(self.value, Tensor):
            return row_or_rows
        return rebuilt(self.layout.params, _parts(self.layout, row_or_rows))


def vector_form(params: Params, v: Vector) -> Form:
    """The form of a vector. A TypeError or a ValueError says what in v does not fit params."""
    return form_in(layout_of(params), v)


def form_in(layout: Layout, v: Vector) -> Form:
    """The form of a vector, where the layout of params is known; see `vector_form`."""
    if v is ...:  # the default of every operation
        msg = "an operation takes (params, buffers, batch, v), got three arguments; buffers left out? they may be {}"
        raise TypeError(msg)
    if is_flat(layout, v):
        check_flat(layout, v)
        return Form(layout, v, v.shape[0] if v.dim() == 2 else None)
    return Form(layout, *checked_leaves(layout, v))


def _parts(layout: Layout, flat: Tensor) -> list[Tensor]:
    lead = flat.shape[:-1]
    split = zip(flat.split(layout.sizes, -1), layout.leaves.values(), strict=True)
    return [part.reshape((*lead, *leaf.shape)) for part, leaf in split]


def flatten(params: Params, v: Tree) -> Tensor:
    """One vector, or K of them, as flat rows in the order of params; `unflatten` goes back.

    Args:
        params: the tree that v is like.
        v: a tree like params, with a leading axis K on every leaf for K vectors. Its keys may come in any order.

    Returns:
        `(D,)`, or `(K, D)` for K vectors. Leaves of several dtypes or devices are promoted to one dtype, on the first device.

    Raises:
        TypeError: if v is no tree of tensors, or has another dtype than params.
        ValueError: if the leaves of v do not fit params.

    Examples:
        >>> params = {"w": torch.zeros(2), "b": torch.zeros(())}
        >>> flatten(params, {"b": torch.tensor(3.0), "w": torch.tensor([1.0, 2.0])})
        tensor([1., 2., 3.])
    """
    layout = layout_of(params)
    form = form_in(layout, v)
    if not layout.uniform:
        first = next(iter(layout.leaves.values()))
        form = form._replace(value=[leaf.to(first.device, working_dtype(layout)) for leaf in form.value])
    return form.rows()[0] if form.vectors is None else form.rows()


def unflatten(params: Params, rows: Tensor) -> Tree:
    """Flat rows as a tree like params: the eigenvectors that `eigenpairs` returns, for example.

    Args:
        params: the tree that gives names, shapes, dtypes and devices.
        rows: `(D,)`, or `(K, D)` for K vectors, in any floating-point dtype.

    Returns:
        A tree like params, with a leading axis K on every leaf for K rows. It shares memory with rows where it can.

    Raises:
        TypeError: if rows are no floating-point tensor.
        ValueError: if rows have another length than params.

    Examples:
        >>> params = {"w": torch.zeros(2), "b": torch.zeros(())}
        >>> unflatten(params, torch.tensor([1.0, 2.0, 3.0]))
        {'w': tensor([1., 2.]), 'b': tensor(3.)}
    """
    if not isinstance(rows, Tensor) or not rows.is_floating_point():
        msg = f"rows must be a floating-point tensor, got {rows.dtype if isinstance(rows, Tensor) else type(rows).__name__}"
        raise TypeError(msg)
    layout = layout_of(params)
    check_width("rows", layout, rows)
    return rebuilt(params, [part.to(leaf) for part, leaf in zip(_parts(layout, rows), layout.leaves.values(), strict=True)])
