"""Estimates from products with random signs: of the whole matrix, or of what a sketch of it leaves over."""

from collections.abc import Callable, Iterable, Iterator
from functools import reduce

import torch
from torch import Tensor

from pure_batchops import checks
from pure_batchops.averages.moments import Moments, merged, moments, standard_error
from pure_batchops.budget import spans
from pure_batchops.estimators.student import widening
from pure_batchops.noise import signs
from pure_batchops.rows import RowMap
from pure_batchops.solvers.inverse import rows_of, scales
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
    finished: Callable[[Estimate], Estimate] | None = None,
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
        finished: makes the result of the sum of both. A is divided by a power of two near its largest number before, and the
            result is multiplied by it, so that squares are right at any size.

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
        if method == "hutchinson":
            probes = _probes(matrix, None, (0, samples), seed, chunk_size)
            return _scaled(*_probed(probes, None, drawn), finished)
        basis = _basis(matrix, samples, seed)
        k, image = len(basis), matrix.multiply(basis)
        scale = scales(image.reshape(1, -1))[0, 0]
        known, rounding = exact(basis, image / scale), matrix.eps * exact(basis.abs(), image.abs() / scale)
        if k == matrix.size:
            return _scaled(Estimate(known, torch.zeros_like(known)), scale, finished)
        rest, _ = _probed(_probes(matrix, basis, (k, samples - 2 * k), seed, chunk_size), scale, drawn)
        return _scaled(Estimate(known + rest.value, torch.hypot(rest.standard_error, rounding)), scale, finished)

    return estimate


def _scaled(estimate: Estimate, scale: Tensor, finished: Callable[[Estimate], Estimate] | None) -> Estimate:
    value, error = estimate if finished is None else finished(estimate)
    return Estimate(value * scale, error * scale)


def _basis(matrix: RowMap, samples: int, seed: int | Tensor) -> Tensor:
    """Qᵀ, `(k, D)`: the range of a sketch, or the whole space if there are enough products for it."""
    if matrix.size <= samples:
        return torch.eye(matrix.size, dtype=matrix.like.dtype, device=matrix.like.device)
    sketch = matrix.multiply(signs(seed, samples // 3, matrix.size, matrix.like))
    return torch.linalg.qr(sketch.mT).Q.mT


def _probes(
    matrix: RowMap, basis: Tensor | None, rows: tuple[int, int], seed: int | Tensor, chunk_size: int | None
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """(z, P z, A P z) for the signs z of these rows, a chunk of them at a time."""
    start, count = rows
    for first, many in spans(count, matrix.size, chunk_size):
        z = signs(seed, many, matrix.size, matrix.like, start=start + first)
        left = z if basis is None else z - (z @ basis.mT) @ basis  # z → P z
        yield z, left, matrix.multiply(left)


def _probed(
    probes: Iterable[tuple[Tensor, Tensor, Tensor]],
    scale: Tensor | None,
    drawn: Callable[[Tensor, Tensor, Tensor], Tensor],
) -> tuple[Estimate, Tensor]:
    """The mean over the probes of A / scale, and the scale: that of the first chunk, if it is not given."""
    parts: list[Moments] = []
    for z, left, image in probes:
        scale = scales(image.reshape(1, -1))[0, 0] if scale is None else scale
        parts = [reduce(merged, [*parts, moments(drawn(z, left, image / scale))])]
    (total,) = parts
    error = standard_error(total) * widening(int(total.weight) - 1)
    return Estimate(total.mean, error), torch.as_tensor(scale)
