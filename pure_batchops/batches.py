"""Batches: their two parts, and how many samples they hold."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor
from torch.utils.data import RandomSampler

from pure_batchops.trees import leaves, named_leaves, tree_flatten, tree_unflatten
from pure_batchops.types import Batch, Tree


def pair(batch: Batch, batch_dim: int = 0) -> tuple[Tree, Tree]:
    """The two parts of a batch.

    Returns:
        Inputs and targets.

    Raises:
        ValueError: if the batch is no pair, is empty, or its inputs and targets have different lengths.
    """
    if not isinstance(batch, (tuple, list)) or len(batch) != 2:
        seen = f"{type(batch).__name__} of length {len(batch)}" if isinstance(batch, (tuple, list)) else type(batch).__name__
        several = isinstance(batch, Iterable) and not isinstance(batch, (Tensor, str, Mapping))
        hint = "; for an average over batches use averaged(op)" if several else ""
        msg = f"batch must be a pair (inputs, targets), got {seen}{hint}"
        raise ValueError(msg)
    length("inputs and targets", tuple(batch), batch_dim)
    return batch[0], batch[1]


def length(what: str, tree: Tree, batch_dim: int = 0) -> int:
    """The number of samples along an axis, on which all tensors with axes must agree.

    Returns:
        The number, at least one.

    Raises:
        ValueError: if there is no such axis, lengths differ, or there is no sample.
    """
    tensors = [leaf for leaf in leaves(tree) if has_axis(leaf)]
    axes = batch_dim + 1 if batch_dim >= 0 else -batch_dim
    lengths = [leaf.shape[batch_dim] if leaf.dim() >= axes else None for leaf in tensors]
    if not lengths or None in lengths or len(set(lengths)) > 1:
        seen = f"the shapes {', '.join(str(tuple(leaf.shape)) for leaf in tensors)}" if tensors else "no tensor with axes"
        msg = f"{what} must have one number of samples along axis {batch_dim}, got {seen}"
        raise ValueError(msg)
    if lengths[0] == 0:
        msg = f"{what} must hold at least one sample, got an empty batch"
        raise ValueError(msg)
    return tensors[0].shape[batch_dim]


def n_points(batch: Batch, batch_dim: int = 0) -> int:
    """The number of points of a batch: the length of its tensors along an axis; those without that axis do not count.

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
    axes = batch_dim + 1 if batch_dim >= 0 else -batch_dim
    return length(
        "the tensors of a batch",
        [leaf for leaf in named_leaves(batch).values() if isinstance(leaf, Tensor) and leaf.dim() >= axes],
        batch_dim,
    )


def split(batch: Batch, n: int, axis: int) -> tuple[Callable[..., Batch], list[Tensor]]:
    """The tensors of a batch that have n samples along an axis; whatever else it holds is shared by all samples.

    Returns:
        `alone(*sample)`, the batch of one sample from its parts, and those parts of all samples, along a new first axis.
    """
    parts, spec = tree_flatten(batch)
    is_split = [isinstance(part, Tensor) and -part.dim() <= axis < part.dim() and part.shape[axis] == n for part in parts]

    def alone(*sample: Tensor) -> Any:
        own = iter(sample)
        return tree_unflatten([next(own) if of_one else part for part, of_one in zip(parts, is_split, strict=True)], spec)

    def by_sample(part: Tensor) -> Tensor:
        return part.movedim(axis, 0).unsqueeze(axis % part.dim() + 1)

    return alone, [by_sample(part) for part, of_one in zip(parts, is_split, strict=True) if of_one]


def reiterable(name: str, batches: Iterable[Batch]) -> Iterable[Batch]:
    """The batches, if they can be read more than once.

    Returns:
        The batches.

    Raises:
        ValueError: if they are an iterator.
    """
    if isinstance(batches, Iterator):
        msg = f"{name} must be iterable again, as a list or a DataLoader is, got a {type(batches).__name__}"
        raise ValueError(msg)
    return batches


def in_one_order(name: str, batches: Iterable[Batch]) -> Iterable[Batch]:
    """The batches, if they can be read more than once, and come in the same order each time.

    Returns:
        The batches.

    Raises:
        ValueError: if they are an iterator, or a DataLoader that shuffles.
    """
    if isinstance(getattr(batches, "sampler", None), RandomSampler):
        msg = (
            f"{name} must come in one order each time that they are read, got a DataLoader that shuffles; make it "
            "with shuffle=False"
        )
        raise ValueError(msg)
    return reiterable(name, batches)


def has_axis(leaf: Any) -> bool:
    """Whether a leaf is a tensor with axes."""
    return isinstance(leaf, Tensor) and leaf.dim() > 0


def chunks(batch: Batch, size: int, axis: int = 0) -> Iterator[Batch]:
    """The batch in parts of at most so many samples; what has another length along the axis is shared by all parts."""
    flat, spec = tree_flatten(batch)
    n = n_points(batch, axis)
    for start in range(0, n, size):
        stop = min(start + size, n)
        parts = [
            part.narrow(axis, start, stop - start)
            if isinstance(part, Tensor) and -part.dim() <= axis < part.dim() and part.shape[axis] == n
            else part
            for part in flat
        ]
        yield tree_unflatten(parts, spec)
