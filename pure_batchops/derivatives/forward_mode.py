"""Forward mode in one thread at a time. Torch has one level for the whole process, whose end takes the tangents of all."""

from collections.abc import Callable
from threading import RLock
from typing import Any

from torch.func import jvp

from pure_batchops import tracing

ONE_AT_A_TIME = RLock()


def jvp_alone(function: Callable[..., Any], primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Any, Any]:
    """`torch.func.jvp`, which waits for other threads."""
    if tracing.compiling():  # the compiler traces no lock
        return jvp(function, primals, tangents)
    with ONE_AT_A_TIME:
        return jvp(function, primals, tangents)
