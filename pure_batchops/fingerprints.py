"""Fingerprints of trees: a word for their names, shapes, dtypes and all their bytes, the same in every process."""

import ctypes
import hashlib
import pickle
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from pure_batchops.trees import named_leaves
from pure_batchops.types import Batch, Tree

_READ_BY_VALUE = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device, torch.Size)


def of_tree(tree: Tree, *, ordered: bool = True) -> str:
    """The fingerprint of a tree, in which the order of keys counts if ordered is True."""
    into = hashlib.sha256()
    _feed_tree(into, tree, (), ordered=ordered)
    return into.hexdigest()


def of_batches(before: str, batch: Batch) -> str:
    """The fingerprint of batches in their order: of those before, with one more."""
    return hashlib.sha256(f"{before} {of_tree(batch)}".encode()).hexdigest()


def _feed_tree(into: Any, tree: Tree, above: tuple[Any, ...], *, ordered: bool = True) -> None:
    named = list(named_leaves(tree).items())
    for path, leaf in named if ordered else sorted(named, key=lambda item: item[0]):
        into.update(f"{path!r};".encode())
        _feed(into, leaf, above)


def _feed(into: Any, leaf: Any, above: tuple[Any, ...]) -> None:
    """Feed a leaf. An object that holds itself is fed once."""
    if isinstance(leaf, Tensor):
        _feed_tensor(into, leaf)
        return
    value = repr(leaf) if isinstance(leaf, _READ_BY_VALUE) else ""
    into.update(f"{type(leaf).__module__}.{type(leaf).__qualname__} {value};".encode())
    if not value and all(leaf is not other for other in above):
        _feed_object(into, leaf, (*above, leaf))


def _feed_tensor(into: Any, leaf: Tensor) -> None:
    into.update(f"{leaf.dtype} {tuple(leaf.shape)};".encode())
    if leaf.layout != torch.strided:
        sparse = leaf.detach().to_sparse().coalesce()
        _feed_tensor(into, sparse.indices())
        _feed_tensor(into, sparse.values())
    elif leaf.device.type != "meta" and leaf.numel():
        held = leaf.detach().resolve_conj().resolve_neg().cpu().contiguous()
        held = held.to_local() if hasattr(held, "to_local") else held  # of a DTensor
        into.update((ctypes.c_char * (held.numel() * held.element_size())).from_address(_address(held)))


def _address(held: Tensor) -> int:
    address = held.data_ptr()
    if address == 0:
        msg = f"a tensor must hold its numbers to be compared, got one of {type(held).__name__}"
        raise RuntimeError(msg)
    return address


def _feed_object(into: Any, leaf: Any, above: tuple[Any, ...]) -> None:
    """Feed what pickle would save of an object: arguments, state and items. Such are the bytes of an array of NumPy."""
    if isinstance(leaf, (set, frozenset)):
        parts: Any = sorted(leaf, key=repr)
    elif isinstance(leaf, type):
        parts = leaf.__qualname__
    else:
        try:
            parts = leaf.__reduce_ex__(2)
        except (pickle.PicklingError, TypeError, AttributeError):  # it counts by its type
            return
    if isinstance(parts, tuple):
        _, *saved = parts
        parts = [list(part) if isinstance(part, Iterator) else part for part in saved]
    _feed_tree(into, parts, above)
