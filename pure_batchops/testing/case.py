"""A case: an operation or a loss at one point, random vectors for it, and calls that a wrong operation cannot spoil."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from pure_batchops.layouts import is_uniform
from pure_batchops.testing.agreement import Tolerance
from pure_batchops.trees import leaves, map_leaves, rebuilt, tree_flatten, tree_map
from pure_batchops.types import Batch, Buffers, Operation, Params, SampleLosses, Tree, Vector

MEMBERS = 3
"""How many members an ensemble has."""


Twin = Callable[[Params, Buffers, Batch], Tensor]
"""`(params, buffers, batch) -> the matrix (D, D)`, slow and obvious."""


class Point(Protocol):
    """Where an operation or a loss is checked."""

    @property
    def params(self) -> Params: ...
    @property
    def buffers(self) -> Buffers: ...
    @property
    def batch(self) -> Batch: ...
    @property
    def seed(self) -> int: ...


class Case(NamedTuple):
    """An operation, the point where it is checked, and the options of the check."""

    op: Operation
    params: Params
    buffers: Buffers
    batch: Batch
    batch_dim: int
    seed: int
    tolerance: Tolerance
    semi_definite: bool = False
    backend: str = "aot_eager"
    twin: Twin | None = None


class LossCase(NamedTuple):
    """A loss, the point where it is checked, and the options of the check."""

    loss: SampleLosses
    params: Params
    buffers: Buffers
    batch: Batch
    batch_dim: int
    seed: int
    tolerance: Tolerance


Law = Callable[[Any], bool]
"""Takes a case, raises an AssertionError if the law is broken, and returns whether there was anything to check."""


def product(case: Case, v: Vector) -> Vector:
    """The product for copies of the arguments. Whatever the operation does to the copies, other calls do not see it."""
    return case.op(*map(copied, (case.params, case.buffers, case.batch, v)))


def copied(tree: Tree) -> Tree:
    """The tree with new tensors."""
    return tree_map(lambda leaf: leaf.detach().clone() if isinstance(leaf, Tensor) else leaf, tree)


def doubled(tree: Tree) -> Tree:
    """The tree in double precision."""
    return tree_map(lambda leaf: leaf.double() if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf, tree)


def vector(case: Point, salt: int, count: int | None = None) -> Tree:
    """A random tree like params, another one for each salt. With a count, it holds that many vectors on a leading axis."""
    generator = torch.Generator().manual_seed(case.seed + salt)
    lead = () if count is None else (count,)
    numbers = [torch.randn((*lead, *leaf.shape), generator=generator, dtype=torch.float64) for leaf in leaves(case.params)]
    return rebuilt(case.params, [number.to(leaf) for number, leaf in zip(numbers, leaves(case.params), strict=True)])


def flat(case: Point, tree: Tree, count: int | None = None) -> Tensor:
    """A tree like params as (D,), or K such trees as (K, D)."""
    lead = () if count is None else (count,)
    sized = zip(leaves(tree), leaves(case.params), strict=True)
    return torch.cat([leaf.reshape(*lead, like.numel()) for leaf, like in sized], -1)


def flattest(case: Point, tree: Tree, count: int | None = None) -> Vector:
    """The tree in its flat form. Leaves of several dtypes or devices have none, so then it is the tree."""
    return flat(case, tree, count) if is_uniform(case.params) else tree


def combined(a: float, one: Tree, b: float, other: Tree) -> Tree:
    """The tree a·one + b·other."""
    return map_leaves(lambda left, right: a * left + b * right, one, other)


def row(trees: Tree, i: int) -> Tree:
    """Tree number i of stacked trees."""
    return map_leaves(lambda leaf: leaf[i], trees)


def stacked(trees: list[Tree]) -> Tree:
    """The trees as one tree with a leading axis."""
    return map_leaves(lambda *group: torch.stack(group), *trees)


def holds_only_tensors(tree: Tree) -> bool:
    """Whether a tree can be stacked."""
    return all(isinstance(leaf, Tensor) for leaf in tree_flatten(tree)[0])


def members(case: Point) -> list[Params]:
    """An ensemble: the params and two more near them."""
    return [case.params, *(combined(1, case.params, 0.1, vector(case, salt)) for salt in range(2, 1 + MEMBERS))]


def states(case: Point) -> list[tuple[Params, Buffers]]:
    """The params and buffers of an ensemble. Each member has its own buffers if they hold only tensors."""
    owned = holds_only_tensors(case.buffers)
    return [(each, _changed(case.buffers, 0.1 * i) if owned else case.buffers) for i, each in enumerate(members(case))]


def stacked_state(case: Point) -> tuple[Tree, Tree, int | None]:
    """The params of an ensemble, stacked, and the buffers, stacked too if they hold only tensors.

    Returns:
        Params, buffers, and the axis of the buffers for `torch.vmap`.
    """
    params, buffers = map(list, zip(*states(case), strict=True))
    if holds_only_tensors(case.buffers):
        return stacked(params), stacked(buffers), 0
    return stacked(params), copied(case.buffers), None


def _changed(tree: Tree, by: float) -> Tree:
    """The tree with other floating-point numbers of the same signs, so that a variance stays one; zeros grow."""
    return tree_map(lambda leaf: torch.where(leaf == 0, by, leaf * (1 + by)) if leaf.is_floating_point() else leaf, tree)
