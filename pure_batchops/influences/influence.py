"""Which training points drive a prediction."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from pure_batchops import checks
from pure_batchops.influences.sides import check, gradient_rows, gradients_of_batches, pushed, solver
from pure_batchops.trees import device_of, move
from pure_batchops.types import Batch, Buffers, Operation, Params, SampleLosses


def influence(
    inverse: Operation, loss: SampleLosses, *, chunk_size: int | None = None
) -> Callable[[Params, Buffers, Iterable[Batch], Batch], Tensor]:
    """The influence of each training point on the loss of each test point, −∇ℓ_testᵀ M⁻¹ ∇ℓ_train.

    It is the derivative of the test point's loss by the weight of the training point in n times the mean loss that was
    minimised: without that one of n points, the loss of the test point changes by about −influence / n.

    Args:
        inverse: M⁻¹, an operation on batches, `averaged(inverse_harmonic_mean(loss, λ))` or any inverse of `averaged(op)`.
        loss: `(params, buffers, batch) -> (n,)`; samples must not depend on each other.
        chunk_size: how many test points are solved for at once; for each chunk the training data are read twice. By default
            as many as have gradients of 2²² numbers, at least one. Memory grows with it, and, but for the result, not with
            the number of points.

    Returns:
        `influences(params, buffers, train_batches, test_batch) -> (n_test, n_train)`, training points in the order of
        their batches, which must be iterable again in the same order, as a list is, or a DataLoader that does not shuffle.

    Raises:
        TypeError: if inverse or loss is no function.
        ValueError: if chunk_size is not positive. The function raises it for a generator of batches, a DataLoader that
            shuffles, no batch, and a loss that mixes samples.

    Examples:
        Of the mean of ½ (w − xᵢ)² the Hessian is 1, and the gradients are w − xᵢ:

        >>> from pure_batchops import averaged, direct, hessian
        >>> loss = lambda params, buffers, x: (params - x).square() / 2
        >>> influences = influence(direct(averaged(hessian(loss)), 0.0), loss)
        >>> influences(torch.tensor([2.0]), {}, [torch.tensor([1.0, 4.0]), torch.tensor([3.0])], torch.tensor([4.0]))
        tensor([[ 2., -4., -2.]])

    References:
        Cook (1977), Detection of influential observation in linear regression.
        Koh and Liang (2017), Understanding black-box predictions via influence functions.
    """
    check(inverse, loss)
    chunk_size = checks.whole_or_none("chunk_size", chunk_size)

    def influences(params: Params, buffers: Buffers, train_batches: Iterable[Batch], test_batch: Batch) -> Tensor:
        solve = solver(inverse, params, buffers, train_batches)

        def of_chunk(rows: Tensor) -> Tensor:
            solved = solve(rows)
            return torch.cat(
                [pushed(found, params, solved) for found in gradients_of_batches(loss, params, buffers, train_batches)], 1
            )

        test = move(test_batch, device_of(params))
        return -torch.cat([of_chunk(rows) for rows in gradient_rows(loss, params, buffers, test, chunk_size)])

    return influences
