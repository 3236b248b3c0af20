"""Options that are one of a few values."""

from typing import Any


def boolean(name: str, value: Any) -> None:
    """True or False."""
    if not isinstance(value, bool):
        msg = f"{name} must be True or False, got {value!r}"
        raise TypeError(msg)


def option(name: str, value: Any, known: tuple[str, ...]) -> str:
    """One of the names known."""
    if value not in known:
        msg = f"{name} must be one of {', '.join(map(repr, known))}, got {value!r}"
        raise ValueError(msg)
    return str(value)
