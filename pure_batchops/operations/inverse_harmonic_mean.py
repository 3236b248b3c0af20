"""The mean of the inverses of damped rank-one matrices: the inverse of their harmonic mean."""

from functools import partial

from torch import Tensor

from pure_batchops import checks
from pure_batchops.losses import each_loss
from pure_batchops.operations.batch_operation import batch_operation
from pure_batchops.operations.gradient_norms import squared_gradient_norms
from pure_batchops.operations.jacobian import jacobian
from pure_batchops.trees import map_leaves
from pure_batchops.types import Batch, Buffers, LinearMap, Operation, Params, SampleLosses, Tree


def inverse_harmonic_mean(
    loss: SampleLosses,
    regularization: float | Tensor,
    *,
    chunk_size: int | None = None,
    sample_chunk_size: int | None = None,
) -> Operation:
    """The mean of inverse rank-one updates, m(batch) = 1/n Σᵢ (∇ℓᵢ ∇ℓᵢᵀ + λI)⁻¹, by Sherman and Morrison's formula.

    m v = (v − 1/n Σᵢ ∇ℓᵢ (∇ℓᵢ·v) / (λ + ‖∇ℓᵢ‖²)) / λ. It stands for the inverse of `damped(gauss_newton(loss), λ)`, with
    inversion and summation exchanged. The norms ‖∇ℓᵢ‖² come from a chunk of gradients at a time, never all n of them.

    Args:
        loss: `(params, buffers, batch) -> (n,)`, in which a sample does not depend on the others.
        regularization: λ, positive and finite; or a 0-dim tensor, which may be vmapped and is not checked.
        chunk_size: how many vectors are multiplied at once, see `batch_operation`.
        sample_chunk_size: how many gradients of samples are held at once. By default as many as hold 2²² numbers, at
            least one. The product does not depend on it.

    Returns:
        `op(params, buffers, batch, v) -> product`, linear, symmetric, positive definite, with eigenvalues in (0, 1/λ].

    Raises:
        TypeError: if loss is no function, or regularization is no number.
        ValueError: if regularization is not positive and finite, or a chunk size is not positive. The operation raises
            it for a loss that returns no `(n,)` or mixes samples, and for a v or a batch that does not fit.

    Examples:
        Of ℓᵢ = xᵢ w the gradients are xᵢ, so that m = mean of 1 / (xᵢ² + λ):

        >>> import torch
        >>> loss = lambda params, buffers, x: params["w"] * x
        >>> op = inverse_harmonic_mean(loss, regularization=1.0)
        >>> op({"w": torch.tensor(3.0)}, {}, torch.tensor([1.0, 3.0]), torch.tensor([1.0]))
        tensor([0.3000])

    References:
        Sherman and Morrison (1950), Adjustment of an Inverse Matrix Corresponding to a Change in One Element.
        Kwon, Wu, Wu and Zou (2024), DataInf.
    """
    checks.function("loss", loss)
    damping = checks.positive("regularization", regularization)
    samples = None if sample_chunk_size is None else checks.whole("sample_chunk_size", sample_chunk_size)
    losses = each_loss(loss)

    def at(params: Params, buffers: Buffers, batch: Batch) -> LinearMap:
        values, push, pull = jacobian(partial(losses, buffers=buffers, batch=batch), params)
        norms = squared_gradient_norms(loss, params, buffers, batch, values, samples)
        scale = 1 / (len(values) * (damping + norms))
        divisor = damping  # torch 2.5 can compile what product reads from here, not what it reads from farther out

        def product(v: Tree) -> Tree:
            updates = pull((push(v) * scale).to(values.dtype))  # v → Jv → Jᵀ Jv / n(λ + ‖∇ℓ‖²)
            return map_leaves(lambda leaf, update: ((leaf - update) / divisor).to(leaf.dtype), v, updates)

        return product

    return batch_operation(at, chunk_size=chunk_size)
