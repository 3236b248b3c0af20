"""Does a sample's loss depend on other samples? It is compared alone and in its batch."""

import torch
from torch import Tensor

from pure_batchops import tracing


def refuse_mixed(values: Tensor, alone: Tensor, losses: Tensor) -> Tensor:
    """The values of the samples, if each sample has the same loss alone as in its batch.

    Returns:
        The values, `(n,)`. Where no number can be read (under vmap and torch.compile), those of other samples are NaN.

    Raises:
        ValueError: if a sample has another loss alone.
    """

    def error(same: Tensor) -> ValueError:  # noqa: ARG001
        worst = int((alone - losses).abs().argmax())
        return ValueError(
            f"loss must give a sample the same value alone as in its batch: sample {worst} has "
            f"{float(losses[worst]):.6g} in the batch and {float(alone[worst]):.6g} alone; samples must not depend on "
            "each other (a mean over the batch inside the loss?)"
        )

    return tracing.raise_or_nan(_same(alone, losses), values, error)


def verified(alone: Tensor, losses: Tensor | None, unseen_uses: Tensor | None) -> Tensor | float | None:
    """Check that each sample's loss is the same alone and in the batch, and that every use of a weight was intercepted.

    Args:
        alone: the loss of each sample alone, `(n,)`.
        losses: the losses in the batch, `(n,)`; None if they are known to be the same.
        unseen_uses: for each sample, the number of weights with a use that was not intercepted, `(n,)`; None if all were.

    Returns:
        1 if both hold, else None. Where no number can be read (under vmap and torch.compile), a tensor `(n,)`: 1 for each
        sample for which both hold, else NaN.
    """
    if losses is None and unseen_uses is None:
        return 1.0
    same = torch.ones_like(alone, dtype=torch.bool) if losses is None else _same(alone, losses)
    seen = torch.ones_like(same) if unseen_uses is None else unseen_uses == 0
    holds = tracing.readable((same & seen).all())
    if holds is None:
        return torch.where(same & seen, 1.0, torch.nan)
    if not holds:
        is_mixed = not same.all()
        tracing.log("by vmap refused: %s", "samples depend on each other" if is_mixed else "a use of a weight was not seen")
    return 1.0 if holds else None


def _same(alone: Tensor, losses: Tensor) -> Tensor:
    # Rounding differs between one sample and many. A loss that mixes samples is off by a factor, not by rounding.
    tolerance = torch.finfo(losses.dtype).eps ** (1 / 3)
    same = (alone - losses).abs() <= tolerance * (1 + losses.abs())
    return same | ~(torch.isfinite(losses) | torch.isfinite(alone))  # NaN and inf of both show up in the result anyway
