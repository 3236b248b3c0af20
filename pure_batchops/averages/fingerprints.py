"""Fingerprints of trees: a word for their names, shapes, dtypes and all their bytes, the same in every process."""

import ctypes
import hashlib
from typing import Any

import torch
from torch import Tensor

from pure_batchops.trees import named_leaves
from pure_batchops.types import Batch, Tree

_READ_BY_VALUE = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device, torch.Size)


def of_tree(tree: Tree, *, ordered: bool = True) -> str:
    """The fingerprint of a tree, in which the order of keys counts if ordered is True."""
    named = list(named_leaves(tree).items())
    into = hashlib.sha256()
    for path, leaf in named if ordered else sorted(named, key=lambda item: item[0]):
        into.update(f"{path!r};".encode())
        _feed(into, leaf)
    return into.hexdigest()


def of_batches(before: str, batch: Batch) -> str:
    """The fingerprint of batches in their order: of those before, with one more."""
    return hashlib.sha256(f"{before} {of_tree(batch)}".encode()).hexdigest()


def _feed(into: Any, leaf: Any) -> None:
    if not isinstance(leaf, Tensor):  # an object that is no plain value of Python counts by its type
        value = repr(leaf) if isinstance(leaf, _READ_BY_VALUE) else ""
        into.update(f"{type(leaf).__module__}.{type(leaf).__qualname__} {value};".encode())
        return
    into.update(f"{leaf.dtype} {tuple(leaf.shape)};".encode())
    if leaf.device.type != "meta" and leaf.numel():
        held = leaf.detach().resolve_conj().resolve_neg().cpu().contiguous()
        into.update((ctypes.c_char * (held.numel() * held.element_size())).from_address(held.data_ptr()))
