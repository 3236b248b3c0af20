"""Mappings that torch takes for leaves, such as `transformers.BatchEncoding`: a `UserDict` is opened as a dict is.

The tree keeps their class: it is closed again as a copy with new values.
"""

from collections import UserDict
from collections.abc import Callable
from copy import copy
from itertools import islice
from typing import Any, NamedTuple


class Opened(NamedTuple):
    """A structure in which some leaves are mappings.

    Attributes:
        structure: with the mappings as leaves.
        inside: for each leaf the mapping, how many leaves it holds, and their structure; None for what is no mapping.
    """

    structure: Any
    inside: list[tuple[Any, int, Any] | None]


def opened(parts: list[Any], structure: Any, flatten: Callable[[Any], tuple[list[Any], Any]]) -> tuple[list[Any], Any]:
    """The leaves and the structure, with mappings opened."""
    if not any(isinstance(part, UserDict) for part in parts):
        return parts, structure
    all_leaves: list[Any] = []
    inside: list[tuple[Any, int, Any] | None] = []
    for part in parts:
        own, of_part = flatten(dict(part)) if isinstance(part, UserDict) else ([part], None)
        all_leaves += own
        inside.append((part, len(own), of_part) if isinstance(part, UserDict) else None)
    return all_leaves, Opened(structure, inside)


def closed(parts: list[Any], structure: Any, unflatten: Callable[[list[Any], Any], Any]) -> tuple[list[Any], Any]:
    """The parts and the structure that were opened."""
    if not isinstance(structure, Opened):
        return parts, structure
    source = iter(parts)
    found = [
        next(source) if each is None else _filled(each[0], unflatten(list(islice(source, each[1])), each[2]))
        for each in structure.inside
    ]
    return found, structure.structure


def _filled(mapping: Any, values: dict[Any, Any]) -> Any:
    """A copy of a mapping, with new values."""
    other = copy(mapping)
    for key, value in values.items():
        other[key] = value
    return other
