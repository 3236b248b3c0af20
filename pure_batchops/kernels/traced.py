"""Plain calls for the compiler, which traces a mode since torch 2.6, and cannot compare tensors."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from pure_batchops.kernels.table import PLAIN

_TRACED = [False]  # a list: after a write into a dict, the compiler refuses some models


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
def traced() -> Generator[None, None, None]:
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
