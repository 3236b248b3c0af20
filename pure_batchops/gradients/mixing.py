"""Does a sample's loss depend on other samples? Its value and its gradient are compared, alone and in its batch."""

from collections.abc import Callable

import torch
from torch import Tensor

from pure_batchops import tracing
from pure_batchops.gradients.attempts import attempted
from pure_batchops.gradients.layer import wide
from pure_batchops.gradients.sums import Sums

_EXACT, _ROUGH, _FLOOR = 0.6, 0.375, 0.75
"""Tolerances as powers of the epsilon: where the comparison can be made again in double precision, and where it cannot; and
what rounding adds to a leaf whose gradient is small beside the others."""


Again = Callable[[], Sums]
"""The same two sums once more, in double precision, where no kink flips by rounding."""


def refuse_mixed(values: Tensor, sums: Sums, again: Again) -> Tensor:
    """The values of the samples, if each sample has the same loss and gradient alone as in its batch.

    Returns:
        The values, `(n, …)`. Where no number can be read (under vmap and torch.compile), those of samples with another loss
        are NaN, or all if a gradient differs.

    Raises:
        ValueError: if a sample has another loss or another gradient alone.
    """
    (alone, in_batch), same, same_gradients = _decisive(sums, again)
    values = tracing.raise_or_nan(same, values, lambda _: _error_of_losses(alone.losses, in_batch.losses))
    return tracing.raise_or_nan(same_gradients, values, lambda _: _error_of_gradients((alone, in_batch)))


def refuse_mixed_losses(values: Tensor, alone: Tensor, losses: Tensor) -> Tensor:
    """The values of the samples, if each sample has the same loss alone as in its batch.

    Returns:
        As `refuse_mixed`.

    Raises:
        ValueError: if a sample has another loss alone.
    """
    return tracing.raise_or_nan(same_losses(alone, losses), values, lambda _: _error_of_losses(alone, losses))


def _error_of_losses(alone: Tensor, losses: Tensor) -> ValueError:
    worst = int((alone - losses).abs().argmax())
    return ValueError(
        f"loss must give a sample the same value alone as in its batch: sample {worst} has "
        f"{float(losses[worst]):.6g} in the batch and {float(alone[worst]):.6g} alone; samples must not depend on "
        "each other (a mean over the batch inside the loss?)"
    )


def _error_of_gradients(sums: Sums) -> ValueError:
    gaps, sizes = _gaps_and_sizes(sums)
    worst = int((gaps / sizes.clamp_min(1e-300)).argmax())
    return ValueError(
        "loss must give a sample the same gradient alone as in its batch: the values agree, but a random sum of the gradients "
        f"differs by {float(gaps.norm() / sizes.norm()):.2g} of its norm, most in leaf {worst} of params; samples must not "
        "depend on each other (a mean over the batch inside the loss?). hessian(loss) and gauss_newton(loss, held=0) take the "
        "batch as a whole"
    )


def verified(sums: Sums | None, again: Again, unseen_uses: Tensor | None) -> Tensor | float | None:
    """Check that samples are the same alone and in the batch, and that every use of a weight was intercepted.

    Args:
        sums: the losses and gradients alone and in the batch; None if they are known to be the same.
        again: the comparison in double precision.
        unseen_uses: for each sample, the number of weights with a use that was not intercepted, `(n,)`; None if all were.

    Returns:
        1 if both hold, else None. Where no number can be read (under vmap and torch.compile), a tensor `(n,)`: 1 for each
        sample for which both hold, else NaN.
    """
    holds = {} if unseen_uses is None else {"a use of a weight was not seen": unseen_uses == 0}
    if sums is not None:
        _, holds["samples depend on each other"], holds["gradients of samples depend on other samples"] = _decisive(
            sums, again
        )
    for why, each in holds.items():
        if tracing.readable(each.all()) is False:
            return tracing.refused("by vmap", why)
    good = torch.stack(torch.broadcast_tensors(*holds.values())).all(0) if holds else None
    return 1.0 if good is None or tracing.readable(good.all()) else torch.where(good, 1.0, torch.nan)


def same_losses(alone: Tensor, losses: Tensor, epsilon: float | None = None) -> Tensor:
    """Whether each sample has the same loss alone as in its batch, `(n,)`. `epsilon` is that of the numbers inside."""
    # Rounding differs between one sample and many. A loss that mixes samples is off by a factor, not by rounding.
    tolerance = (epsilon or torch.finfo(losses.dtype).eps) ** (1 / 3)
    same = (alone - losses).abs() <= tolerance * (1 + losses.abs())
    return same | ~torch.isfinite(losses)  # NaN and inf show up in the result anyway


def _decisive(sums: Sums, again: Again) -> tuple[Sums, Tensor, Tensor]:
    """The sums to judge by: these if they agree, else those in double precision, if the loss runs in it.

    Returns:
        The sums, whether each sample has the same loss, `(n,)`, and whether all have the same gradients, `()`.
    """
    same, same_gradients = _agreement(sums, _EXACT)
    holds = tracing.readable(same.all() & same_gradients)
    if holds:
        return sums, same, same_gradients
    second, error = (None, None) if holds is None else attempted(again)
    if second is not None:
        return second, *_agreement(second, _EXACT)
    tracing.log("gradients alone and in the batch are compared roughly: %s", error or "no number can be read")
    return sums, *_agreement(sums, _ROUGH)


def _agreement(sums: Sums, power: float) -> tuple[Tensor, Tensor]:
    alone, in_batch = sums
    epsilon = max(alone.epsilon, in_batch.epsilon)
    gaps, sizes = _gaps_and_sizes(sums)
    total = sizes.norm()
    same_gradients = (gaps <= epsilon**power * sizes + epsilon**_FLOOR * total).all() | ~torch.isfinite(total)
    return same_losses(alone.losses, in_batch.losses, epsilon), same_gradients


def _gaps_and_sizes(sums: Sums) -> tuple[Tensor, Tensor]:
    """For each leaf, the norm of the difference of the sums, and of the sum of the batch."""
    pairs = list(zip(sums[0].gradient, sums[1].gradient, strict=True))
    device = pairs[0][0].device
    gaps = [(wide(alone).reshape(-1) - wide(batch).reshape(-1)).norm().to(device) for alone, batch in pairs]
    return torch.stack(gaps), torch.stack([wide(batch).norm().to(device) for _, batch in pairs])
