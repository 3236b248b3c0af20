"""The sum of the states of all ranks: what is exchanged for one product."""

from collections.abc import Callable, Iterable
from functools import reduce
from typing import NamedTuple

import torch
from torch import Tensor

from pure_batchops.averages.averaged import operation_on_batches
from pure_batchops.averages.state import AverageState, average_merge, average_result
from pure_batchops.distributed.derivatives import (
    Recorded,
    joined,
    refuse_other_leaves,
    refuse_transforms,
    same_on_ranks,
    sum_over_ranks,
)
from pure_batchops.distributed.ranks import Group, check_group, computed_on_all, timeout_explained
from pure_batchops.trees import Path, device_of, leaves, map_leaves, named_leaves, rebuilt, same_leaves
from pure_batchops.types import Batch, Buffers, Operation, Params, Vector


class _Own(NamedTuple):
    """What one rank has: the state of its average, and what autograd records of params, buffers and v."""

    state: AverageState
    recorded: Recorded


class _Outline(NamedTuple):
    """What the other ranks must know of it: the state without its numbers, and the names of what is recorded."""

    state: AverageState
    recorded: list[Path]


def over_ranks(state: Callable[[Params, Buffers, Iterable[Batch], Vector], AverageState], group: Group) -> Operation:
    """The average of all ranks, from the function that gives the state of the average of one rank.

    Args:
        state: `(params, buffers, batches, v) -> state`, of this rank.
        group: the ranks.

    Returns:
        `mean_op(params, buffers, batches, v) -> product`.

    Raises:
        TypeError: if group is no process group.
    """
    check_group(group)

    def operation(params: Params, buffers: Buffers, batches: Iterable[Batch], v: Vector) -> Vector:
        def compute() -> _Own:
            refuse_transforms()
            same, recorded = same_on_ranks((params, buffers, v), group)
            own = state(same[0], same[1], batches, same[2])
            refuse_other_leaves([] if own.total is None else leaves(own.total), recorded)
            return _Own(own, recorded)

        own, outlines = computed_on_all(compute, _outline, params, v, group)
        return average_result(_summed(own, _merged(outlines), device_of(params), group))

    return operation_on_batches(operation)


def _outline(own: _Own) -> _Outline:
    state = own.state
    if state.total is not None:
        state = state._replace(total=map_leaves(lambda leaf: torch.empty_like(leaf, device="meta"), state.total))
    return _Outline(state, list(own.recorded))


def _merged(outlines: list[_Outline]) -> AverageState:
    """The outline of the state of all ranks, which must record the same leaves."""
    for rank, outline in enumerate(outlines):
        if outline.recorded != outlines[0].recorded:
            numbers = f"{len(outline.recorded)} such tensors on rank {rank} and {len(outlines[0].recorded)} on rank 0"
            msg = f"params, buffers and v must require gradients on all ranks or on none, got {numbers}; detach them"
            raise ValueError(msg)
    return reduce(average_merge, (outline.state for outline in outlines))


def _summed(own: _Own, outline: AverageState, device: torch.device, group: Group) -> AverageState:
    """The state of all ranks, from that of this rank and the outline of that of all ranks."""
    if outline.total is None:
        return outline
    shapes = named_leaves(outline.total)
    parts: list[Tensor] = [torch.zeros_like(leaf, device=device) for leaf in shapes.values()]
    if own.state.total is not None:
        parts = same_leaves("each product", shapes, own.state.total)
    widest = reduce(torch.promote_types, (part.dtype for part in parts))
    flat = torch.cat([part.reshape(-1).to(device, widest) for part in parts])  # one tensor, so that one all-reduce is enough
    with timeout_explained(group):
        flat = sum_over_ranks(joined(flat, own.recorded), group)
    sums = zip(flat.split([part.numel() for part in parts]), parts, strict=True)
    return outline._replace(total=rebuilt(outline.total, [total.reshape(part.shape).to(part) for total, part in sums]))
