"""The inverse by a recursion over batches."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial, reduce
from itertools import islice

import torch
from torch import Tensor

from pure_batchops import checks
from pure_batchops.rows import RowFunction, row_map, width
from pure_batchops.solvers.inverse import LinAlgError, lengths, operation_on_rows, rows_of
from pure_batchops.solvers.largest import largest
from pure_batchops.streams import reiterable
from pure_batchops.tracing import raise_or_nan
from pure_batchops.traits import traits_of
from pure_batchops.trees import device_of, leaves
from pure_batchops.types import Batch, Buffers, Operation, Params, Term, Vector

RESIDUAL = 0.1
"""The largest ‖v − (m + λI) x‖ / ‖v‖ that is accepted where the scale is not the caller's."""


def lissa(
    op: Operation, regularization: float | Tensor, *, scale: float | Tensor | None = None, depth: int = 1000, repeats: int = 1
) -> Operation:
    """The inverse (m + λI)⁻¹ by the recursion h ← v + (1 − λ/σ) h − m(b) h / σ over batches b, from h = v; x = h / σ.

    The recursion is a power series that ends after d steps. For a single batch, its relative error is (I − (m + λI)/σ)ᵈ⁺¹.
    Over several batches it is also random; a larger σ makes it less so. At the default σ one more pass measures the error.

    Args:
        op: any symmetric operation. With `averaged(op)` the steps take one batch after the other, weighed relative to the
            mean weight. With an operation on one batch each step takes that batch.
        regularization: λ ≥ 0; or a 0-dim tensor, which may be vmapped.
        scale: σ, more than half of the largest eigenvalue of m(b) + λI of every batch. By default that eigenvalue, the
            largest over the batches that the recursion takes, by ten steps of power iteration each. With a σ that is named
            the result is the recursion, and its error is not measured.
        depth: d, the steps.
        repeats: the number of recursions that are averaged; useful if the batches are shuffled each time.

    Returns:
        `op(params, buffers, batch, v) -> x`, linear. Under vmap and torch.compile, where no number can be read, rows
        that would have raised LinAlgError are NaN instead.

    Raises:
        TypeError: if op is not a function, or an option is not a number.
        ValueError: if regularization is negative, or scale, depth or repeats not positive. The operation raises it for a
            v that is not finite, and for no batch.
        torch.linalg.LinAlgError: by the operation, if the recursion diverges, or leaves a residual of more than
            0.1 ‖v‖ at the default scale.

    Examples:
        >>> from pure_batchops import hessian
        >>> op = hessian(lambda params, buffers, x: (params * x).square().sum(1) / 2)
        >>> inverse = lissa(op, 1.0, scale=5.0, depth=100)
        >>> inverse(torch.zeros(2), {}, torch.tensor([[1.0, 2.0]]), torch.tensor([4.0, 10.0])).round(decimals=3)
        tensor([2., 2.])

    References:
        Agarwal, Bullins and Hazan (2017), Second-order stochastic optimization for machine learning in linear time.
        Koh and Liang (2017), Understanding black-box predictions via influence functions.
    """
    checks.operation("op", op)
    regularization = checks.not_negative("regularization", regularization)
    depth, repeats = checks.whole("depth", depth), checks.whole("repeats", repeats)
    if scale is not None:
        scale = checks.positive("scale", scale)

    def at(params: Params, buffers: Buffers, batch: Batch) -> RowFunction:
        return partial(_solved, _terms(op, params, buffers, batch), regularization, scale, depth, repeats)

    return operation_on_rows(at)


def _solved(
    terms: Callable[[], Iterable[RowFunction]],
    regularization: float | Tensor,
    scale: float | Tensor | None,
    depth: int,
    repeats: int,
    rows: Tensor,
) -> Tensor:
    size = scale if scale is not None else regularization + largest(islice(terms(), depth), rows)

    def step(h: Tensor, product: RowFunction) -> Tensor:
        return rows + (1 - regularization / size) * h - product(h) / size

    total = sum(reduce(step, _cycled(terms, depth), rows) for _ in range(repeats))
    mean = torch.as_tensor(total) / repeats
    # Steps that do not increase lengths give ‖h‖ ≤ (d + 1) ‖v‖.
    bounded = lengths(mean) <= 1.01 * (depth + 1) * lengths(rows)
    solution = raise_or_nan(bounded, mean / size, partial(_diverged, size))
    if scale is not None:
        return solution
    products = [product(solution) for product in terms()]
    residual = lengths((rows - regularization * solution - sum(products) / len(products)).detach()) / lengths(rows)
    return raise_or_nan(~(residual > RESIDUAL), solution, partial(_inexact, size, residual))


def _terms(op: Operation, params: Params, buffers: Buffers, batch: Batch) -> Callable[[], Iterable[RowFunction]]:
    """When called, v ↦ w(b) m(b) v for each of the batches, the weights relative to their mean."""
    terms = traits_of(op).terms
    if terms is None:
        product = rows_of(op, params, buffers, batch).multiply
        return partial(_alone, product)
    reiterable("batches", batch)
    nothing = torch.empty(0, width(params), dtype=leaves(params)[0].dtype, device=device_of(params))
    weights = [float(term(nothing)[1]) for term in terms(params, buffers, batch)]
    if not sum(weights) > 0:
        msg = f"batches must have a positive total weight, got {sum(weights)} in {len(weights)} batches"
        raise ValueError(msg)
    mean = sum(weights) / len(weights)

    return lambda: (row_map(partial(_weighted, term, mean), params).multiply for term in terms(params, buffers, batch))


def _weighted(term: Term, mean: float, v: Vector) -> Vector:
    product, weight = term(v)
    return weight / mean * product


def _alone(product: RowFunction) -> list[RowFunction]:
    return [product]


def _cycled(terms: Callable[[], Iterable[RowFunction]], depth: int) -> Iterator[RowFunction]:
    left = depth
    while left:
        for product in islice(terms(), left):
            left -= 1
            yield product


def _inexact(scale: float | Tensor, residual: Tensor, good: Tensor) -> Exception:
    return LinAlgError(
        f"lissa must leave residuals of at most {RESIDUAL:g} of v's norm at its default scale, got up to "
        f"{float(residual[~good].max()):.3g} for {int((~good).sum())} of {len(good)} right-hand sides with scale = "
        f"{float(scale):.4g}; raise depth, or regularization; for batches that differ, name a scale several times larger "
        "with a depth as many times larger (a scale that is named is not checked), or use conjugate_gradient"
    )


def _diverged(scale: float | Tensor, good: Tensor) -> Exception:
    return LinAlgError(
        f"lissa must not diverge, but it does with scale = {float(scale):.4g} for {int((~good).sum())} of {len(good)} "
        "right-hand sides; raise scale above the largest eigenvalue of every batch, or regularization above the size of the "
        "most negative one; or use conjugate_gradient, which needs no scale"
    )
