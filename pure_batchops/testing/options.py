"""The options of a check, and the laws that it holds against a case, one after another."""

from collections.abc import Collection, Mapping
from typing import Any

from pure_batchops.testing.agreement import Tolerance
from pure_batchops.testing.case import Law


def tolerance(rtol: float | None, atol: float | None) -> Tolerance:
    """A tolerance; each part is not negative, or the default."""
    for name, value in (("rtol", rtol), ("atol", atol)):
        if value is not None and not value >= 0:
            msg = f"{name} must not be negative, got {value!r}"
            raise ValueError(msg)
    return Tolerance(rtol, atol)


def chosen(laws: Collection[str], table: Mapping[str, Law]) -> dict[str, Law]:
    """The laws of these names, in the order of the table."""
    names = {laws} if isinstance(laws, str) else set(laws)
    unknown = sorted(names - set(table), key=str)
    if unknown:
        msg = f"laws must be among {', '.join(map(repr, table))}, got {', '.join(map(repr, unknown))}"
        raise ValueError(msg)
    return {name: law for name, law in table.items() if name in names}


def hold(case: Any, laws: Mapping[str, Law]) -> tuple[str, ...]:
    """Hold the laws against the case.

    Returns:
        The names of those that there was something to check of.

    Raises:
        AssertionError: if a law is broken, or cannot be checked because a call raises an error.
    """
    return tuple(name for name, law in laws.items() if _held(name, law, case))


def _held(name: str, law: Law, case: Any) -> bool:
    words = f"{name}: {(law.__doc__ or '').strip()}"
    try:
        return law(case)
    except AssertionError as error:
        msg = f"{words}\n{error}"
        raise AssertionError(msg) from error
    except Exception as error:
        msg = f"{words}\ngot {type(error).__name__}: {error}\nlaws= leaves out a law that is not meant to hold"
        raise AssertionError(msg) from error
