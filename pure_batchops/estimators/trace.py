"""The sum of the diagonal."""

from torch import Tensor

from pure_batchops.estimators.probes import Estimator, estimator
from pure_batchops.types import Operation


def trace(
    op: Operation, *, samples: int = 100, seed: int | Tensor = 0, method: str = "hutchinson", chunk_size: int | None = None
) -> Estimator:
    """The trace, tr A ≈ tr Qᵀ A Q + mean over probes of zᵀ P A P z, with P = I − Q Qᵀ and random signs z.

    `"hutchinson"` has no Q, and holds one chunk of probes. `"hutch++"` spends a third of the products on a sketch of A,
    Q = qr(A Ω), and a third on A Q, which it holds. Its error is small if the eigenvalues fall quickly. The signs
    are a function of the seed alone, so all members of an ensemble share them unless each has a seed of its own.

    Args:
        op: any operation, on a batch or, as `averaged(op)`, on batches that can be read again.
        samples: the number of products in all, at least 2, for `"hutch++"` at least 4. With D samples or more, `"hutch++"`
            takes D products, and the result is exact.
        seed: of the signs; or a 0-dim integer tensor, which may be vmapped. For example,
            `torch.vmap(lambda p, b, s: trace(op, seed=s)(p, b, batch))(params, buffers, seeds)` gives each member of an
            ensemble signs of its own.
        method: `"hutchinson"` or `"hutch++"`.
        chunk_size: how many probes are multiplied at once, by default as many as hold 2²² numbers. An averaged operation reads
            all batches once for each chunk. The estimate does not depend on it.

    Returns:
        `estimate(params, buffers, batch) -> Estimate(value, standard_error)`, two numbers in the precision of params, at
        least single. Unbiased, for any square matrix. The value ± two errors holds the truth in 95 % of cases, from two
        samples on: an error from few samples is wider by a quantile of Student's t. That takes numbers that are about normal:
        where a row has one number off the diagonal, n signs show no spread in one of 2ⁿ⁻¹ cases, so take ten or more.

    Raises:
        TypeError: if op is not a function, or samples, seed or chunk_size is not a whole number.
        ValueError: if method is unknown, or there are too few samples for a standard error.

    Examples:
        For a diagonal matrix each probe gives the trace:

        >>> import torch
        >>> from pure_batchops import hessian
        >>> op = hessian(lambda params, buffers, x: (params * x).square().sum(1))
        >>> value, standard_error = trace(op, samples=2)(torch.zeros(2), {}, torch.tensor([[1.0, 2.0]]))
        >>> value, standard_error
        (tensor(10.), tensor(0.))

    References:
        Hutchinson (1990), A Stochastic Estimator of the Trace of the Influence Matrix.
        Meyer, Musco, Musco and Woodruff (2021), Hutch++: Optimal Stochastic Trace Estimation.
    """
    return estimator(
        op,
        samples,
        seed,
        method,
        chunk_size,
        exact=lambda basis, image: (basis * image).sum(),
        drawn=lambda _, left, product: (left * product).sum(1),
    )
