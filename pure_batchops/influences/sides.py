"""The gradients of single samples, on both sides of an inverse."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from pure_batchops import checks
from pure_batchops.batches import chunks, n_points
from pure_batchops.budget import fitting
from pure_batchops.gradients.maps import SampleGradients
from pure_batchops.gradients.routes import gradients_of_samples
from pure_batchops.gradients.sample import formed_rows
from pure_batchops.losses.shared import without_shared
from pure_batchops.operations.derived import at_point
from pure_batchops.rows import width
from pure_batchops.streams import in_one_order
from pure_batchops.traits import traits_of
from pure_batchops.trees import device_of, move
from pure_batchops.types import Batch, Buffers, Operation, Params, SampleLosses, Tree
from pure_batchops.vectors import unflatten

Rows = Callable[[Tensor], Tensor]


def check(inverse: Any, loss: Any) -> None:
    """An inverse and a loss."""
    checks.operation("inverse", inverse)
    checks.loss(loss)


def solver(inverse: Operation, params: Params, buffers: Buffers, batches: Iterable[Batch]) -> Rows:
    """The inverse at one point, on rows.

    Returns:
        `(K, D) -> (K, D)`.

    Raises:
        ValueError: if batches can be read only once or are shuffled, or params have several dtypes or devices.
    """
    width(params)
    return at_point(inverse, params, buffers, in_one_order("train_batches", batches))


def tree_of(params: Params, row: Tensor) -> Tree:
    """A row as a tree like params."""
    return unflatten(params, row)


def gradients_of_batches(
    loss: SampleLosses, params: Params, buffers: Buffers, batches: Iterable[Batch]
) -> Iterator[SampleGradients]:
    """The gradients of the samples of each batch, held, by layer or unformed."""
    for batch in batches:
        yield gradients_of_samples(loss, params, buffers, move(batch, device_of(params)))


def pushed(gradients: SampleGradients, params: Params, rows: Tensor) -> Tensor:
    """J v for each row v, `(K, n)`."""
    if gradients.on_rows is not None:
        return gradients.on_rows.push(rows)
    chunk = fitting(rows.shape[1], gradients.numbers_at_once)
    return torch.vmap(lambda row: gradients.push(tree_of(params, row)), chunk_size=chunk)(rows)


def gradient_rows(
    loss: SampleLosses, params: Params, buffers: Buffers, batch: Batch, chunk_size: int | None
) -> Iterator[Tensor]:
    """The gradients of the samples of a batch, a chunk at a time.

    Yields:
        Rows, `(chunk, D)`.

    Raises:
        ValueError: if samples depend on each other, or torch.vmap cannot map the loss over them.
    """
    axis = traits_of(loss).batch_dim
    loss, batch = without_shared(loss, params, buffers, batch, axis)
    for part in chunks(batch, chunk_size or fitting(width(params)), axis):
        rows = torch.cat(formed_rows(loss, params, buffers, part), 1)
        if len(rows) != n_points(part, axis):
            msg = (
                f"loss must return one number for each sample along axis {axis}, got {len(rows)} for {n_points(part, axis)}; "
                "if its samples lie along another axis, say so by pure_batchops.declared(loss, batch_dim=...)"
            )
            raise ValueError(msg)
        yield rows
