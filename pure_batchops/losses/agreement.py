"""A criterion must say of a batch what it says of its samples: their mean, their sum, or each of them.

Alone in its batch a sample loses the weight that the batch gives it: `F.cross_entropy(output, target, weight=w)` divides by
the weights of the samples that it sees. The criterion is therefore evaluated once more, on the whole batch. Where it raises
an error, or returns something else than numbers for the samples, it is taken to be of one sample alone.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pure_batchops.members import is_member_alone
from pure_batchops.tracing import readable
from pure_batchops.trees import leaves, tree_map
from pure_batchops.types import Criterion, Tree


def value_on_batch(criterion: Criterion, outputs: Tree, targets: Tree) -> Any:
    """The criterion of the whole batch. It gets copies, as it may write into the outputs.

    A vmap over this one batch takes the criterion along the same ways as the vmap over the samples.

    Returns:
        What the criterion returns; None if it raises an error.
    """
    copies = tree_map(lambda leaf: leaf.detach().clone() if isinstance(leaf, Tensor) else leaf, outputs)
    one = tree_map(lambda leaf: leaf.unsqueeze(0) if isinstance(leaf, Tensor) else leaf, (copies, targets))
    with torch.no_grad():
        try:
            return torch.vmap(criterion, in_dims=tree_map(lambda leaf: 0 if isinstance(leaf, Tensor) else None, one))(*one)[0]
        except Exception:
            return None


def agreeing(losses: Tensor, whole: Any, outputs: Tree, batch_dim: int) -> Tensor:
    """The losses of the samples, if the value on the batch agrees with them. A loss that is NaN has a NaN derivative.

    Returns:
        The losses, `(n,)`.

    Raises:
        ValueError: if the value on the batch is neither the mean nor the sum of the losses, or other values than the losses.
            Under vmap and torch.compile the losses and their derivatives are NaN instead.
    """
    found = losses.detach()
    if isinstance(whole, Tensor) and (whole.numel() == 1 or whole.shape == found.shape):
        losses = known(_agree(whole, found, outputs), losses, outputs, batch_dim, lambda: _error(whole, found))
    return known(~found.isnan(), losses, outputs, batch_dim)


def known(good: Tensor, losses: Tensor, outputs: Tree, batch_dim: int, error: Callable[[], Exception] | None = None) -> Tensor:
    """The losses if all are good; otherwise the error, or NaN in the losses and in their derivatives."""
    holds = readable(good.all() if good.dim() else good)
    if holds:
        return losses
    if holds is False and error is not None and not is_member_alone():
        raise error()
    # torch.where(good, losses, nan) would have the derivative zero. So has NaN times the loss of an ignored label: an entry
    # of the outputs is added. The tanh of an infinite one is finite, and NaN times any of its derivatives is NaN.
    bad = torch.where(good, torch.zeros_like(losses), torch.nan)
    entries = [
        leaf.movedim(batch_dim, 0).reshape(len(losses), -1)[:, 0]
        for leaf in leaves(outputs)
        if isinstance(leaf, Tensor) and leaf.is_floating_point() and leaf.numel() > 0
    ]
    return sum((bad * entry.tanh().to(losses.dtype) for entry in entries), losses * (1 + bad))


def _agree(whole: Tensor, losses: Tensor, outputs: Tree) -> Tensor:
    """Whether the value on the batch is the mean or the sum, or which of the values are the losses, up to rounding."""
    floats = [leaf.detach() for leaf in (losses, *leaves(outputs)) if isinstance(leaf, Tensor) and leaf.is_floating_point()]
    epsilon = max(torch.finfo(leaf.dtype).eps for leaf in floats)
    # A loss near zero is often a difference of numbers as large as the outputs.
    largest = torch.stack([leaf.abs().max().to(losses) for leaf in floats[1:]] or [losses.new_zeros(())]).max()
    tolerance = epsilon**0.5 * losses.abs().mean() + 8 * epsilon * largest
    if whole.numel() > 1:
        return ~whole.isfinite() | ((whole - losses).abs() <= tolerance + epsilon**0.5 * losses.abs())
    number, n = whole.reshape(()), torch.ones_like(losses).sum()  # the compiler cannot multiply by a length under vmap
    near_sum = (number - losses.sum()).abs() <= n * tolerance
    return ~number.isfinite() | near_sum | ((number - losses.mean()).abs() <= tolerance)


def _error(whole: Tensor, losses: Tensor) -> ValueError:
    n = len(losses)
    if whole.numel() == 1:
        expected = f"the mean {float(losses.mean()):.6g} or the sum {float(losses.sum()):.6g} of its values for the samples"
        seen = f"{float(whole):.6g}"
    else:
        worst = int((whole - losses).abs().argmax())
        expected = f"its values for the samples, {float(losses[worst]):.6g} for sample {worst}"
        seen = f"{float(whole[worst]):.6g}"
    return ValueError(
        f"criterion must give for a batch of {n} samples {expected}, got {seen}: alone in its batch a sample loses the weight "
        "that the batch gives it (class weights, labels that are ignored); sum instead, as in lambda output, target: "
        "F.cross_entropy(output, target, weight=w, reduction='sum'), and the mean over the samples is taken for you. A "
        'criterion that is meant for one sample says so in its first line: assert len(output) == 1, f"got {len(output)}"'
    )
