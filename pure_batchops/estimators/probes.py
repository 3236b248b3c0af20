"""Estimates from products with random signs: of the whole matrix, or of what a sketch of it leaves over."""

from collections.abc import Callable
from functools import reduce

import torch
from torch import Tensor

from pure_batchops import checks
from pure_batchops.averages.moments import merged, moments, standard_error
from pure_batchops.budget import spans
from pure_batchops.noise import signs
from pure_batchops.rows import RowMap
from pure_batchops.solvers.inverse import rows_of
from pure_batchops.types import Batch, Buffers, Estimate, Operation, Params

Estimator = Callable[[Params, Buffers, Batch], Estimate]
"""`(params, buffers, batch) -> (value, standard error)`."""

LEAST = {"hutchinson": 2, "hutch++": 4}
"""The fewest products that leave two probes, which a standard error needs."""


def estimator(
    op: Operation,
    samples: int,
    seed: int | Tensor,
    method: str,
    chunk_size: int | None,
    exact: Callable[[Tensor, Tensor], Tensor],
    drawn: Callable[[Tensor, Tensor, Tensor], Tensor],
) -> Estimator:
    """The estimator of a number with an exact part, from A Q Qᵀ, and a part sampled by probes, from A P, P = I − Q Qᵀ.

    Hutch++ spends a third of the products on Y = A Ω, Q = qr(Y), and a third on A Q. Hutchinson has no Q and P = I.

    Args:
        op: any operation.
        samples: the number of products in all.
        seed: of the signs Ω and z; or a 0-dim integer tensor.
        method: `"hutchinson"` or `"hutch++"`.
        chunk_size: how many probes are multiplied at once.
        exact: `(Qᵀ, (A Q)ᵀ) -> number`, both of shape `(k, D)`.
        drawn: `(z, P z, A P z) -> numbers`, each of shape `(m, D)`, one number for each probe, whose mean is the rest.

    Returns:
        `estimate(params, buffers, batch) -> Estimate`.

    Raises:
        TypeError: if op is not a function, or an option is not a whole number.
        ValueError: if method is unknown, or there are too few samples for a standard error.
    """
    checks.operation("op", op)
    checks.option("method", method, tuple(LEAST))
    samples, seed = checks.whole("samples", samples, LEAST[method]), checks.seed("seed", seed)
    chunk_size = checks.whole_or_none("chunk_size", chunk_size)

    def estimate(params: Params, buffers: Buffers, batch: Batch) -> Estimate:
        matrix = rows_of(op, params, buffers, batch)
        basis = _basis(matrix, samples, seed) if method == "hutch++" else None
        if basis is None:
            return _probed(matrix, None, drawn, (0, samples), seed, chunk_size)
        known = exact(basis, matrix.multiply(basis))
        k = len(basis)
        if k == matrix.size:
            return Estimate(known, torch.zeros_like(known))
        rest = _probed(matrix, basis, drawn, (k, samples - 2 * k), seed, chunk_size)
        return Estimate(known + rest.value, rest.standard_error)

    return estimate


def _basis(matrix: RowMap, samples: int, seed: int | Tensor) -> Tensor:
    """Qᵀ, `(k, D)`: the range of a sketch, or the whole space if there are enough products for it."""
    if matrix.size <= samples:
        return torch.eye(matrix.size, dtype=matrix.like.dtype, device=matrix.like.device)
    sketch = matrix.multiply(signs(seed, samples // 3, matrix.size, matrix.like))
    return torch.linalg.qr(sketch.mT).Q.mT


def _probed(
    matrix: RowMap,
    basis: Tensor | None,
    drawn: Callable[[Tensor, Tensor, Tensor], Tensor],
    rows: tuple[int, int],
    seed: int | Tensor,
    chunk_size: int | None,
) -> Estimate:
    """The mean over the probes that are these rows of the signs, a chunk of them at a time."""
    start, count = rows

    def numbers(first: int, many: int) -> Tensor:
        z = signs(seed, many, matrix.size, matrix.like, start=start + first)
        left = z if basis is None else z - (z @ basis.mT) @ basis  # z → P z
        return drawn(z, left, matrix.multiply(left))

    total = reduce(merged, (moments(numbers(*span)) for span in spans(count, matrix.size, chunk_size)))
    return Estimate(total.mean, standard_error(total))
