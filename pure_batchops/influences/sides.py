"""The gradients of single samples, on both sides of an inverse."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import RandomSampler

from pure_batchops import checks
from pure_batchops.batches import chunks, sample_axis
from pure_batchops.budget import HELD, fitting
from pure_batchops.gradients.routes import SampleGradients, sample_gradients
from pure_batchops.rows import width
from pure_batchops.solvers.inverse import at_point
from pure_batchops.trees import move, parameter_leaves
from pure_batchops.types import Batch, Buffers, Operation, Params, SampleLosses, Tree
from pure_batchops.vectors import unflatten

Rows = Callable[[Tensor], Tensor]


def check(inverse: Any, loss: Any) -> None:
    """An inverse and a loss."""
    checks.operation("inverse", inverse)
    checks.loss(loss)


def device_of(params: Params) -> torch.device:
    """Where the parameters are."""
    return next(iter(parameter_leaves(params).values())).device


def solver(inverse: Operation, params: Params, buffers: Buffers, batches: Iterable[Batch]) -> Rows:
    """The inverse at one point, on rows.

    Returns:
        `(K, D) -> (K, D)`.

    Raises:
        ValueError: if batches can be read only once or are shuffled, or params have several dtypes or devices.
    """
    width(params)
    if isinstance(batches, Iterator):
        msg = f"train_batches must be iterable again, as a list or a DataLoader is, got a {type(batches).__name__}"
        raise ValueError(msg)
    if isinstance(getattr(batches, "sampler", None), RandomSampler):
        msg = (
            "train_batches must come in one order each time that they are read, got a DataLoader that shuffles; make it "
            "with shuffle=False"
        )
        raise ValueError(msg)
    return at_point(inverse, params, buffers, batches)


def tree_of(params: Params, row: Tensor) -> Tree:
    """A row as a tree like params."""
    return unflatten(params, row)


def gradients_of_batches(
    loss: SampleLosses, params: Params, buffers: Buffers, batches: Iterable[Batch]
) -> Iterator[SampleGradients]:
    """The gradients of the samples of each batch, held or layer by layer."""
    for batch in batches:
        yield sample_gradients(loss, params, buffers, move(batch, device_of(params)), HELD)


def pushed(found: SampleGradients, params: Params, rows: Tensor) -> Tensor:
    """J v for each row v, `(K, n)`."""
    if found.takes_rows:
        return found.push(rows)
    return torch.stack([found.push(tree_of(params, row)) for row in rows])


def gradient_rows(
    loss: SampleLosses, params: Params, buffers: Buffers, batch: Batch, chunk_size: int | None
) -> Iterator[Tensor]:
    """The gradients of the samples of a batch, a chunk at a time.

    Yields:
        Rows, `(chunk, D)`.

    Raises:
        ValueError: if samples depend on each other, or torch.vmap cannot map the loss over them.
    """
    for part in chunks(batch, chunk_size or fitting(width(params)), sample_axis(loss)):
        found = sample_gradients(loss, params, buffers, part, held=2**62)
        if not found.takes_rows:
            found.squared_norms()  # which says how samples depend on each other
            msg = "loss must be one that torch.vmap can map over samples, to have a gradient of each"
            raise ValueError(msg)
        yield found.pull(torch.eye(len(found.losses), device=found.losses.device).to(found.losses.dtype))
