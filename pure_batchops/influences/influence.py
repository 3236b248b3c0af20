"""Which training points drive a prediction."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from pure_batchops import checks
from pure_batchops.influences.gradient_rows import gradient_rows
from pure_batchops.influences.inner_products import gradients_of_batches, inner_products
from pure_batchops.influences.inverse_at import inverse_at
from pure_batchops.streams import in_one_order
from pure_batchops.trees import device_of, move
from pure_batchops.types import Batch, Buffers, Operation, Params, SampleLosses


def influence(
    inverse: Operation, loss: SampleLosses, *, chunk_size: int | None = None
) -> Callable[[Params, Buffers, Iterable[Batch], Batch], Tensor]:
    """The influence of each training point on the loss of each test point, −∇ℓ_testᵀ M⁻¹ ∇ℓ_train.

    The sign: a negative influence is helpful, because the training point lowers the loss of the test point. The scale:
    without the training point, one of n, the loss of the test point changes by about −influence / n.

    Args:
        inverse: M⁻¹, an operation on batches: `averaged(inverse_harmonic_mean(loss, λ))`, or any inverse of `averaged(op)`.
        loss: `(params, buffers, batch) -> (n,)`; samples must not depend on each other.
        chunk_size: the number of test points in one chunk. Each chunk reads the training data twice. By default the
            gradients of a chunk hold at most 2²² numbers, or one gradient if that is larger. Memory grows with the chunk
            size. Only the result grows with the number of points.

    Returns:
        `influences(params, buffers, train_batches, test_batch) -> (n_test, n_train)`. Training points come in the order of
        their batches. The batches must come in the same order at each reading: a list, or a DataLoader that does not shuffle.

    Raises:
        TypeError: if inverse or loss is no function.
        ValueError: if chunk_size is not positive. The function raises it for a generator of batches, if the batches or their
            order change from one reading to the next, if there is no batch, and for a loss that mixes samples.

    Examples:
        The Hessian of the mean of ½ (w − xᵢ)² is 1. The gradients are w − xᵢ:

        >>> from pure_batchops import averaged, direct, hessian
        >>> loss = lambda params, buffers, x: (params - x).square() / 2
        >>> influences = influence(direct(averaged(hessian(loss)), 0.0), loss)
        >>> influences(torch.tensor([2.0]), {}, [torch.tensor([1.0, 4.0]), torch.tensor([3.0])], torch.tensor([4.0]))
        tensor([[ 2., -4., -2.]])

    References:
        Cook (1977), Detection of influential observation in linear regression.
        Koh and Liang (2017), Understanding black-box predictions via influence functions.
    """
    checks.operation("inverse", inverse)
    checks.loss(loss)
    chunk_size = checks.whole_or_none("chunk_size", chunk_size)

    def influences(params: Params, buffers: Buffers, train_batches: Iterable[Batch], test_batch: Batch) -> Tensor:
        batches = in_one_order("train_batches", train_batches)
        solve = inverse_at(inverse, params, buffers, batches)

        def products_of_chunk(test_rows: Tensor) -> Tensor:
            solved = solve(test_rows)  # ∇ℓ_test → M⁻¹ ∇ℓ_test
            gradients_by_batch = gradients_of_batches(loss, params, buffers, batches)
            return torch.cat([inner_products(gradients, params, solved) for gradients in gradients_by_batch], 1)

        test = move(test_batch, device_of(params))
        return -torch.cat([products_of_chunk(rows) for rows in gradient_rows(loss, params, buffers, test, chunk_size)])

    return influences
