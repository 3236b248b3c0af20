"""Unfinished averages in files. A file always holds a whole average."""

import contextlib
import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import torch

from pure_batchops.averages.state import AverageState, average_start
from pure_batchops.trees import parameter_leaves, rebuilt, same_leaves
from pure_batchops.types import Params

_VERSION = 2


class SavedAverage(NamedTuple):
    """What a file holds.

    Attributes:
        state: the state of the average of the batches so far.
        order: the fingerprint of these batches, in their order.
        first: what stands for the product with the first batch, see `identity.First`; empty before it.
    """

    state: AverageState
    order: str
    first: dict[str, Any]


def saved_average(path: Path, marks: Mapping[str, str], params: Params) -> SavedAverage:
    """The average that a file holds, on the CPU. If there is no file, it is the empty average, which is saved.

    Args:
        path: the path of the file.
        marks: what the average belongs to: a fingerprint for each name.
        params: the structure of a product that is a tree.

    Returns:
        An average that belongs to all the marks.

    Raises:
        ValueError: if the file holds anything else.
        OSError: if the file cannot be read, or a new one cannot be written.
    """
    if not path.exists():
        empty = SavedAverage(average_start(), "", {})
        save(empty, path, marks, params)
        return empty
    content = _read(path)
    others = [name for name, mark in marks.items() if content["marks"].get(name) != mark]
    if others:
        refuse(path, " and ".join(f"other {name}" for name in others))
    total, numbers = content["total"], content["state"]
    tree = rebuilt(params, total) if isinstance(total, list) else total
    dtypes = tuple(getattr(torch, name) for name in numbers["dtypes"])
    return SavedAverage(AverageState(tree, numbers["weight"], numbers["batches"], dtypes), content["order"], content["first"])


def refuse(path: Path, owner: str) -> NoReturn:
    """Refuse a file whose average belongs to another owner."""
    msg = (
        f"the state at path must belong to this average, got one of {owner} at {path}; give another path, or delete the file "
        "to start again"
    )
    raise ValueError(msg)


def _read(path: Path) -> Any:
    """The content of a file that `save` wrote."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        version = content["version"]
        complete = {"marks", "state", "total", "order", "first"} <= content.keys()
    except (RuntimeError, ValueError, KeyError, TypeError, EOFError, AttributeError, pickle.UnpicklingError) as error:
        msg = f"path must hold a state that a resumable average saved, got another file at {path}; give another path"
        raise ValueError(msg) from error
    if version != _VERSION or not complete:
        msg = (
            f"path must hold a state that a resumable average saved, got a file of format {version} instead of {_VERSION} at "
            f"{path}; give another path, or delete the file to start again"
        )
        raise ValueError(msg)
    return content


def save(average: SavedAverage, path: Path, marks: Mapping[str, str], params: Params) -> None:
    """Write an average to a file. It is written beside the file, brought to the disk, and renamed, so that no part is lost.

    Args:
        average: what is saved.
        path: the path of the file, which no other process writes.
        marks: what the average belongs to.
        params: the structure of a product that is a tree.

    Raises:
        ValueError: if the products are neither tensors nor trees like params.
        OSError: if the file cannot be written. It then holds what it held before.
    """
    total, weight, batches, dtypes = average.state
    if total is not None and not isinstance(total, torch.Tensor):
        total = same_leaves("the product of a resumable average", parameter_leaves(params), total)
    names = [str(dtype).removeprefix("torch.") for dtype in dtypes]  # torch 2.1 loads no bfloat16 dtype
    numbers = {"weight": weight, "batches": batches, "dtypes": names}
    content = {
        "version": _VERSION,
        "marks": dict(marks),
        "state": numbers,
        "total": total,
        "order": average.order,
        "first": average.first,
    }
    partial = path.with_name(f"{path.name}.partial")
    try:
        _write(content, partial)
        os.replace(partial, path)
        _sync_folder(path.parent)
    except (OSError, RuntimeError) as error:
        with contextlib.suppress(OSError):
            partial.unlink()
        msg = f"the state after {batches} batches must be saved at {path}, got {error}; the last saved state is still there"
        raise OSError(msg) from error


def _write(content: Any, path: Path) -> None:
    with path.open("wb") as file:
        torch.save(content, file)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    """Bring the new name to the disk, on systems where a folder can be opened."""
    if os.name != "posix":
        return
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
