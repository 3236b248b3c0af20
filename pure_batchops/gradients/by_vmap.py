"""The gradients of samples by vmap over the loss of one sample: the way for every loss that vmap can map."""

from collections.abc import Callable

from torch import Tensor

from pure_batchops import tracing
from pure_batchops.gradients.attempts import attempted
from pure_batchops.gradients.single import number_of_samples, single_samples
from pure_batchops.gradients.taps import LayerGradients, formed_gradients, tappable_weights, tapped_gradients
from pure_batchops.traits import traits_of
from pure_batchops.trees import leaves
from pure_batchops.types import Batch, Buffers, Params, SampleLosses

LossOfOne = Callable[..., Tensor]


def gradients_by_vmap(
    loss: SampleLosses, params: Params, buffers: Buffers, batch: Batch, losses: Tensor | None, held: int
) -> LayerGradients | None:
    """The gradients of all samples: formed if they have at most `held` numbers, else by layer.

    `losses` are those of the batch, which only tell how many samples there are; None if the batch shall tell.

    Returns:
        What `LayerGradients` says; None if more numbers than `held` would be formed, or vmap cannot map the loss.
    """
    axis, flat = traits_of(loss).batch_dim, leaves(params)
    n = number_of_samples(loss, params, buffers, batch) if losses is None else len(losses)
    loss_of_one, samples = single_samples(loss, params, buffers, batch, n)
    is_small = n * sum(leaf.numel() for leaf in flat) <= held
    if not samples:
        return tracing.refused("by vmap", f"no tensor of the batch has {n} samples along axis {axis}")
    if tracing.compiling():  # the compiler does not see the mode that intercepts calls
        return formed_gradients(loss_of_one, flat, samples) if is_small else None
    return _formed(loss_of_one, flat, samples) if is_small else _by_layer(loss_of_one, flat, samples, held)


def _formed(loss_of_one: LossOfOne, flat: list[Tensor], samples: list[Tensor]) -> LayerGradients | None:
    """The formed gradients; None for a loss that vmap cannot map."""
    # Such a loss still has derivatives on the slow path, which raises the loss's own errors.
    found, error = attempted(formed_gradients, loss_of_one, flat, samples)
    if error is None:
        return found
    return tracing.refused("by vmap", f"the loss cannot be mapped over samples: {type(error).__name__}: {error}")


def _by_layer(loss_of_one: LossOfOne, flat: list[Tensor], samples: list[Tensor], held: int) -> LayerGradients | None:
    try:
        taps = tappable_weights(loss_of_one, flat, [sample[0] for sample in samples])
        tapped = {number for number, _ in taps}
        rest = sum(leaf.numel() for number, leaf in enumerate(flat) if number not in tapped)
        if len(samples[0]) * rest > held:
            return tracing.refused("by vmap", f"gradients outside of known layers have more than {held} numbers")
        gradients = tapped_gradients(loss_of_one, flat, samples, taps)
    except Exception:
        if _formed(loss_of_one, flat, [sample[:1] for sample in samples]) is None:
            return None
        raise  # torch alone can map the loss, so that the error is ours: a bug in a kind of layer must not hide
    return (
        tracing.refused("by vmap", "the loss calls other layers for all samples than for one")
        if gradients is None
        else gradients
    )
