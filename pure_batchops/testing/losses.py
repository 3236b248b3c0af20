"""Every law of a loss, in one line."""

from collections.abc import Collection

from pure_batchops import checks
from pure_batchops.testing import options, pure_losses, samples
from pure_batchops.testing.case import Law, LossCase
from pure_batchops.traits import traits_of
from pure_batchops.types import Batch, Buffers, Params, SampleLosses

LOSS_LAWS: dict[str, Law] = {
    "shape": samples.shape,
    "repeatable": pure_losses.repeatable,
    "untouched": pure_losses.untouched,
    "depends": pure_losses.depends,
    "closed": pure_losses.closed,
    "independent": samples.independent,
    "order": samples.order,
    "ensemble": pure_losses.ensemble,
}
"""Each law of a loss, by its name. Its docstring is the law in words."""


def check_loss(
    loss: SampleLosses,
    params: Params,
    buffers: Buffers,
    batch: Batch,
    *,
    batch_dim: int | None = None,
    laws: Collection[str] = tuple(LOSS_LAWS),
    rtol: float | None = None,
    atol: float | None = None,
    seed: int = 0,
) -> tuple[str, ...]:
    """Check the laws of a loss of your own at one point, `loss(params, buffers, batch) -> (n,)`.

    The law `"independent"` is what `declared(loss, independent=True)` claims. It compares the loss and the gradient of each
    sample alone with those in the batch, at params and at two points near them, in double precision where the loss runs in it.

    The loss is given copies: params, buffers and batch stay as they are. In float64 a law is checked to seven digits. The
    check takes n gradients of a batch and n of single samples, so a small batch is best.

    Args:
        loss: the loss.
        params: a tree of floating-point tensors.
        buffers: what else the loss reads.
        batch: a batch of at least two samples for the laws `"independent"` and `"order"`. Random samples are better than
            equal ones, between which a loss that mixes them may see no difference.
        batch_dim: the axis of the samples in the tensors of the batch, by default the one that the loss declares, or 0.
        laws: the names of the laws to check, by default all of `LOSS_LAWS`.
        rtol: the relative tolerance, by default that of `torch.testing.assert_close` for the dtype.
        atol: the absolute tolerance, likewise. In addition 32 epsilons of the largest number are allowed for rounding.
        seed: of the random params near the given ones, weights and orders.

    Returns:
        The names of the laws that were checked. A law with nothing to check, such as the order of one sample, is left out.

    Raises:
        AssertionError: if a law is broken, with the law in words, the number that differs most, and what it should be.
        TypeError: if loss is no function.
        ValueError: if laws are not among `LOSS_LAWS`, or a tolerance is negative.

    Examples:
        >>> import torch
        >>> def loss(params, buffers, x):
        ...     return (params["w"] * x).square()
        >>> def centred(params, buffers, x):
        ...     return (params["w"] * (x - x.mean())).square()
        >>> point = ({"w": torch.tensor(0.5)}, {}, torch.tensor([1.0, 2.0, 4.0]))
        >>> check_loss(loss, *point)
        ('shape', 'repeatable', 'untouched', 'depends', 'closed', 'independent', 'order', 'ensemble')
        >>> check_loss(centred, *point)
        Traceback (most recent call last):
        AssertionError: independent: The samples must be independent: each has the same loss, and the same gradient ...
    """
    checks.loss(loss)
    axis = traits_of(loss).batch_dim if batch_dim is None else checks.axis("batch_dim", batch_dim)
    seed = checks.whole("seed", seed, least=0)
    case = LossCase(loss, params, buffers, batch, axis, seed, options.tolerance(rtol, atol))
    return options.hold(case, options.chosen(laws, LOSS_LAWS))
