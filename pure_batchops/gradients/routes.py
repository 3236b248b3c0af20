"""The gradients of the single samples, J = (∇ℓ₁, …, ∇ℓₙ)ᵀ, in the cheapest of three forms that memory allows."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pure_batchops import tracing
from pure_batchops.batches import length, pair, split
from pure_batchops.budget import HELD, NUMBERS_BY_VMAP, NUMBERS_JOINED
from pure_batchops.derivatives.jacobian import jacobian
from pure_batchops.gradients.by_vmap import Tapped, plan, tapped_gradients
from pure_batchops.gradients.kinds import pulled, pushed, squared_norms, wide
from pure_batchops.gradients.norms import same_losses, squared_gradient_norms
from pure_batchops.gradients.one_pass import recorded_layers
from pure_batchops.losses.checked import checked_losses
from pure_batchops.traits import traits_of
from pure_batchops.trees import leaves, rebuilt
from pure_batchops.types import Batch, Buffers, LinearMap, Params, SampleLosses, Tree
from pure_batchops.vectors import is_uniform


class SampleGradients(NamedTuple):
    """J.

    Attributes:
        losses: of the samples, `(n,)`.
        push: v ↦ J v, `(n,)`.
        pull: u ↦ Jᵀ u, a tree.
        squared_norms: when called, the squared norms ‖∇ℓᵢ‖², `(n,)`, in at least single precision.
        together, takes_rows: as for `Multiplication`.
    """

    losses: Tensor
    push: LinearMap
    pull: LinearMap
    squared_norms: Callable[[], Tensor]
    together: int
    takes_rows: bool = False


def sample_gradients(
    loss: SampleLosses, params: Params, buffers: Buffers, batch: Batch, held: int, sample_chunk_size: int | None = None
) -> SampleGradients:
    """J, held, kept layer by layer, or never formed.

    While J has at most `held` numbers it is held. A larger one is kept layer by layer, as inputs and gradients of outputs of
    linear, convolutional and embedding layers, if the gradients of the other parameters have at most `held` numbers.
    Otherwise, or if the losses cannot be taken of one sample alone, nothing is kept: J v and Jᵀ u are derivatives of the
    losses of the batch, and the norms come a chunk of samples at a time.

    Returns:
        What `SampleGradients` says.

    Raises:
        ValueError: as `checked_losses`; the norms raise it for a loss that mixes samples.
    """
    losses = partial(checked_losses(loss), buffers=buffers, batch=batch)
    if held > 0 and sample_chunk_size is None:
        known = traits_of(loss).independent
        recorded = recorded_layers(loss, params, buffers, batch, held) if known else None
        if recorded is not None:
            return _from(recorded, 1.0, params)
        found = _of_single_samples(loss, params, buffers, batch, None if known else losses(params), held)
        if found is not None:
            return found
    values, push, pull = jacobian(losses, params)
    norms = partial(squared_gradient_norms, loss, params, buffers, batch, values, sample_chunk_size)
    return SampleGradients(values, push, pull, norms, NUMBERS_BY_VMAP)


def _of_single_samples(
    loss: SampleLosses, params: Params, buffers: Buffers, batch: Batch, losses: Tensor | None, held: int
) -> SampleGradients | None:
    """J from the losses of single samples; None if it is too large, or they are not those of the batch."""
    axis, flat = traits_of(loss).batch_dim, leaves(params)
    n = length("batch", pair(batch, axis), axis) if losses is None else len(losses)
    alone, samples = split(batch, n, axis)
    small = n * sum(leaf.numel() for leaf in flat) <= held
    if not samples or (tracing.compiling() and not small):  # the compiler does not see the mode that looks at calls
        return None

    def loss_of_one(leaves: Any, *sample: Tensor) -> Any:  # torch 2.5 cannot trace an annotation in brackets
        return loss(rebuilt(params, leaves), buffers, alone(*sample)).sum()

    def found() -> Any:
        if small:
            return tapped_gradients(loss_of_one, flat, samples, [])
        taps = plan(loss_of_one, flat, [sample[0] for sample in samples])
        rest = sum(leaf.numel() for number, leaf in enumerate(flat) if all(number != tap for tap, _ in taps))
        return None if n * rest > held else tapped_gradients(loss_of_one, flat, samples, taps)

    tapped = found() if tracing.compiling() else _or_none(found)
    trust = None if tapped is None else _trust(tapped, losses)
    return None if tapped is None or trust is None else _from(tapped, trust, params)


def _or_none(function: Callable[[], Any]) -> Any:
    """None if the function fails: a loss that vmap cannot map has derivatives all the same, where its own errors come up."""
    try:
        return function()
    except Exception:
        return None


def _trust(tapped: Tapped, losses: Tensor | None) -> Tensor | float | None:
    """Whether each sample has the loss in its batch that it has alone, and no use of a weight went unseen.

    Returns:
        1 if so, else None. Where no number can be read, under vmap and torch.compile, a tensor, `(n,)`: 1 for each sample
        of which it is true, else NaN.
    """
    if losses is None and tapped.hidden is None:
        return 1.0
    right = torch.ones_like(tapped.losses, dtype=torch.bool) if losses is None else same_losses(tapped.losses, losses)
    if tapped.hidden is not None:
        right = right & (tapped.hidden == 0)
    holds = tracing.readable(right.all())
    if holds is None:
        return torch.where(right, 1.0, torch.nan)
    return 1.0 if holds else None


def _from(tapped: Tapped, trust: Tensor | float, params: Params) -> SampleGradients:
    flat, losses = leaves(params), tapped.losses
    matrices = {number: rows.reshape(len(rows), flat[number].numel()) for number, rows in tapped.gradients.items()}
    if not tapped.uses and is_uniform(params):
        return _of_matrices([matrices[number] for number in range(len(flat))], trust, losses)

    def push(v: Tree) -> Tensor:
        parts = leaves(v)
        terms = [matrix @ parts[number].reshape(-1) for number, matrix in matrices.items()]
        terms += [pushed(use, parts[number]) for number, uses in tapped.uses.items() for use in uses]
        return (sum(terms[1:], terms[0]) * trust).to(losses.dtype)

    def pull(u: Tensor) -> Tree:
        total = {number: u.to(matrix.dtype) @ matrix for number, matrix in matrices.items()}
        for number, uses in tapped.uses.items():
            terms = [pulled(use, u, flat[number]) for use in uses]
            total[number] = sum(terms[1:], terms[0])
        return rebuilt(params, [total[number].reshape(leaf.shape).to(leaf.dtype) for number, leaf in enumerate(flat)])

    def norms() -> Tensor:
        terms = [wide(matrix).square().sum(1) for matrix in matrices.values()]
        terms += [squared_norms(uses, flat[number]) for number, uses in tapped.uses.items()]
        return sum(terms[1:], terms[0]) * trust

    return SampleGradients(losses, push, pull, norms, HELD)


def _of_matrices(matrices: list[Tensor], trust: Tensor | float, losses: Tensor) -> SampleGradients:
    """J as matrices `(n, …)` of D columns together, which multiply rows: V ↦ V Jᵀ, `(K, n)`, and U ↦ U J, `(K, D)`."""
    if sum(matrix.numel() for matrix in matrices) <= NUMBERS_JOINED:
        matrices = [torch.cat(matrices, 1)]
    sizes = [matrix.shape[1] for matrix in matrices]

    def push(rows: Tensor) -> Tensor:
        first, *more = (part @ matrix.mT for part, matrix in zip(rows.split(sizes, 1), matrices, strict=True))
        return (sum(more, first) * trust).to(losses.dtype)

    def pull(rows: Tensor) -> Tensor:
        first, *more = ((rows.to(matrix.dtype) @ matrix).to(matrix.dtype) for matrix in matrices)  # autocast has its own
        return torch.cat([first, *more], 1) if more else first

    def norms() -> Tensor:
        return torch.stack([wide(matrix).square().sum(1) for matrix in matrices]).sum(0) * trust

    return SampleGradients(losses, push, pull, norms, HELD, takes_rows=True)
