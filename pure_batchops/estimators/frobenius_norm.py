"""The Frobenius norm."""

import torch
from torch import Tensor

from pure_batchops.estimators.probes import Estimator, estimator
from pure_batchops.types import Estimate, Operation


def frobenius_norm(
    op: Operation, *, samples: int = 100, seed: int | Tensor = 0, method: str = "hutchinson", chunk_size: int | None = None
) -> Estimator:
    """The Frobenius norm, ‖A‖² ≈ ‖A Q‖² + mean over probes of ‖A P z‖², with P = I − Q Qᵀ and random signs z.

    Q is the same as for `trace`, nothing for `"hutchinson"`. The square is unbiased; the norm is too small by about
    (standard error)² / 2‖A‖.

    Args:
        op: any operation, on a batch or, as `averaged(op)`, on batches that can be read again.
        samples: the number of products in all, as for `trace`.
        seed: of the signs; or a 0-dim integer tensor, which may be vmapped, see `trace`.
        method: `"hutchinson"` or `"hutch++"`.
        chunk_size: how many probes are multiplied at once, as for `trace`.

    Returns:
        `estimate(params, buffers, batch) -> Estimate(value, standard_error)`, two numbers in the precision of params, at
        least single; the error is the error of the square, divided by 2‖A‖; see `trace`.

    Raises:
        TypeError: if op is not a function, or samples, seed or chunk_size is not a whole number.
        ValueError: if method is unknown, or there are too few samples for a standard error.

    Examples:
        >>> from pure_batchops import hessian
        >>> op = hessian(lambda params, buffers, x: (params * x).square().sum(1) / 2)
        >>> frobenius_norm(op, samples=2)(torch.zeros(2), {}, torch.tensor([[3.0**0.5, 2.0]])).value
        tensor(5.)
    """
    return estimator(
        op,
        samples,
        seed,
        method,
        chunk_size,
        exact=lambda _, image: image.square().sum(),
        drawn=lambda _, __, product: product.square().sum(1),
        finished=_rooted,
    )


def _rooted(square: Estimate) -> Estimate:
    norm = square.value.sqrt()
    return Estimate(norm, torch.where(norm > 0, square.standard_error / (2 * norm), 0.0))
