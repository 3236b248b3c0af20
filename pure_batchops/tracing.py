"""Who else is at work: torch.compile, transforms of torch.func, forward mode, or autograd of the caller.

**Rules of the compiler.** Operations compile since torch 2.6, which traces a TorchFunctionMode. Traced code keeps these rules,
which torch 2.5 taught us, and cites them by number:

- C1. torch 2.5 cannot call a closure after the function that made it has returned. Return a `functools.partial` of a
  module-level function instead.
- C2. torch 2.5 reads a name from the enclosing function, not from farther out. Bind it once more in between.
- C3. torch 2.5 cannot trace an inner function with a subscripted annotation, such as `list[Tensor]`. Write `Any`.
- C4. torch 2.5 mixes up a local name with an outer function of the same name. Choose another name.
- C5. torch 2.5 compiles to zeros what a transform closes over from outside, and whatever `op.at(…)` returned. Do all the work
  inside the transformed function.
- C6. torch 2.5 cannot trace `NamedTuple._replace`. Build the tuple from its fields.

**What a fast path owes.** Plain autograd is cheaper than torch.func. A path that uses it must give what the slow path gives:

- the caller can differentiate by params, buffers, batch, v, and whatever the loss closes over;
- tangents of forward mode pass through; nested transforms work;
- `torch.inference_mode` and `torch.no_grad` give the same numbers or an error;
- tensors that the loss changes in place, leaves that it does not use, and a loss that depends on no parameter are right;
- the same dtypes, also under autocast.

Every such path asks `is_untraced` first and logs its choice at debug level, to the logger `pure_batchops`. The switch
`testing.only_torch_func()` turns all of them off: if a number looks wrong, it tells whether a fast path is the cause.
"""

import logging
from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor

from pure_batchops import torch_privates
from pure_batchops.members import Members, is_member_alone, members_of
from pure_batchops.trees import leaves
from pure_batchops.types import Params, Tree

_LOG = logging.getLogger("pure_batchops")
_ONLY_TORCH_FUNC: ContextVar[bool] = ContextVar("only_torch_func", default=False)

compiling: Callable[[], bool] = getattr(torch.compiler, "is_compiling", lambda: False)
"""Whether torch.compile is tracing. Before torch 2.3 torch cannot compile the operations, nor tell."""


def is_untraced(params: Params) -> bool:
    """Whether no transform, no compiler and no autograd of the caller is active, so that plain autograd may serve."""
    return untraced_members(params) == Members()


def untraced_members(params: Params) -> Members | None:
    """The members of params if plain autograd may serve underneath vmap; None if anything else traces the call."""
    if compiling() or _ONLY_TORCH_FUNC.get() or torch.is_inference_mode_enabled() or torch_privates.in_forward_mode():
        return None
    flat = leaves(params)
    members = members_of(flat)
    return None if members is None or requires_grad(flat) else members


def is_traced_by_vmap_alone(v: Tree) -> bool:
    """Whether nothing but vmap looks at a vector, so that a graph of plain autograd that was recorded before may serve."""
    levels = torch_privates.transforms()
    only_vmap = levels is not None and all(level.key().name == "Vmap" for level in levels)
    return only_vmap and not requires_grad(v) and not torch_privates.in_forward_mode()


def requires_grad(tree: Tree) -> bool:
    """Whether autograd records a leaf of the tree; also underneath vmap, whose tensors do not tell."""
    return torch.is_grad_enabled() and any(map(is_recorded, leaves(tree)))


def is_recorded(tensor: Tensor) -> bool:
    """Whether reverse mode at any level, of a transform or of plain autograd, records a tensor."""
    return tensor.requires_grad or (torch_privates.is_wrapped(tensor) and is_recorded(torch_privates.unwrapped_once(tensor)))


def differentiating_levels(*kinds: str) -> int:
    """How many transforms differentiate: by reverse mode, "Grad", or forward mode, "Jvp", or both. One if nobody can tell."""
    levels = None if compiling() else torch_privates.transforms()
    return 1 if levels is None else sum(level.key().name in (kinds or ("Grad", "Jvp")) for level in levels)


@contextmanager
def only_torch_func() -> Generator[None, None, None]:
    """Turn every fast path of plain autograd off, in this thread, for the `with` block."""
    token = _ONLY_TORCH_FUNC.set(True)
    try:
        yield
    finally:
        _ONLY_TORCH_FUNC.reset(token)


def log(message: str, *arguments: Any) -> None:
    """Say at debug level which route was taken, or why one was not. The compiler does not trace it."""
    if not compiling():
        _LOG.debug(message, *arguments)


def refused(route: str, why: str) -> Any:
    """None: the route is not taken. The reason is logged."""
    log("%s refused: %s", route, why)


def readable(holds: Tensor) -> bool | None:
    """The value of a boolean tensor, or None under vmap and torch.compile, where there is no single value to read."""
    if compiling():
        return None
    try:
        return bool(holds)
    except RuntimeError:  # vmap refuses to read a number
        return None


def raise_or_nan(good: Tensor, values: Tensor, error: Callable[[Tensor], Exception]) -> Tensor:
    """The values if all are good; otherwise an error, or NaN where no number can be read.

    Args:
        good: which entries along the first axis of `values` are good, `(K,)`; or one flag for all, `()`.
        values: `(K, …)`.
        error: makes the exception from `good`.

    Returns:
        The values. Under vmap and torch.compile, those that are not good are NaN.
    """
    holds = readable(good.all())
    if holds is False and not is_member_alone():
        raise error(good)
    if holds:
        return values
    return torch.where(good.reshape(good.shape + (1,) * (values.dim() - good.dim())), values, torch.nan)


def refuse_inference_mode() -> None:
    """Refuse a mode in which derivatives are silently zero: torch.inference_mode, in older versions of torch."""
    if compiling():  # the compiler cannot read the mode
        return
    if torch.is_inference_mode_enabled() and float(torch.func.grad(torch.square)(torch.ones(()))) != 2:
        msg = (
            f"products must be taken outside of torch.inference_mode, in which torch {torch.__version__} takes every "
            "derivative of torch.func for zero; use torch.no_grad"
        )
        raise RuntimeError(msg)
