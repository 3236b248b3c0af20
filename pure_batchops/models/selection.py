"""Which parameters a name, a shell pattern, several of them, or a predicate picks."""

import fnmatch
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import Tensor

from pure_batchops.types import Selection


def selected(selection: Selection) -> Callable[[Mapping[str, Tensor]], list[str]]:
    """The names that a selection picks, as a function of the tensors.

    Patterns are read here and not in the returned function, which the compiler may trace.

    Returns:
        `names(tensors)`, in the order of tensors. It raises a ValueError for a name or pattern that matches nothing.

    Raises:
        TypeError: if the selection is no name, pattern, several of them, or predicate.
    """
    if callable(selection):
        return lambda tensors: [name for name, tensor in tensors.items() if selection(name, tensor)]
    texts = [selection] if isinstance(selection, str) else selection
    if not isinstance(texts, Iterable) or isinstance(texts, (bytes, Tensor)):
        msg = f"parameters must be picked by names, shell patterns or a predicate, got {type(selection).__name__}"
        raise TypeError(msg)
    patterns = [(_text(text), re.compile(fnmatch.translate(text))) for text in texts]

    def names(tensors: Mapping[str, Tensor]) -> list[str]:
        picked: set[str] = set()
        for text, pattern in patterns:
            matches = {text} if text in tensors else {name for name in tensors if pattern.match(name)}
            if not matches:
                msg = f"no parameter matches {text!r}; there are {', '.join(tensors)}"
                raise ValueError(msg)
            picked |= matches
        return [name for name in tensors if name in picked]

    return names


def _text(text: Any) -> str:
    if not isinstance(text, str):
        msg = f"a name or pattern of parameters must be a string, got {text!r}"
        raise TypeError(msg)
    return text
