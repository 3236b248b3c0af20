"""A case: one operation at one point, the vectors that are drawn for it, and calls that a wrong operation cannot spoil."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pure_batchops.testing.agreement import Tolerance
from pure_batchops.trees import leaves, map_leaves, rebuilt, tree_flatten, tree_map
from pure_batchops.types import Batch, Buffers, Operation, Params, Tree, Vector
from pure_batchops.vectors import is_uniform


class Case(NamedTuple):
    """An operation, the point at which it is checked, and the options of the check."""

    op: Operation
    params: Params
    buffers: Buffers
    batch: Batch
    batch_dim: int
    seed: int
    tolerance: Tolerance
    semi_definite: bool = False
    backend: str = "aot_eager"


Law = Callable[[Any], bool]
"""Takes a case, raises an AssertionError where the law is broken, and returns whether there was anything to check."""


def product(case: Case, v: Vector) -> Vector:
    """The product, of copies of the arguments: what an operation does to those reaches no other call."""
    return case.op(*map(copied, (case.params, case.buffers, case.batch, v)))


def copied(tree: Tree) -> Tree:
    """The tree with new tensors."""
    return tree_map(lambda leaf: leaf.detach().clone() if isinstance(leaf, Tensor) else leaf, tree)


def vector(case: Case, salt: int, count: int | None = None) -> Tree:
    """The random tree of this salt, like params, with a leading axis for K vectors."""
    generator = torch.Generator().manual_seed(case.seed + salt)
    lead = () if count is None else (count,)
    numbers = [torch.randn((*lead, *leaf.shape), generator=generator, dtype=torch.float64) for leaf in leaves(case.params)]
    return rebuilt(case.params, [number.to(leaf) for number, leaf in zip(numbers, leaves(case.params), strict=True)])


def flat(case: Case, tree: Tree, count: int | None = None) -> Tensor:
    """A tree like params as (D,), K of them as (K, D)."""
    lead = () if count is None else (count,)
    sized = zip(leaves(tree), leaves(case.params), strict=True)
    return torch.cat([leaf.reshape(*lead, like.numel()) for leaf, like in sized], -1)


def flattest(case: Case, tree: Tree, count: int | None = None) -> Vector:
    """The tree in its flat form, where there is one: leaves of two dtypes or devices make no vector."""
    return flat(case, tree, count) if is_uniform(case.params) else tree


def combined(a: float, one: Tree, b: float, other: Tree) -> Tree:
    """The tree a·one + b·other."""
    return map_leaves(lambda left, right: a * left + b * right, one, other)


def row(trees: Tree, i: int) -> Tree:
    """The i-th of stacked trees."""
    return map_leaves(lambda leaf: leaf[i], trees)


def stacked(trees: list[Tree]) -> Tree:
    """The trees as one, with a leading axis."""
    return map_leaves(lambda *group: torch.stack(group), *trees)


def holds_only_tensors(tree: Tree) -> bool:
    """Whether a tree can be stacked."""
    return all(isinstance(leaf, Tensor) for leaf in tree_flatten(tree)[0])
