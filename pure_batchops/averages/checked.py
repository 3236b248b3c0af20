"""What an average takes: products of floating-point numbers, and weights."""

import math
from typing import Any

from torch import Tensor

from pure_batchops import tracing
from pure_batchops.trees import named, named_leaves
from pure_batchops.types import Estimate, Tree

LARGEST = 1e15
"""The largest weight of a batch. Sums of products of half precision are kept in float32, which ends at 3e38."""


def check_product(product: Tree) -> None:
    """A product is a tree of floating-point tensors."""
    if isinstance(product, Estimate):
        msg = "a product must be a vector, got an Estimate, whose errors have no mean; use averaged_with_error(averaged(op))"
        raise TypeError(msg)
    for path, leaf in named_leaves(product).items():
        if not isinstance(leaf, Tensor) or not (leaf.is_floating_point() or leaf.is_complex()):
            kind = leaf.dtype if isinstance(leaf, Tensor) else type(leaf).__name__
            msg = f"a product must hold floating-point tensors, got {kind} at {named(path)}"
            raise TypeError(msg)


def check_finite(product: Tree) -> None:
    """A product holds finite numbers. This waits for the product."""
    for path, leaf in named_leaves(product).items():
        if not leaf.isfinite().all():
            first = leaf[~leaf.isfinite()][0].item()
            msg = f"a product must be finite, got {first} at {named(path)}; look at this batch, or average with finite=False"
            raise ValueError(msg)


def checked_weight(weight: Any) -> float:
    """The weight as a number from 0 to `LARGEST`."""
    if not _is_number(weight):
        msg = f"a weight must be a number, got {weight!r}"
        raise TypeError(msg)
    if isinstance(weight, Tensor) and tracing.requires_grad(weight):
        msg = "a weight must be a number, which has no gradient, got a tensor that requires gradients; detach it"
        raise TypeError(msg)
    number = float(weight)
    if not math.isfinite(number) or number < 0:
        msg = f"a weight must be finite and not negative, got {number}"
        raise ValueError(msg)
    if number > LARGEST:
        msg = (
            f"a weight must be at most {LARGEST:g}, got {number:g}; divide all weights by one number, which changes no average"
        )
        raise ValueError(msg)
    return number


def _is_number(weight: Any) -> bool:
    if isinstance(weight, Tensor):
        return weight.numel() == 1 and not weight.is_complex()
    return isinstance(weight, (int, float)) or (hasattr(weight, "__float__") and getattr(weight, "imag", 0) == 0)


def check_total(weight: float) -> None:
    """The total weight is positive, and large enough that products times weights keep their precision."""
    if weight == 0:
        msg = "the total weight must be positive, got zero (batches without points?)"
        raise ValueError(msg)
    if weight < 1 / LARGEST:
        msg = (
            f"the total weight must be at least {1 / LARGEST:g}, got {weight:g}; multiply all weights by one number: the "
            "average stays"
        )
        raise ValueError(msg)
