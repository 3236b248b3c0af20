"""A computation on all ranks of a group: every rank learns the results and the errors of the others."""

import pickle
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from pure_batchops.averages.sampled import are_same, rounding, sampled_leaves
from pure_batchops.trees import leaves
from pure_batchops.types import Params, Vector

T = TypeVar("T")
Group = Any
"""A `torch.distributed.ProcessGroup`, or None for all processes."""


def check_group(group: Group) -> None:
    """A process group, or None for all processes."""
    if group is None or (dist.is_available() and group is dist.GroupMember.NON_GROUP_MEMBER):
        return  # new_group gives NON_GROUP_MEMBER to processes outside the group; `rank_and_size` refuses it
    if not (dist.is_available() and isinstance(group, dist.ProcessGroup)):
        msg = f"group must be a torch.distributed.ProcessGroup, or None for all processes, got {type(group).__name__}"
        raise TypeError(msg)


def rank_and_size(group: Group) -> tuple[int, int]:
    """The rank of this process in the group, and the number of ranks."""
    if not (dist.is_available() and dist.is_initialized()):
        msg = (
            "a process group must be initialised before a computation over it, got none; call "
            "torch.distributed.init_process_group (under torchrun it needs only a backend and a timeout)"
        )
        raise ValueError(msg)
    rank = dist.get_rank(group)
    if rank < 0:
        msg = (
            "this process must be a member of group, got a group without it; call the operation only on the ranks of the group"
        )
        raise ValueError(msg)
    return rank, dist.get_world_size(group)


def computed_on_all(
    compute: Callable[[], T], description: Callable[[T], Any], params: Params, v: Vector, group: Group
) -> tuple[T, list[Any]]:
    """Compute on every rank, and exchange descriptions of the results.

    Args:
        compute: the work of this rank.
        description: `result -> description`, a small object that is sent to all ranks.
        params: the same on all ranks.
        v: the same on all ranks.
        group: the ranks.

    Returns:
        The result of this rank, and the descriptions from all ranks, in the order of ranks.

    Raises:
        Exception: the error of compute on this rank.
        RuntimeError: if compute raised an error on another rank, or a rank was late.
        ValueError: on all ranks, if params or v differ.
    """
    _, size = rank_and_size(group)
    failure: Exception | None = None
    answer: tuple[str | None, bytes]
    try:
        result = compute()
        answer = None, pickle.dumps((sampled_leaves(params), sampled_leaves(v), description(result)))
    except Exception as error:  # send the error before raising it, or the other ranks would wait
        failure, answer = error, (f"{type(error).__name__}: {error}", b"")
    answers: list[Any] = [None] * size
    try:
        with timeout_explained(group), _device_of_exchange(params):
            dist.all_gather_object(answers, answer, group=group)
    finally:
        if failure is not None:
            raise failure
    for rank, (message, _) in enumerate(answers):
        if message is not None:
            msg = f"every rank must compute its part, got an error on rank {rank}: {message}"
            raise RuntimeError(msg)
    all_params, all_v, descriptions = zip(*(pickle.loads(content) for _, content in answers), strict=True)
    _check_equal("params", all_params, rounding(params))
    _check_equal("v", all_v, rounding(v))
    return result, list(descriptions)


def _check_equal(name: str, samples: Sequence[list[list[float]]], share: float) -> None:
    """All ranks have the same numbers, up to a share of each leaf: other processors may round in another way."""
    for rank, sample in enumerate(samples):
        if not are_same(samples[0], sample, share ** (2 / 3)):
            msg = (
                f"{name} must be the same on all ranks, got other values on rank {rank} than on rank 0; use one seed on all "
                "ranks, or broadcast it (vectors sharded over a group cannot be averaged over the same group)"
            )
            raise ValueError(msg)


def _device_of_exchange(params: Params) -> AbstractContextManager[Any]:
    """Make the device of params the current one: nccl exchanges objects on the current device."""
    device = leaves(params)[0].device
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


@contextmanager
def timeout_explained(group: Group) -> Generator[None, None, None]:
    """Raise the errors of a collective again, with an explanation of what they mean."""
    start = time.monotonic()
    try:
        yield
    except RuntimeError as error:
        rank, size, waited = dist.get_rank(group), dist.get_world_size(group), time.monotonic() - start
        msg = (
            f"every rank must reach the exchange within the timeout of the process group, got a rank that ended or was late: "
            f"rank {rank} of {size} waited for {waited:.1f} s; torch says: {error}; the group cannot be used again, start the "
            "processes again"
        )
        raise RuntimeError(msg) from error
