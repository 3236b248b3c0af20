"""The calls of torch inside a loss: some are replaced by plain operations, and some are refused.

Real models are functions that call torch, and so are losses written by hand. So we look at the calls, wherever they stand: in
a module of torch, in a module of the user's own, in a closure, a hook or a loss. The compiler traces this mode from torch 2.6
on.
"""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import disable_saved_tensors_hooks
from torch.overrides import TorchFunctionMode

from pure_batchops import tracing
from pure_batchops.kernels.foreign import MAY_HOLD_PARAMETERS, refuse_foreign
from pure_batchops.kernels.table import PLAIN
from pure_batchops.kernels.traced import traced

_EAGER = {**PLAIN, Tensor.data.__get__: Tensor.detach}  # type: ignore[attr-defined]  # torch.func does not stop at .data
_FIRST_ORDER: ContextVar[bool] = ContextVar("first_order", default=False)
_CHECKPOINTED = (
    "loss must not use hooks on saved tensors, as activation checkpointing does: it would compute the forward pass again in "
    "the backward pass, with other numbers than params; switch checkpointing off: model.gradient_checkpointing_disable(), or "
    "the model's own option"
)


class _PlainCalls(TorchFunctionMode):
    """Hands each call of torch to its twin in plain operations, if it has one.

    Attributes:
        given: what the loss may read.
        stopped: whether a call under torch.no_grad got a tensor that autograd records, so that its derivative stops there.
        entered: whether it looks at calls now.
    """

    def __init__(self, given: Any) -> None:
        super().__init__()
        self.given, self.stopped, self.entered = given, False, False

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        function = _EAGER.get(func, func)
        output = function(*args, **kwargs) if kwargs else function(*args)
        for argument in args:  # each call of torch passes here: nothing else must
            if type(argument) in MAY_HOLD_PARAMETERS:
                refuse_foreign(func, argument, output, self.given)
        if kwargs:
            refuse_foreign(func, list(kwargs.values()), output, self.given)
        if not self.stopped and not torch.is_grad_enabled():
            self.stopped = any(isinstance(argument, Tensor) and argument.requires_grad for argument in args)
        return output


_ACTIVE: ContextVar[_PlainCalls | None] = ContextVar("active", default=None)


@contextmanager
def plain_calls(*given: Any) -> Generator[Callable[[], bool], None, None]:
    """Within this context, torch runs plain operations where its own kernels have wrong derivatives, or none.

    Args:
        *given: what the code inside may differentiate by: trees of tensors.

    Yields:
        A function that says whether a derivative stopped so far, at a call under torch.no_grad.
    """
    if tracing.compiling():
        with traced():
            yield bool
        return
    mode = _ACTIVE.get()
    if mode is None:
        with watched(*given) as stopped, plain_calls():
            yield stopped
    elif mode.entered:
        yield bool
    else:
        mode.entered = True
        try:
            with disable_saved_tensors_hooks(_CHECKPOINTED), mode:
                yield bool
        finally:
            mode.entered = False


@contextmanager
def watched(*given: Any) -> Generator[Callable[[], bool], None, None]:
    """As `plain_calls`, for code that enters it wherever it runs code that is not ours: our own calls are not looked at.

    Args:
        *given: as for `plain_calls`.

    Yields:
        As `plain_calls`.
    """
    if tracing.compiling() or _ACTIVE.get() is not None:
        with plain_calls():
            yield bool
        return
    mode = _PlainCalls(given)
    token = _ACTIVE.set(mode)
    try:
        yield lambda: mode.stopped
    finally:
        _ACTIVE.reset(token)
