"""A few numbers that stand for a tree, to see whether another process has or computes the same tree."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from pure_batchops.trees import named_leaves
from pure_batchops.types import Tree

NUMBERS = 64
"""How many numbers of a tree are taken, about; and of how many leaves."""

_STEP = 2654435761  # a prime near 2³² / golden ratio: its multiples are spread over the rows and columns of any shape


def sampled(tree: Tree) -> list[float]:
    """About 64 numbers of a tree and the norms of the leaves that hold them. The order of keys does not matter."""
    return [number for leaf in sampled_leaves(tree) for number in leaf]


def sampled_leaves(tree: Tree) -> list[list[float]]:
    """The same, leaf by leaf: some of its numbers, and then its norm."""
    by_name = sorted(named_leaves(tree).items())
    chosen = [leaf for _, leaf in by_name[:: max(1, len(by_name) // NUMBERS)] if leaf.numel()]
    return [_numbers(leaf.detach(), max(1, NUMBERS // len(chosen))) for leaf in chosen]


def are_same(one: Sequence[Sequence[float]], other: Sequence[Sequence[float]], share: float) -> bool:
    """Whether two results of `sampled_leaves` are the same, up to a share of each leaf; nan equals nan."""
    leaves = list(zip(one, other, strict=False))
    places = len(one) == len(other) and all(
        are_close(first[:-1], second[:-1], rtol=0.0, atol=share * largest(first[:-1])) for first, second in leaves
    )
    return places and all(are_close(first[-1:], second[-1:], rtol=share, atol=0.0) for first, second in leaves)


def are_close(one: Sequence[float], other: Sequence[float], *, rtol: float, atol: float) -> bool:
    """Whether two samples are the same up to rounding; nan equals nan."""
    if len(one) != len(other):
        return False
    first, second = (torch.tensor(sample, dtype=torch.float64) for sample in (one, other))
    return torch.allclose(first, second, rtol=rtol, atol=atol, equal_nan=True)


def rounding(tree: Tree) -> float:
    """How far two computations of a tree may be apart, as a share of its largest number: ε^¾, ε of the least precise leaf."""
    return float(max((torch.finfo(leaf.dtype).eps for leaf in named_leaves(tree).values()), default=0.0) ** 0.75)


def largest(sample: Sequence[float]) -> float:
    """The largest size of a finite number of a sample."""
    return max((abs(number) for number in sample if math.isfinite(number)), default=0.0)


def _numbers(leaf: Tensor, count: int) -> list[float]:
    flat = (torch.view_as_real(leaf) if leaf.is_complex() else leaf).reshape(-1)
    places = torch.arange(min(count, flat.numel()), device=flat.device) * _STEP % flat.numel()
    norm = torch.linalg.vector_norm(flat, dtype=torch.promote_types(flat.dtype, torch.float32))
    numbers: list[float] = [*flat[places].cpu().double().tolist(), float(norm)]
    return numbers
