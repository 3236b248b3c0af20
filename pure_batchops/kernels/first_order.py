"""Where nothing but first derivatives is taken, torch's fused norms are right, and faster than plain operations.

If reverse mode alone takes them, so is torch's fused attention.
"""

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar

from pure_batchops import torch_privates, tracing

_FIRST: ContextVar[str] = ContextVar("first_order", default="")


@contextmanager
def first_order(mode: str = "forward or reverse") -> Generator[None, None, None]:
    """Within this context, a function is differentiated once, by plain autograd. What it differentiates itself is apart."""
    token = _FIRST.set(mode)
    try:
        yield
    finally:
        _FIRST.reset(token)


def is_first_order(mode: str = "") -> bool:
    """Whether a call is differentiated once (and in this mode): not inside a transform that the function itself takes."""
    given = "" if tracing.compiling() else _FIRST.get()
    return given != "" and mode in ("", given) and torch_privates.transforms() == []
