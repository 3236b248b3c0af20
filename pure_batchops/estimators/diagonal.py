"""The diagonal."""

from torch import Tensor

from pure_batchops.estimators.probes import Estimator, estimator
from pure_batchops.types import Operation


def diagonal(
    op: Operation, *, samples: int = 100, seed: int | Tensor = 0, method: str = "hutchinson", chunk_size: int | None = None
) -> Estimator:
    """The diagonal, diag A ≈ diag A Q Qᵀ + mean over probes of z ∘ A P z, with P = I − Q Qᵀ and random signs z.

    Q is the same as for `trace`, nothing for `"hutchinson"`. The variance of an entry is the sum of the squares of its row off
    the diagonal, so a diagonal takes more probes than a trace.

    Args:
        op: any operation, on a batch or, as `averaged(op)`, on batches that can be read again.
        samples: the number of products in all, as for `trace`.
        seed: of the signs; or a 0-dim integer tensor, which may be vmapped, see `trace`.
        method: `"hutchinson"` or `"hutch++"`.
        chunk_size: how many probes are multiplied at once, as for `trace`.

    Returns:
        `estimate(params, buffers, batch) -> Estimate(value, standard_error)`, both flat, `(D,)`, in the order of params and in
        their precision, at least single (`unflatten` makes a tree). Unbiased, for any square matrix; for the error see
        `trace`.

    Raises:
        TypeError: if op is not a function, or samples, seed or chunk_size is not a whole number.
        ValueError: if method is unknown, or there are too few samples for a standard error.

    Examples:
        >>> import torch
        >>> from pure_batchops import hessian
        >>> op = hessian(lambda params, buffers, x: (params * x).square().sum(1))
        >>> diagonal(op, samples=2)(torch.zeros(2), {}, torch.tensor([[1.0, 2.0]])).value
        tensor([2., 8.])

    References:
        Bekas, Kokiopoulou and Saad (2007), An Estimator for the Diagonal of a Matrix.
        Baston and Nakatsukasa (2022), Stochastic Diagonal Estimation: Probabilistic Bounds and an Improved Algorithm.
    """
    return estimator(
        op,
        samples,
        seed,
        method,
        chunk_size,
        exact=lambda basis, image: (basis * image).sum(0),
        drawn=lambda z, _, product: z * product,
    )
