"""The private names of torch that look underneath vmap, for `members`. All others stand in `torch_privates`."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor

_HIDDEN: ContextVar[int] = ContextVar("hidden", default=0)
_compiling: Callable[[], bool] = getattr(torch.compiler, "is_compiling", lambda: False)


def hidden() -> int:
    """How many of the active transforms, from the outermost on, are hidden. The compiler cannot read it, and needs none."""
    return 0 if _compiling() else _HIDDEN.get()


@contextmanager
def hidden_transforms(levels: int) -> Generator[None, None, None]:
    """Hide so many active transforms from `torch_privates.transforms`, for code whose tensors none of them traces."""
    token = _HIDDEN.set(_HIDDEN.get() + levels)
    try:
        yield
    finally:
        _HIDDEN.reset(token)


def level_and_axis(tensor: Tensor) -> tuple[int, int | None]:
    """The level of torch.func that holds a wrapped tensor, and the axis that vmap maps there, None for another transform."""
    # `maybe_get_level` and `maybe_get_bdim` exist since torch 2.0. Without them an ensemble must go by torch.func alone:
    # return None from `members.members_of` under vmap.
    functorch: Any = torch._C._functorch  # noqa: SLF001
    is_mapped = functorch.is_batchedtensor(tensor)
    return functorch.maybe_get_level(tensor), functorch.maybe_get_bdim(tensor) if is_mapped else None


def mapped_by_vmap(tensor: Tensor, axis: int, level: int) -> Tensor:
    """The tensor as vmap shows it at a level, where it maps this axis."""
    # `_add_batch_dim` exists since torch 1.6. Without it, as `level_and_axis`.
    mapped: Tensor = torch._C._functorch._add_batch_dim(tensor, axis, level)  # noqa: SLF001
    return mapped


def new_leaf(tensor: Tensor) -> Tensor:
    """A leaf of plain autograd with the numbers of a tensor, under vmap too."""
    # Under torch.func `requires_grad_` is refused unless this switch, as old as torch 2.0, is on. Without it, as
    # `level_and_axis`.
    functorch: Any = torch._C._functorch  # noqa: SLF001
    before = functorch.get_inplace_requires_grad_allowed()
    functorch.set_inplace_requires_grad_allowed(True)
    try:
        return tensor.detach().requires_grad_()
    finally:
        functorch.set_inplace_requires_grad_allowed(before)


def may_draw(level: Any) -> bool:
    """Whether vmap lets functions draw random numbers at a level, by its option `randomness`."""
    # `CVmapInterpreterPtr` is as old as `get_interpreter_stack`, without which nobody asks.
    functorch: Any = torch._C._functorch  # noqa: SLF001
    return bool(functorch.CVmapInterpreterPtr(level).randomness() != functorch.RandomnessType.Error)
