"""Does a sample's loss depend on other samples? Its value and its gradient are compared, alone and in its batch."""

from collections.abc import Callable

import torch
from torch import Tensor

from pure_batchops import tracing
from pure_batchops.gradients.attempts import attempted
from pure_batchops.gradients.sums import Sums

_EXACT, _ROUGH, _FLOOR = 0.55, 0.375, 0.75
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
    values = refuse_mixed_losses(values, sums[0].losses, sums[1].losses)
    return tracing.raise_or_nan(_same_gradients(sums, again), values, lambda _: _error_of_gradients(sums))


def refuse_mixed_losses(values: Tensor, alone: Tensor, losses: Tensor) -> Tensor:
    """The values of the samples, if each sample has the same loss alone as in its batch.

    Returns:
        As `refuse_mixed`.

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

    return tracing.raise_or_nan(same_losses(alone, losses), values, error)


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
    if sums is None and unseen_uses is None:
        return 1.0
    holds = {} if unseen_uses is None else {"a use of a weight was not seen": unseen_uses == 0}
    if sums is not None:
        holds["samples depend on each other"] = same_losses(sums[0].losses, sums[1].losses)
    for why, each in holds.items():
        if tracing.readable(each.all()) is False:
            return tracing.refused("by vmap", why)
    if sums is not None:
        holds["gradients of samples depend on each other"] = _same_gradients(sums, again)
    good = torch.stack(torch.broadcast_tensors(*holds.values())).all(0)
    readable = tracing.readable(good.all())
    if readable is None:
        return torch.where(good, 1.0, torch.nan)
    return 1.0 if readable else tracing.refused("by vmap", list(holds)[-1])


def same_losses(alone: Tensor, losses: Tensor) -> Tensor:
    """Whether each sample has the same loss alone as in its batch, `(n,)`."""
    # Rounding differs between one sample and many. A loss that mixes samples is off by a factor, not by rounding.
    tolerance = torch.finfo(losses.dtype).eps ** (1 / 3)
    same = (alone - losses).abs() <= tolerance * (1 + losses.abs())
    return same | ~torch.isfinite(losses)  # NaN and inf show up in the result anyway


def _same_gradients(sums: Sums, again: Again) -> Tensor:
    """Whether the gradients of all samples are those of the batch, `()`."""
    exact = _within(sums, _EXACT)
    holds = tracing.readable(exact)
    if holds:
        return exact
    second, error = (None, None) if holds is None else attempted(again)
    if second is None:
        tracing.log("gradients alone and in the batch are compared roughly: %s", error or "no number can be read")
        return _within(sums, _ROUGH)
    return _within(second, _EXACT)


def _within(sums: Sums, power: float) -> Tensor:
    gaps, sizes = _gaps_and_sizes(sums)
    total, epsilon = sizes.norm(), max(each.epsilon for each in sums)
    return (gaps <= epsilon**power * sizes + epsilon**_FLOOR * total).all() | ~torch.isfinite(total)


def _gaps_and_sizes(sums: Sums) -> tuple[Tensor, Tensor]:
    """For each leaf, the norm of the difference of the sums, and of the sum of the batch."""
    pairs = list(zip(sums[0].gradient, sums[1].gradient, strict=True))
    device = pairs[0][0].device
    gaps = [(alone.double() - batch.double()).norm().to(device) for alone, batch in pairs]
    return torch.stack(gaps), torch.stack([batch.double().norm().to(device) for _, batch in pairs])
