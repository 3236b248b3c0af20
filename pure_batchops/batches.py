"""Batches: their two parts, how many samples they hold, and parts of them.

One question decides everything here: does a tensor have the axis of the samples? `has_samples` answers it. What has no samples
is shared by all samples.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from pure_batchops.trees import leaves, named_leaves, tree_flatten, tree_map, tree_unflatten
from pure_batchops.types import Batch, Tree

_TARGETS = ("labels", "label", "targets", "target", "y")


def has_samples(leaf: Any, axis: int, n: int | None = None) -> bool:
    """Whether a leaf of a batch is a tensor with the axis of the samples, n of them if n is given."""
    return isinstance(leaf, Tensor) and _reaches(leaf.shape, axis, n)


def _reaches(shape: Sequence[int], axis: int, n: int | None = None) -> bool:
    """Whether a shape has an axis, of length n if n is given."""
    return -len(shape) <= axis < len(shape) and n in (None, shape[axis])


def pair(batch: Batch, batch_dim: int = 0) -> tuple[Tree, Tree]:
    """The two parts of a batch.

    Returns:
        Inputs and targets.

    Raises:
        ValueError: if the batch is no pair, is empty, or its inputs and targets have different lengths.
    """
    if not isinstance(batch, (tuple, list)) or len(batch) != 2:
        seen = f"{type(batch).__name__} of length {len(batch)}" if isinstance(batch, (tuple, list)) else type(batch).__name__
        msg = f"batch must be a pair (inputs, targets), got {seen}{_way_to_a_pair(batch)}"
        raise ValueError(msg)
    length("inputs and targets", tuple(batch), batch_dim)
    return batch[0], batch[1]


def _way_to_a_pair(batch: Any) -> str:
    if isinstance(batch, Tensor):
        return "; an average takes an iterable of batches, so give it one batch as [(inputs, targets)]"
    if isinstance(batch, Mapping) and len(batch) > 1:
        target = next((key for key in batch if key in _TARGETS), list(batch)[-1])
        others = [key for key in batch if key != target]
        inputs = ", ".join(f"{key!r}: batch[{key!r}]" for key in others)
        first = f"batch[{others[0]!r}]" if len(others) == 1 else f"{{{inputs}}}"
        return f"; make it one: ({first}, batch[{target!r}]), in a loader [... for batch in loader]"
    if isinstance(batch, Iterable) and not isinstance(batch, (str, Mapping)):
        one = "" if isinstance(batch, (tuple, list)) else " and for one batch next(iter(batches))"
        return f"; for an average over batches use averaged(op){one}"
    return ""


def length(what: str, tree: Tree, batch_dim: int = 0) -> int:
    """The number of samples along an axis. All tensors must have it and agree; only 0-dim tensors are shared.

    Returns:
        The number, at least one.

    Raises:
        ValueError: if a tensor with axes lacks this one, lengths differ, or there is no sample.
    """
    # Each shape is read once: a function mode around the loss would intercept every further question to a tensor.
    shapes = [shape for shape in (leaf.shape for leaf in leaves(tree) if isinstance(leaf, Tensor)) if len(shape) > 0]
    lengths = [shape[batch_dim] if _reaches(shape, batch_dim) else None for shape in shapes]
    # A set of lengths would fix the size under torch.compile, which then compiles again for each size.
    if not lengths or any(n is None or n != lengths[0] for n in lengths):
        seen = f"the shapes {', '.join(str(tuple(shape)) for shape in shapes)}" if shapes else "no tensor with axes"
        msg = f"{what} must have one number of samples along axis {batch_dim}, got {seen}"
        raise ValueError(msg)
    n = shapes[0][batch_dim]
    if n == 0:
        msg = f"{what} must hold at least one sample, got an empty batch"
        raise ValueError(msg)
    return n


def n_points(batch: Batch, batch_dim: int = 0) -> int:
    """The number of points of a batch: the length of its tensors along an axis. Tensors without that axis do not count.

    Args:
        batch: a tree of tensors.
        batch_dim: the axis of the points.

    Returns:
        The number of points, at least one.

    Raises:
        ValueError: if no tensor has that axis, lengths differ, or there is no point.

    Examples:
        >>> import torch
        >>> n_points((torch.zeros(3, 5), torch.zeros(3)))
        3
    """
    return length(
        "the tensors of a batch", [leaf for leaf in named_leaves(batch).values() if has_samples(leaf, batch_dim)], batch_dim
    )


def split(batch: Batch, n: int, axis: int) -> tuple[Callable[..., Batch], list[Tensor]]:
    """The samples of a batch. They are the tensors with n samples along an axis; all samples share whatever else it holds.

    Returns:
        `alone(*sample)`, the batch of one sample from its tensors, and those tensors of all samples, along a new first axis.
    """
    parts, spec = tree_flatten(batch)
    is_split = [has_samples(part, axis, n) for part in parts]

    def alone(*sample: Tensor) -> Any:
        own = iter(sample)
        return tree_unflatten([next(own) if of_one else part for part, of_one in zip(parts, is_split, strict=True)], spec)

    def by_sample(part: Tensor) -> Tensor:
        return part.movedim(axis, 0).unsqueeze(axis % part.dim() + 1)

    return alone, [by_sample(part) for part, of_one in zip(parts, is_split, strict=True) if of_one]


def part(batch: Batch, start: int, size: int, axis: int, n: int) -> Batch:
    """Some consecutive samples of a batch of n samples. All parts share tensors of another length along the axis."""
    return tree_map(lambda leaf: leaf.narrow(axis, start, size) if has_samples(leaf, axis, n) else leaf, batch)


def chunks(batch: Batch, size: int, axis: int = 0) -> Iterator[Batch]:
    """The batch in parts of at most `size` samples. All parts share what has no samples.

    Yields:
        The parts, in order.

    Raises:
        ValueError: as `n_points`. A batch that also holds tensors of another length is cut by `losses.shared`.
    """
    n = n_points(batch, axis)
    for start in range(0, n, size):
        yield part(batch, start, min(size, n - start), axis, n)
