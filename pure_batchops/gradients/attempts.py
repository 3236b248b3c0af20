"""What may fail because of a loss: its errors choose a slower way, and the slowest way raises them."""

from collections.abc import Callable
from typing import Any


def attempted(function: Callable[..., Any], *arguments: Any) -> tuple[Any, Exception | None]:
    """The result of a function and None, or None and what it raised.

    Nothing but torch and the loss of the user may run inside, so that no bug of the package hides.

    Returns:
        One of the two pairs.
    """
    try:
        return function(*arguments), None
    except Exception as error:  # whatever a loss may raise for a batch of another size
        return None, error


def of_part(part: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """The result of a function of the loss that sees a part of a batch alone.

    Returns:
        What the function returns.

    Raises:
        ValueError: if the function fails, though the batch as a whole went through the loss.
    """
    found, error = attempted(function, *arguments)
    if error is None:
        return found
    msg = (
        f"loss must work for {part} alone, got {type(error).__name__}: {error}; samples must not depend on each other, and "
        "what they share must not look like samples: put it into buffers. hessian(loss) and gauss_newton(loss, held=0) take "
        "the batch as a whole"
    )
    raise ValueError(msg) from error
