"""Unfinished averages in files: written whole or not at all."""

import contextlib
import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from pure_batchops.averages.state import AverageState, average_start
from pure_batchops.trees import parameter_leaves, rebuilt, same_leaves
from pure_batchops.types import Params

_VERSION = 1


class SavedAverage(NamedTuple):
    """What a file holds.

    Attributes:
        state: of the batches so far.
        order: the fingerprint of these batches, in their order.
    """

    state: AverageState
    order: str


def saved_average(path: Path, marks: Mapping[str, str], params: Params) -> SavedAverage:
    """The average that a file holds, on the CPU; where there is no file, one that is at its start, which is then saved.

    Args:
        path: of the file.
        marks: what the average belongs to, by name: a fingerprint each.
        params: whose structure a product that is a tree has.

    Returns:
        A state that belongs to all the marks.

    Raises:
        ValueError: if the file holds anything else.
        OSError: if it cannot be read, or a new one not be written.
    """
    if not path.exists():
        start = SavedAverage(average_start(), "")
        save(start, path, marks, params)
        return start
    try:
        held = torch.load(path, map_location="cpu", weights_only=True)
        if held["version"] != _VERSION:
            msg = f"version {held['version']}"
            raise ValueError(msg)
        found, numbers, total = held["marks"], held["state"], held["total"]
        tree = rebuilt(params, total) if isinstance(total, list) else total
        saved = SavedAverage(AverageState(tree, numbers["weight"], numbers["batches"], numbers["dtypes"]), held["order"])
    except (RuntimeError, ValueError, KeyError, TypeError, EOFError, pickle.UnpicklingError) as error:
        seen = f"{type(error).__name__}: {error}"
        msg = f"path must hold a state that a resumable average saved, got {seen} from {path}; give another path"
        raise ValueError(msg) from error
    others = [name for name, mark in marks.items() if found.get(name) != mark]
    if others:
        msg = (
            f"the state at path must belong to this average, got one of other {' and other '.join(others)} at {path}; "
            "give another path, or delete the file to start anew"
        )
        raise ValueError(msg)
    return saved


def save(average: SavedAverage, path: Path, marks: Mapping[str, str], params: Params) -> None:
    """Write an average to a file: first beside it, to the disk, then in its place, so that it always holds a whole one.

    Args:
        average: to be saved.
        path: of the file, of one process alone.
        marks: what the average belongs to.
        params: whose structure a product has, unless it is a tensor.

    Raises:
        ValueError: if the products are neither tensors nor trees like params.
        OSError: if it cannot be written; the file then holds what it held before.
    """
    total, weight, batches, dtypes = average.state
    if total is not None and not isinstance(total, torch.Tensor):
        total = same_leaves("the product of a resumable average", parameter_leaves(params), total)
    numbers = {"weight": weight, "batches": batches, "dtypes": dtypes}
    content = {"version": _VERSION, "marks": dict(marks), "order": average.order, "state": numbers, "total": total}
    partial = path.with_name(f"{path.name}.partial")
    try:
        _write(content, partial)
        os.replace(partial, path)
        _sync_folder(path.parent)
    except (OSError, RuntimeError) as error:
        with contextlib.suppress(OSError):
            partial.unlink()
        msg = f"the state after {batches} batches must be saved at {path}, got {error}; what was saved there before stays"
        raise OSError(msg) from error


def _write(content: Any, path: Path) -> None:
    with path.open("wb") as file:
        torch.save(content, file)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    """Bring the renaming to the disk, where a folder can be opened."""
    if os.name != "posix":
        return
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
