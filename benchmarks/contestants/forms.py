"""Flat vectors as lists of leaves, which most contestants take, and back."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from benchmarks.cases.problems import Problem


def rows_of(v: Tensor) -> list[Tensor]:
    """The K vectors of `(K, D)`, or the single vector `(D,)`, as a list."""
    return list(v) if v.ndim > 1 else [v]


def leaves_of(problem: Problem, row: Tensor) -> list[Tensor]:
    """A vector `(D,)` in the shapes of the parameters."""
    shapes = [leaf.shape for leaf in problem.params.values()]
    pieces = row.split([shape.numel() for shape in shapes])
    return [piece.reshape(shape).clone() for piece, shape in zip(pieces, shapes, strict=True)]


def tree_of(problem: Problem, row: Tensor) -> dict[str, Tensor]:
    """A vector `(D,)` as a dict like the parameters."""
    return dict(zip(problem.params, leaves_of(problem, row), strict=True))


def flat_leaves(products: Sequence[Iterable[Tensor]], like: Tensor) -> Tensor:
    """The products as one tensor in the shape of `like`."""
    return torch.stack([torch.cat([leaf.flatten() for leaf in product]) for product in products]).reshape(like.shape)
