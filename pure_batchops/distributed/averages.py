"""An operation averaged over the batches of all ranks: one all-reduce for each product."""

import os
from collections.abc import Callable, Iterable
from functools import reduce
from pathlib import Path

import torch
import torch.distributed as dist

from pure_batchops.averages.averaged import operation_on_batches
from pure_batchops.averages.folds import average_fold
from pure_batchops.averages.resumable import resumed
from pure_batchops.averages.state import AverageState, average_merge, average_result, average_start
from pure_batchops.averages.stream import Progress, Weight, stream_of
from pure_batchops.distributed.ranks import Group, check_group, computed_on_all, rank_and_size, timeout_explained
from pure_batchops.trees import map_leaves, named_leaves, parameter_leaves, rebuilt, same_leaves
from pure_batchops.types import Batch, Buffers, Operation, Params, Vector


def averaged(
    op: Operation,
    group: Group = None,
    *,
    weight: Weight | None = None,
    progress: Progress | None = None,
    finite: bool = False,
) -> Operation:
    """The operation averaged over the batches of all ranks, m = Σᵣ Σ w(b) m(b) / Σᵣ Σ w(b).

    It equals the average of all batches on one process. Each rank sums its own batches. Then the ranks exchange the shapes
    and weights of their sums, and one all-reduce adds the sums. It sends one precision wider than the products: 8 bytes for
    each float32. The product is the same on all ranks.

    Args:
        op: any operation on a batch, also under vmap.
        group: the ranks, a process group on gloo or nccl; by default all processes. Its timeout (see `init_process_group`)
            must be longer than the first rank may wait for the slowest.
        weight: the weight of a batch, as for `pure_batchops.averaged`.
        progress: wraps the stream of batches of this rank.
        finite: whether a product that is not finite is an error.

    Returns:
        `mean_op(params, buffers, batches, v) -> product`, eager, and not inside vmap. Call it on all ranks together, with
        the same params, buffers and v. Each rank passes its own batches: any number, also none.

    Raises:
        TypeError: if op, weight or progress is no function, or group is no process group.
        ValueError: by the operation, on all ranks, if no rank has a batch, or if params or v differ between ranks (about a
            hundred of their numbers are compared). Also where `pure_batchops.averaged` raises it on this rank.
        RuntimeError: by the operation, if another rank raised an error (the message gives that error), or if a rank ended or
            was later than the timeout. An error of this rank is raised unchanged.

    Examples:
        >>> import tempfile, torch
        >>> from pure_batchops import gauss_newton
        >>> store = f"file://{tempfile.mktemp()}"
        >>> dist.init_process_group("gloo", init_method=store, rank=0, world_size=1)
        >>> mean_op = averaged(gauss_newton(lambda params, buffers, x: params * x))
        >>> mean_op(torch.tensor([1.0]), {}, [torch.tensor([1.0, 2.0]), torch.tensor([4.0])], torch.tensor([1.0]))
        tensor([7.])
        >>> dist.destroy_process_group()
    """
    stream = stream_of(op, weight, progress, finite=finite)

    def state(params: Params, buffers: Buffers, batches: Iterable[Batch], v: Vector) -> AverageState:
        return average_fold(average_start(), stream.products(params, buffers, batches, v))

    return _over_ranks(state, group)


def resumable(
    op: Operation,
    path: str | os.PathLike[str],
    group: Group = None,
    *,
    every: int = 100,
    weight: Weight | None = None,
    progress: Progress | None = None,
    finite: bool = False,
    name: str | None = None,
) -> Operation:
    """The operation averaged over the batches of all ranks. Each rank keeps its state in a file as it goes.

    If the processes were killed, start the same number again. Give each rank its own batches in the same order. They go on
    from their files.

    Args:
        op: any operation on a batch.
        path: the start of the paths of the files: rank 3 of 8 writes to `path.3of8`.
        group: the ranks, as for `averaged` here.
        every: after how many of its batches a rank writes its file.
        weight: the weight of a batch, as for `pure_batchops.averaged`.
        progress: wraps the stream of batches of this rank.
        finite: whether a product that is not finite is an error.
        name: what tells the operation and the weights from others, as for `pure_batchops.resumable`.

    Returns:
        `mean_op(params, buffers, batches, v) -> product`, called in the same way as the result of `averaged` here.

    Raises:
        TypeError: where `averaged` here or `pure_batchops.resumable` raises it.
        ValueError: where `averaged` here or `pure_batchops.resumable` raises it.
        RuntimeError: where `averaged` here raises it.
    """
    resume = resumed(op, every, weight, progress, finite=finite, name=name)
    file = Path(path)

    def state(params: Params, buffers: Buffers, batches: Iterable[Batch], v: Vector) -> AverageState:
        own_file = file.with_name("{}.{}of{}".format(file.name, *rank_and_size(group)))
        return resume(own_file, params, buffers, batches, v)

    return _over_ranks(state, group)


def _over_ranks(state: Callable[[Params, Buffers, Iterable[Batch], Vector], AverageState], group: Group) -> Operation:
    check_group(group)

    def operation(params: Params, buffers: Buffers, batches: Iterable[Batch], v: Vector) -> Vector:
        device = next(iter(parameter_leaves(params).values())).device
        own_state, outlines = computed_on_all(lambda: state(params, buffers, batches, v), _outline, params, v, group)
        return average_result(_summed(own_state, reduce(average_merge, outlines), device, group))

    return operation_on_batches(operation)


def _outline(state: AverageState) -> AverageState:
    """The state without its numbers."""
    if state.total is None:
        return state
    return state._replace(total=map_leaves(lambda leaf: torch.empty_like(leaf, device="meta"), state.total))


def _summed(own_state: AverageState, outline: AverageState, device: torch.device, group: Group) -> AverageState:
    """The state of all ranks, from the state of this rank and the merged outline of all ranks."""
    if outline.total is None:
        return outline
    shapes = named_leaves(outline.total)
    parts = [torch.zeros_like(leaf, device=device) for leaf in shapes.values()]
    if own_state.total is not None:
        parts = same_leaves("each product", shapes, own_state.total)
    widest = reduce(torch.promote_types, (part.dtype for part in parts))
    flat = torch.cat([part.reshape(-1).to(device, widest) for part in parts])  # one tensor, so that one all-reduce is enough
    with timeout_explained(group):
        dist.all_reduce(flat, group=group)
    sums = zip(flat.split([part.numel() for part in parts]), parts, strict=True)
    return outline._replace(total=rebuilt(outline.total, [total.reshape(part.shape).to(part) for total, part in sums]))
