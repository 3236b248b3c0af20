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

_EAGER = {**PLAIN, Tensor.data.__get__: Tensor.detach}  # type: ignore[attr-defined]  # torch.func does not stop at .data
_FIRST_ORDER: ContextVar[bool] = ContextVar("first_order", default=False)
_TRACED = [False]  # a list: after a write into a dict, the compiler refuses some models
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


class _PlainCallsTraced(TorchFunctionMode):
    """The same for the compiler. `handle(function, args, kwargs, plain)`, if given, makes the calls."""

    def __init__(self, handle: Callable[..., Any] | None = None) -> None:
        super().__init__()
        self.handle = handle

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if self.handle is not None:
            return self.handle(func, args, kwargs or {}, PLAIN.get(func, func))
        return PLAIN.get(func, func)(*args, **kwargs or {})


@contextmanager
def plain_calls(*given: Any) -> Generator[Callable[[], bool], None, None]:
    """Within this context, torch runs plain operations where its own kernels have wrong derivatives, or none.

    Args:
        *given: what the code inside may differentiate by: trees of tensors.

    Yields:
        A function that says whether a derivative stopped so far, at a call under torch.no_grad.
    """
    if tracing.compiling():
        with _traced():
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


@contextmanager
def _traced() -> Generator[None, None, None]:
    """The same for the compiler, which cannot read a ContextVar, and mixes up the calls of two modes."""
    if torch.__version__ < "2.6":  # it would leave the mode out without a word
        msg = f"torch.compile of an operation needs torch 2.6 or newer, got {torch.__version__}; run it without torch.compile"
        raise RuntimeError(msg)
    if _TRACED[0]:
        yield
        return
    _TRACED[0] = True
    try:
        with _PlainCallsTraced():
            yield
    finally:
        _TRACED[0] = False


def traced_calls(handle: Callable[..., Any], function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function that the compiler traces. `handle(function, args, kwargs, plain)` makes its calls of torch.

    `plain` is the twin in plain operations of the function that is called.

    Returns:
        What the function returns.
    """
    if _TRACED[0]:  # the compiler would mix up the calls of two modes
        return function(*arguments)
    _TRACED[0] = True
    with _PlainCallsTraced(handle):
        result = function(*arguments)
    _TRACED[0] = False
    return result
