"""The members of an ensemble: the tensors beneath torch.vmap, which hold all members at once.

`torch.vmap(op, in_dims=(0, 0, None, None))` shows an operation one member, while each tensor underneath holds them all on an
axis. Plain autograd does not see vmap: it records the operations on the tensors underneath. Members do not meet under vmap,
so the gradient of the sum over members is the gradient of each of them. In this way a product for an ensemble is recorded
once, at the cost of plain autograd, while the loss runs under vmap as it always did.

Several vmaps, one in another, make several axes, outermost first.
"""

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from math import prod
from typing import NamedTuple

from torch import Tensor

from pure_batchops import torch_privates, vmap_privates

_ALONE: ContextVar[bool] = ContextVar("alone", default=False)


class Members(NamedTuple):
    """The levels of vmap that map params, outermost first, and how many members each has. Without vmap there are none."""

    levels: tuple[int, ...] = ()
    sizes: tuple[int, ...] = ()

    @property
    def total(self) -> int:
        """How many members there are in all."""
        return prod(self.sizes)


def members_of(parameters: list[Tensor]) -> Members | None:
    """The members of params; None if anything but vmap is active, or a vmap that maps no leaf."""
    active = torch_privates.transforms()
    if active is None:
        return None
    if not active:
        return Members()
    sizes: dict[int, int] = {}
    for leaf in parameters:
        sizes.update(sizes_of(leaf))
    levels = tuple(level.level() for level in active if level.key().name == "Vmap")
    is_ensemble = len(levels) == len(active) and all(level in sizes for level in levels)
    return Members(levels, tuple(sizes[level] for level in levels)) if is_ensemble else None


def sizes_of(tensor: Tensor) -> dict[int, int]:
    """How many members a tensor has at each level of vmap."""
    sizes = {}
    while torch_privates.is_wrapped(tensor):
        level, axis = vmap_privates.level_and_axis(tensor)
        tensor = torch_privates.unwrapped_once(tensor)
        if axis is not None:
            sizes[level] = tensor.shape[axis]
    return sizes


def underneath(tensor: Tensor, members: Members) -> Tensor:
    """The tensor of all members, with their axes first. Vectors that another vmap maps stay mapped."""
    for level, size in zip(reversed(members.levels), reversed(members.sizes), strict=True):
        tensor = _without(tensor, level, size)
    return tensor


def _without(tensor: Tensor, level: int, size: int) -> Tensor:
    if torch_privates.is_wrapped(tensor):
        outer, axis = vmap_privates.level_and_axis(tensor)
        if axis is not None and outer == level:
            return torch_privates.unwrapped_once(tensor).movedim(axis, 0)
        if axis is not None and outer > level:
            inner = _without(torch_privates.unwrapped_once(tensor), level, size)
            return vmap_privates.mapped_by_vmap(inner, axis + 1, outer)
    return tensor.expand(size, *tensor.shape)  # all members have the same


def above(tensor: Tensor, members: Members) -> Tensor:
    """The tensor of one member as vmap shows it; the way back from `underneath`."""
    if not members.levels:
        return tensor
    if torch_privates.is_wrapped(tensor):
        outer, axis = vmap_privates.level_and_axis(tensor)
        if axis is not None and outer > members.levels[-1]:
            inner = torch_privates.unwrapped_once(tensor).movedim(axis, len(members.levels))
            return vmap_privates.mapped_by_vmap(above(inner, members), 0, outer)
    for level in members.levels:
        tensor = vmap_privates.mapped_by_vmap(tensor, 0, level)
    return tensor


def like(tensor: Tensor, shown: Tensor) -> Tensor:
    """A tensor from underneath, with its axes where those of a tensor lie that vmap shows: the gradient at an output."""
    if not torch_privates.is_wrapped(shown):
        return tensor
    level, axis = vmap_privates.level_and_axis(shown)
    inner = like(tensor, torch_privates.unwrapped_once(shown))
    return inner if axis is None else vmap_privates.mapped_by_vmap(inner, axis, level)


def is_mapped_up_to(level: int, tensor: Tensor) -> bool:
    """Whether a vmap at this level or farther out maps a tensor."""
    return any(outer <= level for outer in sizes_of(tensor))


@contextmanager
def member_alone() -> Generator[None, None, None]:
    """For one member of an ensemble that goes without vmap: plain autograd may serve, and what is not right is NaN."""
    token = _ALONE.set(True)
    try:
        with vmap_privates.hidden_transforms(len(torch_privates.transforms() or [])):
            yield
    finally:
        _ALONE.reset(token)


def is_member_alone() -> bool:
    """Whether one member of an ensemble goes without vmap."""
    return _ALONE.get()
