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
from pure_batchops.distributed.ranks import Group, check_group, computed_on_all, in_time, rank_and_size
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
    """The operation averaged over the batches of all ranks, m = Σᵣ Σ w(b) m(b) / Σᵣ Σ w(b): the average on one process.

    Each rank sums its own batches; then the ranks tell each other the shapes and weights of their sums, and one all-reduce
    adds these, one precision wider than the products: 8 bytes for each float32. The product is the same on all ranks.

    Args:
        op: any operation on a batch, also under vmap.
        group: the ranks, of the backend gloo or nccl; by default all. Its timeout, given to `init_process_group`, must be
            longer than the slowest rank may be behind the first.
        weight: what a batch counts, as for `averaged`.
        progress: wraps the stream of batches of this rank.
        finite: whether a product that is not finite is an error.

    Returns:
        `mean_op(params, buffers, batches, v) -> product`, called on all ranks together, with the same params, buffers and v,
        and each rank's own batches: any number, also none. Eager, and not inside vmap.

    Raises:
        TypeError: if op, weight or progress is no function, or group no process group.
        ValueError: by the operation on all ranks, if there is no batch on any, or params or v are seen to differ (about a
            hundred of their numbers are compared), and where `averaged` does on this one.
        RuntimeError: by the operation, if another rank raised an error, which it names; or if a rank ended or did not come
            within the timeout. An error of this rank is raised as it is.

    Examples:
        >>> import tempfile, torch
        >>> from pure_batchops import gauss_newton
        >>> place = f"file://{tempfile.mktemp()}"
        >>> dist.init_process_group("gloo", init_method=place, rank=0, world_size=1)
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
    """The operation averaged over the batches of all ranks, whose states are kept in files as it goes.

    When the processes were killed, as many are started anew, each with its own batches in their order; they go on.

    Args:
        op: any operation on a batch.
        path: of the files: rank 3 of 8 writes to `path.3of8`.
        group: the ranks, as for `averaged` here.
        every: after how many batches of a rank its file is written.
        weight: what a batch counts.
        progress: wraps the stream of batches of this rank.
        finite: whether a product that is not finite is an error.
        name: what tells the operation and the weights from others, as for `pure_batchops.resumable`.

    Returns:
        `mean_op(params, buffers, batches, v) -> product`, as that of `averaged` here.

    Raises:
        TypeError: as `averaged` here and `pure_batchops.resumable`.
        ValueError: likewise.
        RuntimeError: as `averaged` here.
    """
    resume = resumed(op, every, weight, progress, finite=finite, name=name)
    file = Path(path)

    def state(params: Params, buffers: Buffers, batches: Iterable[Batch], v: Vector) -> AverageState:
        own = file.with_name("{}.{}of{}".format(file.name, *rank_and_size(group)))
        return resume(own, params, buffers, batches, v)

    return _over_ranks(state, group)


def _over_ranks(state: Callable[[Params, Buffers, Iterable[Batch], Vector], AverageState], group: Group) -> Operation:
    check_group(group)

    def operation(params: Params, buffers: Buffers, batches: Iterable[Batch], v: Vector) -> Vector:
        device = next(iter(parameter_leaves(params).values())).device
        own, outlines = computed_on_all(lambda: state(params, buffers, batches, v), _outline, params, v, group)
        return average_result(_summed(own, reduce(average_merge, outlines), device, group))

    return operation_on_batches(operation)


def _outline(state: AverageState) -> AverageState:
    """The state without its numbers."""
    if state.total is None:
        return state
    return state._replace(total=map_leaves(lambda leaf: torch.empty_like(leaf, device="meta"), state.total))


def _summed(own: AverageState, outline: AverageState, device: torch.device, group: Group) -> AverageState:
    """The state of all ranks, from that of this one and the outline of all."""
    if outline.total is None:
        return outline
    shapes = named_leaves(outline.total)
    parts = [torch.zeros_like(leaf, device=device) for leaf in shapes.values()]
    if own.total is not None:
        parts = same_leaves("each product", shapes, own.total)
    widest = reduce(torch.promote_types, (part.dtype for part in parts))
    flat = torch.cat([part.reshape(-1).to(device, widest) for part in parts])  # one all-reduce, whatever the tree
    with in_time(group):
        dist.all_reduce(flat, group=group)
    sums = zip(flat.split([part.numel() for part in parts]), parts, strict=True)
    return outline._replace(total=rebuilt(outline.total, [total.reshape(part.shape).to(part) for total, part in sums]))
