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

    m v = (v − 1/n Σᵢ ∇ℓᵢ (∇ℓᵢ·v) / (λ + ‖∇ℓᵢ‖²)) / λ. It stands for the inverse of `damped(gauss_newton(loss), λ)`, with
    inversion and summation exchanged. Gradients are held while they have at most `held` numbers; larger ones are kept layer by
    layer, as inputs and gradients of outputs, or formed a chunk of samples at a time.

    Args:
        loss: `(params, buffers, batch) -> (n,)`, in which a sample does not depend on the others.
        regularization: λ, positive and finite; or a 0-dim tensor, which may be vmapped.
            Where no number can be read, under vmap and torch.compile, the product is NaN if λ is not positive.
        held: the most numbers of gradients of samples to hold, n × D or those outside of known layers. The product does
            not depend on it.
        chunk_size: how many vectors are multiplied at once, see `batch_operation`. By default as many as hold 2²² numbers
            where gradients are held or kept layer by layer, else 2¹⁶.
        sample_chunk_size: how many gradients of samples are formed at once, and none are kept. By default, where gradients
            are neither held nor kept layer by layer, as many as have 2²² numbers. The product does not depend on it.

    Returns:
        `op(params, buffers, batch, v) -> product`, linear, symmetric, positive definite, with eigenvalues in (0, 1/λ].

    Raises:
        TypeError: if loss is no function, or an option is no number.
        ValueError: if regularization is not positive and finite, held is negative, or a chunk size is not positive. The
            operation raises it for a loss that returns no `(n,)` or mixes samples, and for a v or a batch that does not fit.

    Examples:
        Of ℓᵢ = xᵢ w the gradients are xᵢ, so that m = mean of 1 / (xᵢ² + λ):

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
        saw_points(len(losses))
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
