"""What may fail because of a loss: its errors choose a slower way, and the slowest way raises them."""

from collections.abc import Callable
from typing import Any


def attempted(function: Callable[..., Any], *arguments: Any) -> tuple[Any, Exception | None]:
    """The result of a function and None, or None and what it raised.

    Nothing but torch and the loss of the user may run inside, so that no bug of the package hides.
    """
    try:
        return function(*arguments), None
    except Exception as error:  # whatever a loss may raise for a batch of another size
        return None, error
