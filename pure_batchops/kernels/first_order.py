"""Where nothing but first derivatives is taken, torch's fused norms are right, and faster than plain operations."""

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar

from pure_batchops import torch_privates, tracing

_FIRST: ContextVar[bool] = ContextVar("first_order", default=False)


@contextmanager
def first_order() -> Generator[None, None, None]:
    """Within this context, a function is differentiated once, by plain autograd. What it differentiates itself is apart."""
    token = _FIRST.set(True)
    try:
        yield
    finally:
        _FIRST.reset(token)


def is_first_order() -> bool:
    """Whether a call is differentiated once: not inside a transform that the function itself takes."""
    return not tracing.compiling() and _FIRST.get() and torch_privates.transforms() == []
