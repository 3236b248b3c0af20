"""What an average takes: products of floating-point numbers, and weights."""

import math
from typing import Any

from torch import Tensor

from pure_batchops.trees import named, named_leaves
from pure_batchops.types import Tree


def check_product(product: Tree) -> None:
    """A product is a tree of floating-point tensors."""
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
    """The weight as a number, finite and not negative."""
    if isinstance(weight, (str, bytes)) or weight is None or (isinstance(weight, Tensor) and weight.numel() != 1):
        msg = f"a weight must be a number, got {weight!r}"
        raise TypeError(msg)
    number = float(weight)
    if not math.isfinite(number) or number < 0:
        msg = f"a weight must be finite and not negative, got {number}"
        raise ValueError(msg)
    return number
