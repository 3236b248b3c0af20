"""Forward mode in one thread at a time, and how what it gives is verified.

Torch has one level of forward mode for the whole process, whose end takes the tangents of all.

Forward mode has rules of its own: those of torch, and those that a user wrote. A rule may be wrong, or lose a tangent.
Reverse mode is the specification. With u = C J v and the product Jᵀ u of reverse mode, both sides of ⟨Jᵀ u, v⟩ = ⟨u, J v⟩ are
at hand. They differ by ⟨u, e⟩ if J v is wrong by e. This shows every e but one with ⟨u, e⟩ = 0, which is no accident where
entries of J v are lost, and zero: if C is diagonal, their u is zero as well. So wherever an entry of J v is zero, one more
backward pass shows that no entry there depends on params along v. The error of a single sample is seen down to 10⁻³ of the
product in single precision, and down to 10⁻⁶ in double precision.
"""

from collections.abc import Callable
from threading import RLock
from typing import Any

import torch
from torch import Tensor
from torch.func import jvp

from pure_batchops import tracing
from pure_batchops.noise import uniform

ONE_AT_A_TIME = RLock()

_AT_ONCE = 2**20  # numbers whose products are in memory at once

Pull = Callable[[list[Tensor]], list[Tensor]]
Pair = tuple[list[Tensor], list[Tensor]]


def jvp_alone(function: Callable[..., Any], primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Any, Any]:
    """`torch.func.jvp`, which waits for other threads."""
    if tracing.compiling():  # the compiler traces no lock
        return jvp(function, primals, tangents)
    with ONE_AT_A_TIME:
        return jvp(function, primals, tangents)


def refuted(pull: Pull, along: Pair, pulled: Pair) -> str:
    """Why J v of forward mode cannot be right, in words; nothing if it is.

    Args:
        pull: u ↦ Jᵀ u by reverse mode.
        along: v and J v, the second by forward mode.
        pulled: u and Jᵀ u for any u that depends on J v.

    Returns:
        The reason, or "".
    """
    (v, pushed), (u, product) = along, pulled
    coarse = max(torch.finfo(leaf.dtype).eps for leaf in (*v, *pushed))
    if coarse > 1e-6:
        return "half precision is too coarse to verify it"
    by_reverse, by_forward = _inner(product, v), _inner(u, pushed)
    # In single precision rounding leaves some 1e-6, and this allows 6e-6. One wrong sample among 128 makes some 1e-2.
    if not (by_reverse - by_forward).abs() <= coarse**0.75 * by_forward.abs():
        return f"reverse mode gives {float(by_reverse):.6g} where forward mode gives {float(by_forward):.6g}"
    zeros = sum(leaf.numel() - int(torch.count_nonzero(leaf)) for leaf in pushed)
    # Among millions of entries, rounding makes one zero now and then.
    if zeros > 1e-6 * sum(leaf.numel() for leaf in pushed) and _depends_where_zero(pull, v, pushed, coarse**0.75):
        return "entries of J v are zero that depend on params along v"
    return ""


def _depends_where_zero(pull: Pull, v: list[Tensor], pushed: list[Tensor], rounding: float) -> bool:
    """Whether entries that are zero in J v depend on params along v, by more than what rounds to zero."""
    noise = [torch.where(leaf == 0, 1 + uniform(0, leaf.shape, like=leaf), 0) for leaf in pushed]
    largest = max(float(leaf.abs().max()) for leaf in pushed if leaf.numel() > 0)
    return not abs(float(_inner(pull(noise), v))) <= rounding * largest


def _inner(left: list[Tensor], right: list[Tensor]) -> Tensor:
    """The inner product of two trees. Torch sums pairwise, so that rounding does not grow with the numbers of a part."""
    first = left[0]
    parts = [_by_parts(a, b) for a, b in zip(left, right, strict=True)]
    return torch.stack([part.to(first.device) for part in parts]).sum()


def _by_parts(a: Tensor, b: Tensor) -> Tensor:
    if a.numel() <= _AT_ONCE:
        return (a * b).sum().double()
    size = max(1, _AT_ONCE * len(a) // a.numel())
    return torch.stack([(x * y).sum() for x, y in zip(a.split(size), b.split(size), strict=True)]).double().sum()
