"""The gradient of each sample's loss alone, a chunk at a time: by vmap, or one by one where vmap cannot map the loss."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.func import grad_and_value

from pure_batchops import tracing
from pure_batchops.budget import spans
from pure_batchops.gradients.attempts import attempted, of_part
from pure_batchops.gradients.layer import wide
from pure_batchops.gradients.single import single_samples
from pure_batchops.gradients.sums import Sum, Sums, doubled, joined, sum_of_batch, sum_of_rows
from pure_batchops.traits import traits_of
from pure_batchops.trees import leaves
from pure_batchops.types import Batch, Buffers, Params, SampleLosses


def alone_in_chunks(
    loss: SampleLosses,
    params: Params,
    buffers: Buffers,
    batch: Batch,
    n: int,
    chunk_size: int | None,
    kept: Callable[[list[Tensor], Tensor], Any],
) -> tuple[list[Any], Sum]:
    """The gradients of n samples, each alone, at most a chunk at once.

    Returns:
        `kept(gradients, squared norms)` of each chunk, and the sum of the gradients of all.

    Raises:
        ValueError: if no tensor of the batch holds n samples, or the loss cannot take one sample alone.
    """
    flat = leaves(params)
    loss_of_one, samples = single_samples(loss, params, buffers, batch, n)
    if not samples:
        msg = f"batch must hold a tensor with {n} samples along axis {traits_of(loss).batch_dim}, as many as there are losses"
        raise ValueError(msg)
    results, sums, found = [], [], None
    for start, size in spans(n, sum(leaf.numel() for leaf in flat), chunk_size):
        part = [sample.narrow(0, start, size) for sample in samples]
        found = _mapped(loss_of_one, flat, part) if start == 0 or found is not None else None
        gradients, norms, losses = _by_loop(loss_of_one, flat, part) if found is None else found
        results.append(kept(gradients, norms))
        sums.append(sum_of_rows(gradients, losses, start))
    return results, joined(sums)


def _mapped(loss_of_one: Callable[..., Tensor], flat: list[Tensor], samples: list[Tensor]) -> Any:
    """The gradients, squared norms and losses of samples; None for a loss that vmap cannot map."""
    if tracing.compiling():  # the compiler cannot go on after an error
        return _by_vmap(loss_of_one, flat, samples)
    found, error = attempted(_by_vmap, loss_of_one, flat, samples)
    return found if error is None else tracing.refused("chunks by vmap", f"{type(error).__name__}: {error}")


def _by_vmap(loss_of_one: Callable[..., Tensor], flat: Any, samples: Any) -> Any:
    def of_one(*sample: Tensor) -> Any:  # C3
        return _of_one(loss_of_one, flat, *sample)

    return torch.vmap(of_one)(*samples)


def _by_loop(loss_of_one: Callable[..., Tensor], flat: Any, samples: Any) -> Any:
    found = [of_part("one sample", _of_one, loss_of_one, flat, *sample) for sample in zip(*samples, strict=True)]
    gradients, norms, losses = zip(*found, strict=True)
    return [torch.stack(group) for group in zip(*gradients, strict=True)], torch.stack(norms), torch.stack(losses)


def _of_one(loss_of_one: Callable[..., Tensor], flat: Any, *sample: Tensor) -> Any:
    gradient, value = grad_and_value(loss_of_one)(flat, *sample)
    parts = [wide(leaf).reshape(-1) for leaf in gradient]
    norm = torch.stack([torch.dot(leaf, leaf) for leaf in parts]).sum()  # squares would be one more copy of all
    return gradient, norm, value


def sums_in_double(loss: SampleLosses, params: Params, buffers: Buffers, batch: Batch) -> Sums:
    """The sums of the gradients of single samples and of those of the batch, in double precision."""
    point = doubled(params), doubled(buffers), doubled(batch)
    in_batch = sum_of_batch(loss, *point)
    return alone_in_chunks(loss, *point, len(in_batch.losses), None, lambda *_: None)[1], in_batch
