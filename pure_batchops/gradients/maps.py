"""J and Jᵀ as maps, and the squared norms of the rows of J, from gradients that are formed or kept by layer."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pure_batchops.budget import NUMBERS_AT_ONCE, NUMBERS_BY_VMAP, NUMBERS_JOINED
from pure_batchops.gradients.layer import pull_through_layer, push_through_layer, squared_norms, wide
from pure_batchops.gradients.taps import LayerGradients
from pure_batchops.layouts import is_uniform
from pure_batchops.trees import leaves, rebuilt
from pure_batchops.types import LinearMap, Params, Tree


class RowMaps(NamedTuple):
    """V ↦ V Jᵀ, `(K, D) -> (K, n)`, and U ↦ U J, `(K, n) -> (K, D)`, for any K at once."""

    push: Callable[[Tensor], Tensor]
    pull: Callable[[Tensor], Tensor]


class SampleGradients(NamedTuple):
    """The gradients of the n samples, J = (∇ℓ₁, …, ∇ℓₙ)ᵀ.

    Attributes:
        losses: the losses of the samples, `(n,)`.
        push: v ↦ J v, from a tree to `(n,)`.
        pull: u ↦ Jᵀ u, from `(n,)` to a tree.
        squared_norms: when called, ‖∇ℓᵢ‖² for each sample, `(n,)`, in at least single precision.
        rows: when called, the leaves of J, `(n, numbers of the leaf)` each; None where J is not held.
        on_rows: J and Jᵀ on flat rows; None where J is not held or the leaves have several dtypes or devices.
        route: "held", "by layer" or "unformed".
        numbers_at_once: the most numbers, over all vectors, in one product.
    """

    losses: Tensor
    push: LinearMap
    pull: LinearMap
    squared_norms: Callable[[], Tensor]
    rows: Callable[[], tuple[Tensor, ...]] | None = None
    on_rows: RowMaps | None = None
    route: str = "unformed"
    numbers_at_once: int = NUMBERS_BY_VMAP


def of_layers(gradients: LayerGradients, trust: Tensor | float, params: Params) -> SampleGradients:
    """J from the gradients of its leaves, times `trust`, which is NaN for samples whose gradients are not right."""
    flat, losses, records = leaves(params), gradients.losses, gradients.records
    matrices = {number: part.reshape(len(part), flat[number].numel()) for number, part in gradients.gradients.items()}

    def push(v: Tree) -> Tensor:
        parts = leaves(v)
        terms = [matrix @ parts[number].reshape(-1) for number, matrix in matrices.items()]
        terms += [push_through_layer(record, parts[number]) for number, used in records.items() for record in used]
        return (sum(terms, torch.zeros_like(losses)) * trust).to(losses.dtype)

    def pull(u: Tensor) -> Tree:
        total = {number: u.to(matrix.dtype) @ matrix for number, matrix in matrices.items()}
        for number, used in records.items():
            terms = [pull_through_layer(record, u, flat[number]) for record in used]
            total[number] = sum(terms[1:], terms[0]) if terms else torch.zeros_like(flat[number])
        return rebuilt(params, [total[number].reshape(leaf.shape).to(leaf.dtype) for number, leaf in enumerate(flat)])

    def norms() -> Tensor:
        terms = [wide(matrix).square().sum(1) for matrix in matrices.values()]
        terms += [squared_norms(used, flat[number]) for number, used in records.items() if used]
        return sum(terms, wide(torch.zeros_like(losses))) * trust

    if records:
        return SampleGradients(losses, push, pull, norms, None, None, "by layer", NUMBERS_AT_ONCE)
    held = [matrices[number] for number in range(len(flat))]
    if is_uniform(params):
        return _of_rows(held, losses, trust, push, pull)
    return SampleGradients(losses, push, pull, norms, partial(_trusted, held, trust), None, "held", NUMBERS_AT_ONCE)


def _of_rows(held: list[Tensor], losses: Tensor, trust: Tensor | float, push: LinearMap, pull: LinearMap) -> SampleGradients:
    """J from formed gradients of one dtype and device, which multiply rows too."""
    rows = partial(_trusted, held, trust)
    # Below a size we join the leaves into one matrix: there, the number of calls matters more than the copy.
    blocks = [torch.cat(held, 1)] if sum(matrix.numel() for matrix in held) <= NUMBERS_JOINED else held
    on_rows = RowMaps(partial(_push_rows, blocks, trust, losses.dtype), partial(_pull_rows, blocks))
    return SampleGradients(losses, push, pull, partial(_norms, blocks, trust), rows, on_rows, "held", NUMBERS_AT_ONCE)


def _trusted(matrices: list[Tensor], trust: Tensor | float) -> tuple[Tensor, ...]:
    if isinstance(trust, float):
        return tuple(matrices)
    return tuple((matrix * trust[:, None]).to(matrix.dtype) for matrix in matrices)


def _push_rows(blocks: list[Tensor], trust: Tensor | float, dtype: Any, rows: Tensor) -> Tensor:
    sizes = [block.shape[1] for block in blocks]
    first, *more = (part @ block.mT for part, block in zip(rows.split(sizes, 1), blocks, strict=True))
    return (sum(more, first) * trust).to(dtype)


def _pull_rows(blocks: list[Tensor], rows: Tensor) -> Tensor:
    first, *more = ((rows.to(block.dtype) @ block).to(block.dtype) for block in blocks)  # autocast has its own dtype
    return torch.cat([first, *more], 1) if more else first


def _norms(blocks: list[Tensor], trust: Tensor | float) -> Tensor:
    return torch.stack([wide(block).square().sum(1) for block in blocks]).sum(0) * trust
