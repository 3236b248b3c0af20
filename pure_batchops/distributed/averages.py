"""An operation averaged over the batches of all ranks: one all-reduce for each product."""

import os
from collections.abc import Iterable
from pathlib import Path

from pure_batchops.averages.folds import average_fold
from pure_batchops.averages.resumable import resumed
from pure_batchops.averages.state import AverageState, average_start
from pure_batchops.averages.stream import Progress, Weight, stream_of
from pure_batchops.distributed.ranks import Group, rank_and_size
from pure_batchops.distributed.sums import over_ranks
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
        the same params, buffers and v. Each rank passes its own batches: any number, also none. `torch.autograd` gives the
        whole gradient by params, buffers and v on every rank, if all ranks take it together, of one function of the product.

    Raises:
        TypeError: if op, weight or progress is no function, or group is no process group.
        ValueError: by the operation, on all ranks, if no rank has a batch, if params or v differ between ranks (about a
            hundred of their numbers are compared), if other tensors than params, buffers and v require gradients, or inside a
            transform of torch.func. Also where `pure_batchops.averaged` raises it on this rank.
        RuntimeError: by the operation, if another rank raised an error (the message gives that error), or if a rank ended or
            was later than the timeout. An error of this rank is raised unchanged.

    Examples:
        >>> import tempfile, torch
        >>> import torch.distributed as dist
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

    return over_ranks(state, group)


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

    return over_ranks(state, group)
