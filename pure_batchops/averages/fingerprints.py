"""Fingerprints, the same in every process: of trees of tensors by their bytes, of functions by what they are made of."""

import ctypes
import dataclasses
import dis
import functools
import hashlib
import inspect
import types
from typing import Any

import torch
from torch import Tensor, nn

from pure_batchops.trees import named_leaves
from pure_batchops.types import Batch, Tree

_SAMPLED = 1024
"""How many numbers of each tensor of a batch are looked at."""

_PLAIN = (type(None), bool, int, float, complex, str, bytes, type(Ellipsis), torch.dtype, torch.device, torch.Size)
_SHARED = (types.FunctionType, nn.Module, dict, list)  # python may share equal tuples and constants, or not


def of_tree(tree: Tree, *, ordered: bool = True) -> str:
    """The fingerprint of a tree: its names, shapes, dtypes and all its bytes."""
    found = list(named_leaves(tree).items())
    return _digest(found if ordered else sorted(found, key=lambda item: item[0]))


def of_batches(before: str, batch: Batch) -> str:
    """The fingerprint of batches with one more: of each tensor its shape and about a thousand numbers, evenly spread."""

    def sampled(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        return leaf.dtype, leaf.shape, leaf.reshape(-1)[:: max(1, leaf.numel() // _SAMPLED)]

    return _digest([before, *((path, sampled(leaf)) for path, leaf in named_leaves(batch).items())])


def of_function(function: Any) -> str:
    """The fingerprint of a function: its code, and all that it closes over, as far as that can be known.

    Functions, also those that it calls by a global name, are followed to their code, constants, defaults and closures; modules
    to their parts and methods; numbers, words and tensors to their values. The code of torch and of this package counts by its
    name, any other object by its type alone.

    Returns:
        A word, the same in every process of one version of Python.
    """
    return _digest(function)


def _digest(thing: Any) -> str:
    found = hashlib.sha256()
    _feed(found, thing, {})
    return found.hexdigest()


def _feed(into: Any, thing: Any, seen: dict[int, tuple[int, Any]]) -> None:
    """Everything that identifies a thing, into a hash; what has an identity, and was seen before, as its number."""
    if isinstance(thing, _PLAIN):
        into.update(f"{type(thing).__name__} {thing!r};".encode())
        return
    if id(thing) in seen:
        into.update(f"seen {seen[id(thing)][0]};".encode())
        return
    if isinstance(thing, _SHARED):
        seen[id(thing)] = len(seen), thing
    into.update(f"{_kind(thing)};".encode())
    if isinstance(thing, Tensor):
        _feed_tensor(into, thing)
        return
    parts = _parts(thing)
    into.update(f"{len(parts)};".encode())
    for part in parts:
        _feed(into, part, seen)


def _kind(thing: Any) -> str:
    """What a thing is called, if it has a name, or its type."""
    named = thing if hasattr(thing, "__qualname__") else type(thing)
    return f"{type(thing).__name__} {getattr(named, '__module__', None)}.{named.__qualname__}"


def _parts(thing: Any) -> list[Any]:
    if isinstance(thing, dict):
        return [part for item in thing.items() for part in item]
    if isinstance(thing, (list, tuple)):
        return list(thing)
    if isinstance(thing, (set, frozenset)):
        return sorted(thing, key=repr)
    if isinstance(thing, functools.partial):
        return [thing.func, thing.args, thing.keywords]
    if isinstance(thing, types.MethodType):
        return [thing.__func__, thing.__self__]
    if isinstance(thing, types.CodeType):
        return [thing.co_code, thing.co_names, list(thing.co_consts)]
    if isinstance(thing, types.FunctionType):
        closed = [thing.__defaults__, thing.__kwdefaults__, *map(_content, thing.__closure__ or ())]
        return closed if _is_library(thing) else [*closed, thing.__code__, *_globals(thing)]
    if isinstance(thing, types.ModuleType):
        return [thing.__name__]
    if isinstance(thing, nn.Module):
        own = [part for part in type(thing).__mro__ if not _is_library(part)]
        return [vars(thing), [method for part in own for method in vars(part).values() if inspect.isfunction(method)]]
    if dataclasses.is_dataclass(thing) and not isinstance(thing, type):
        return [getattr(thing, field.name) for field in dataclasses.fields(thing)]
    return []


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # nothing in it yet
        return None


def _is_library(thing: Any) -> bool:
    """Whether a function or class belongs to torch or to this package, whose code is known by its name."""
    return (thing.__module__ or "").split(".")[0] in ("torch", "pure_batchops", "builtins")


def _globals(function: types.FunctionType) -> list[Any]:
    """What a function reads by global names: functions, modules and values."""
    codes, names = [function.__code__], set()
    while codes:
        code = codes.pop()
        names |= {step.argval for step in dis.get_instructions(code) if step.opname == "LOAD_GLOBAL"}
        codes += [inner for inner in code.co_consts if isinstance(inner, types.CodeType)]
    return [(name, function.__globals__[name]) for name in sorted(names) if name in function.__globals__]


def _feed_tensor(into: Any, tensor: Tensor) -> None:
    into.update(f"{tensor.dtype} {tuple(tensor.shape)};".encode())
    if tensor.device.type != "meta" and tensor.numel():
        held = tensor.detach().resolve_conj().resolve_neg().cpu().contiguous()
        into.update((ctypes.c_char * (held.numel() * held.element_size())).from_address(held.data_ptr()))
