"""What the ranks of a group tell each other: whether all went well, and what they have."""

import pickle
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from pure_batchops.averages.sampled import are_close, sampled
from pure_batchops.trees import leaves
from pure_batchops.types import Params, Vector

T = TypeVar("T")
Group = Any
"""A `torch.distributed.ProcessGroup`, or None for all processes."""


def check_group(group: Group) -> None:
    """A process group, or None for all processes."""
    if group is None or (dist.is_available() and group is dist.GroupMember.NON_GROUP_MEMBER):
        return  # what new_group gives to the processes outside is refused when it is used
    if not (dist.is_available() and isinstance(group, dist.ProcessGroup)):
        msg = f"group must be a torch.distributed.ProcessGroup, or None for all processes, got {type(group).__name__}"
        raise TypeError(msg)


def rank_and_size(group: Group) -> tuple[int, int]:
    """The rank of this process in the group, and how many ranks there are."""
    if not (dist.is_available() and dist.is_initialized()):
        msg = (
            "a process group must be initialised before anything is computed over it, got none; call "
            "torch.distributed.init_process_group (under torchrun it needs no more than a backend and a timeout)"
        )
        raise ValueError(msg)
    rank = dist.get_rank(group)
    if rank < 0:
        msg = "this process must be a member of group, got a group without it; call it on the ranks of the group only"
        raise ValueError(msg)
    return rank, dist.get_world_size(group)


def computed_on_all(
    compute: Callable[[], T], description: Callable[[T], Any], params: Params, v: Vector, group: Group
) -> tuple[T, list[Any]]:
    """What this rank computes, and the description of what each computes, once all have.

    Args:
        compute: the work of this rank.
        description: of what it computes, small, to be told to all others.
        params: the same on all ranks.
        v: the same on all ranks.
        group: the ranks.

    Returns:
        What compute returned, and the descriptions in the order of ranks.

    Raises:
        Exception: what compute raised on this rank.
        RuntimeError: if it raised on another, or a rank did not come in time.
        ValueError: on all ranks, if params or v differ.
    """
    _, size = rank_and_size(group)
    failure: Exception | None = None
    told: tuple[str | None, Any]
    try:
        found = compute()
        told = None, pickle.dumps((sampled(params), sampled(v), description(found)))
    except Exception as error:  # it must be told before it is raised, or the others would wait
        failure, told = error, (f"{type(error).__name__}: {error}", b"")
    everyone: list[Any] = [None] * size
    try:
        with in_time(group), _current(params):
            dist.all_gather_object(everyone, told, group=group)
    finally:
        if failure is not None:
            raise failure
    for rank, (message, _) in enumerate(everyone):
        if message is not None:
            msg = f"every rank must compute its part, got an error on rank {rank}: {message}"
            raise RuntimeError(msg)
    all_params, all_v, descriptions = zip(*(pickle.loads(content) for _, content in everyone), strict=True)
    _check_equal("params", all_params)
    _check_equal("v", all_v)
    return found, list(descriptions)


def _check_equal(what: str, samples: Sequence[list[float]]) -> None:
    """All ranks have the same numbers, up to rounding: other processors may round in another way."""
    for rank, sample in enumerate(samples):
        if not are_close(samples[0], sample, rtol=1e-3, atol=1e-6):
            msg = (
                f"{what} must be the same on all ranks, got another on rank {rank} than on rank 0; give all the same seed, or "
                "broadcast it (vectors sharded over a group cannot be averaged over the same group)"
            )
            raise ValueError(msg)


def _current(params: Params) -> AbstractContextManager[Any]:
    """The device of params as the current one of nccl, which exchanges objects there."""
    device = leaves(params)[0].device
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


@contextmanager
def in_time(group: Group) -> Generator[None, None, None]:
    """Around a collective: its errors say what they mean."""
    start = time.monotonic()
    try:
        yield
    except RuntimeError as error:
        rank, size, waited = dist.get_rank(group), dist.get_world_size(group), time.monotonic() - start
        msg = (
            f"every rank must come to the exchange within the timeout of the process group, got one that ended or was late: "
            f"rank {rank} of {size} waited for {waited:.1f} s; torch says: {error}; the group cannot be used again, start the "
            "processes anew"
        )
        raise RuntimeError(msg) from error
