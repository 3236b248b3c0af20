"""Batches that hold tensors which all samples share, such as class weights, beside those that have samples."""

from collections.abc import Iterator

import torch
from torch import Tensor

from pure_batchops.batches import has_samples
from pure_batchops.losses.checked import checked_losses
from pure_batchops.traits import marked, traits_of
from pure_batchops.trees import leaves, tree_flatten, tree_unflatten
from pure_batchops.types import Batch, Buffers, Params, SampleLosses


def without_shared(
    loss: SampleLosses, params: Params, buffers: Buffers, batch: Batch, axis: int
) -> tuple[SampleLosses, Batch]:
    """A loss and a batch in which all tensors with the axis of the samples have one length, so that it can be cut.

    If the tensors disagree, one forward pass counts the losses. The new batch holds only the tensors that have as many
    samples; the new loss puts the others back. Parts of the new batch are then safe, even if a part happens to have the
    length of a shared tensor.

    Returns:
        The loss and the batch, unchanged if all lengths agree.

    Raises:
        ValueError: as `checked_losses`, and if no tensor has as many samples as there are losses.
    """
    lengths = {leaf.shape[axis] for leaf in leaves(batch) if has_samples(leaf, axis)}
    if len(lengths) == 1:
        return loss, batch
    with torch.no_grad():
        n = len(checked_losses(loss)(params, buffers, batch))
    if n not in lengths:
        msg = f"batch must hold a tensor with {n} samples along axis {axis}, as many as there are losses"
        raise ValueError(msg)
    flat, spec = tree_flatten(batch)
    has_n = [has_samples(leaf, axis, n) for leaf in flat]

    def loss_of_own(params: Params, buffers: Buffers, own: list[Tensor]) -> Tensor:
        given: Iterator[Tensor] = iter(own)
        every = [next(given) if is_own else leaf for leaf, is_own in zip(flat, has_n, strict=True)]
        return loss(params, buffers, tree_unflatten(every, spec))

    return marked(loss_of_own, traits_of(loss)), [leaf for leaf, is_own in zip(flat, has_n, strict=True) if is_own]
