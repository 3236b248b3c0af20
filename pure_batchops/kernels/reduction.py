"""The reduction of a loss by element."""

from torch import Tensor


def reduced(values: Tensor, reduction: str) -> Tensor:
    """The values, their mean or their sum."""
    if reduction not in {"none", "mean", "sum"}:
        msg = f"reduction must be 'none', 'mean' or 'sum', got {reduction!r}"
        raise ValueError(msg)
    if reduction == "none":
        return values
    return values.mean() if reduction == "mean" else values.sum()
