"""The mean of the inverses of damped rank-one matrices: the inverse of their harmonic mean."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from pure_batchops import checks
from pure_batchops.budget import HELD
from pure_batchops.gradients.routes import gradients_of_samples
from pure_batchops.operations.multiplication import Multiplication, OnRows, OnTrees
from pure_batchops.operations.operation import operation_of
from pure_batchops.points import saw_points
from pure_batchops.trees import map_leaves
from pure_batchops.types import Batch, Buffers, LinearMap, Operation, Params, SampleLosses, Tree


def inverse_harmonic_mean(
    loss: SampleLosses,
    regularization: float | Tensor,
    *,
    held: int = HELD,
    chunk_size: int | None = None,
    sample_chunk_size: int | None = None,
) -> Operation:
    """The mean of inverse rank-one updates, m(batch) = 1/n Σᵢ (∇ℓᵢ ∇ℓᵢᵀ + λI)⁻¹, by Sherman and Morrison's formula.

    m v = (v − 1/n Σᵢ ∇ℓᵢ (∇ℓᵢ·v) / (λ + ‖∇ℓᵢ‖²)) / λ. It replaces the inverse of `damped(gauss_newton(loss), λ)`: it
    takes the inverse of each sample's matrix first, and the mean afterwards. Gradients are held while they have at most `held`
    numbers. Larger ones are kept by layer, as inputs of layers and gradients at their outputs, or formed in chunks of samples.

    Args:
        loss: `(params, buffers, batch) -> (n,)`; samples must not depend on each other.
        regularization: λ, positive and finite; or a 0-dim tensor, which may be vmapped. Where no number can be read (under
            vmap and torch.compile), the product is NaN if λ is not positive.
        held: the most numbers of gradients of samples to hold: all n × D of them, or those outside of known layers. The
            product does not depend on it.
        chunk_size: how many vectors are multiplied at once, see `batch_operation`. By default they have at most 2²² numbers
            if gradients are held or kept by layer, and 2¹⁶ otherwise.
        sample_chunk_size: how many gradients of samples are formed at once; then none are kept. By default they have at most
            2²² numbers, and this matters only if gradients are neither held nor kept by layer. The product does not depend
            on it.

    Returns:
        `op(params, buffers, batch, v) -> product`, linear, symmetric, positive definite, with eigenvalues in (0, 1/λ].

    Raises:
        TypeError: if loss is no function, or an option is no number.
        ValueError: if regularization is not positive and finite, held is negative, or a chunk size is not positive. The
            operation raises it for a loss that returns no `(n,)` or mixes samples, and for a v or a batch that does not fit.

    Examples:
        The gradient of ℓᵢ = xᵢ w is xᵢ, so m is the mean of 1 / (xᵢ² + λ):

        >>> loss = lambda params, buffers, x: params["w"] * x
        >>> op = inverse_harmonic_mean(loss, regularization=1.0)
        >>> op({"w": torch.tensor(3.0)}, {}, torch.tensor([1.0, 3.0]), torch.tensor([1.0]))
        tensor([0.3000])

    References:
        Sherman and Morrison (1950), Adjustment of an Inverse Matrix Corresponding to a Change in One Element.
        Kwon, Wu, Wu and Zou (2024), DataInf.
    """
    checks.loss(loss)
    regularization = checks.positive("regularization", regularization)
    held = checks.whole("held", held, least=0)
    if sample_chunk_size is not None:
        sample_chunk_size = checks.whole("sample_chunk_size", sample_chunk_size)

    def multiplication(params: Params, buffers: Buffers, batch: Batch) -> Multiplication:
        gradients = gradients_of_samples(loss, params, buffers, batch, held, sample_chunk_size)
        losses, on_rows = gradients.losses, gradients.on_rows
        saw_points(len(losses), batch)
        scale = 1 / (len(losses) * (regularization + gradients.squared_norms()))
        scaled = partial(_scaled, scale, losses.dtype)
        if on_rows is not None:
            return OnRows(partial(_product, *on_rows, scaled, regularization), gradients.numbers_at_once)
        return OnTrees(partial(_product, gradients.push, gradients.pull, scaled, regularization), gradients.numbers_at_once)

    return operation_of(multiplication, chunk_size)


def _product(
    push: LinearMap, pull: LinearMap, scaled: Callable[[Tensor], Tensor], regularization: float | Tensor, v: Tree
) -> Tree:
    updates = pull(scaled(push(v)))  # v → Jv → Jᵀ Jv / n(λ + ‖∇ℓ‖²)
    return map_leaves(lambda leaf, update: ((leaf - update) / regularization).to(leaf.dtype), v, updates)


def _scaled(scale: Tensor, dtype: torch.dtype, u: Tensor) -> Tensor:
    return (u * scale).to(dtype)
