"""Whether two sides give the same number: nothing else is timed."""

from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.cases.operations import REGULARIZATION

TOLERANCE = 1e-4
"""Float32 products of the same number, summed in another order, differ by some 1e-7 to 1e-5 of their norm."""

LAST_DIGITS = 2 * torch.finfo(torch.float32).eps
"""Products that differ by at most this share of their norm count as equal, even where only a small part is compared."""

SOLVED = 0.01
"""Solutions that differ by at most this share of their norm are the same: solves stop at a residual of 0.001."""

VARYING: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "inverse_harmonic_mean": lambda product, v: product * REGULARIZATION - v,
}
"""The part of a product that is compared, where most of the product is the vector itself."""

Agreement = Callable[[Tensor, Tensor, Tensor, str], tuple[float | None, str | None]]
"""From their result, ours, the vector and the operation to the difference, and a remark if it is too large."""


def compared(theirs: Tensor, ours: Tensor, v: Tensor, operation: str) -> tuple[float | None, str | None]:
    """How much two products differ, over the norm of ours, and a remark if that is more than rounding."""
    if theirs.shape != ours.shape:
        return None, f"another shape, {tuple(theirs.shape)} and not {tuple(ours.shape)}: not timed"
    part = VARYING.get(operation, lambda product, _: product)
    size = float(ours.norm())
    theirs, ours = (part(product.detach().double(), v.double()).flatten() for product in (theirs, ours))
    distance = float((theirs - ours).norm())
    difference = distance / float(ours.norm())
    if difference <= TOLERANCE or distance <= LAST_DIGITS * size:
        return difference, None
    factor = float(theirs @ ours / (ours @ ours))
    if float((theirs - factor * ours).norm()) <= TOLERANCE * float(theirs.norm()):
        return difference, f"another number, {factor:.4g} times ours: not timed"
    return difference, "another number: not timed"


def solved(theirs: Tensor, ours: Tensor, _v: Tensor, _operation: str) -> tuple[float | None, str | None]:
    """How much two solutions differ, over the norm of ours, and a remark if that is more than the residuals allow."""
    difference = float((ours - theirs).norm() / ours.norm())
    return difference, None if difference <= SOLVED else "another number: not timed"
