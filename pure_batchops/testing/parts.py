"""Batches cut into parts, joined, and with points repeated."""

import torch
from torch import Tensor

from pure_batchops.batches import has_samples, n_points, part
from pure_batchops.trees import tree_flatten, tree_map, tree_unflatten
from pure_batchops.types import Batch


def cut(batch: Batch, axis: int, seed: int) -> list[tuple[Batch, int]]:
    """The batch in two to four consecutive parts, cut at random, each with its number of points. One point is one part."""
    n = n_points(batch, axis)
    places = torch.randperm(n - 1, generator=torch.Generator().manual_seed(seed))[:3].sort().values + 1
    edges = [0, *places.tolist(), n]
    sizes = [stop - start for start, stop in zip(edges, edges[1:], strict=False)]
    return [(part(batch, start, size, axis, n), size) for start, size in zip(edges, sizes, strict=False)]


def repeated(batch: Batch, axis: int, times: int) -> Batch:
    """A longer batch: each point as often, one copy after another."""
    return tree_map(lambda leaf: leaf.repeat_interleave(times, axis) if has_samples(leaf, axis) else leaf, batch)


def joined(batches: list[Batch], axis: int) -> Batch | None:
    """All the points as one batch; None if their shapes do not allow it."""
    flattened = [tree_flatten(batch) for batch in batches]
    (first, spec), *others = flattened
    if any(other != spec for _, other in others):
        return None
    columns = list(zip(*(found for found, _ in flattened), strict=True))
    if not all(_fit(column, axis) for column in columns):
        return None
    return tree_unflatten(
        [torch.cat(column, axis) if has_samples(leaf, axis) else leaf for leaf, column in zip(first, columns, strict=True)],
        spec,
    )


def _fit(column: tuple[object, ...], axis: int) -> bool:
    if not all(has_samples(leaf, axis) for leaf in column):
        return not any(has_samples(leaf, axis) for leaf in column)
    return len({leaf.narrow(axis, 0, 1).shape for leaf in column if isinstance(leaf, Tensor)}) == 1
