"""Operations averaged over batches, with the error that comes from the spread of the batches: the same fold."""

from collections.abc import Callable, Iterable
from functools import reduce
from typing import NamedTuple

import torch

from pure_batchops import checks
from pure_batchops.averages import moments
from pure_batchops.averages.moments import Moments
from pure_batchops.averages.state import AverageState, average_merge, average_result, average_start, average_step
from pure_batchops.averages.stream import Progress, Weight, weighted_products
from pure_batchops.trees import Path, named_leaves, rebuilt
from pure_batchops.types import Batch, Buffers, Estimate, Operation, Params, Tree, Vector


class _State(NamedTuple):
    """What is kept of the products t with weights w: their weighted sum, their moments for the weights w², their number."""

    total: AverageState
    spread: dict[Path, Moments]
    batches: int


def averaged_with_error(
    op: Operation,
    weight: Weight | None = None,
    progress: Progress | None = None,
) -> Callable[[Params, Buffers, Iterable[Batch], Vector], Estimate]:
    """The operation averaged over n batches, t̄ = Σ wᵢ tᵢ / Σ wᵢ, with its standard error.

    Its square is n/(n−1) Σ wᵢ² (tᵢ − t̄)² / (Σ wᵢ)², for each number of the product. It is that of batches drawn
    independently, and says how far the product of some batches may be from that of all data.

    Args:
        op: any operation on a batch, also under vmap.
        weight: what a batch counts, as for `averaged`; batches that count nothing are not among the n.
        progress: wraps the stream of batches, `tqdm` for one.

    Returns:
        `average(params, buffers, batches, v) -> Estimate(product, standard_error)`, both in the form of v, and in its dtype:
        batches is any iterable, read once and one at a time. The product is that of `averaged`.

    Raises:
        TypeError: if op, weight or progress is no function.
        ValueError: if there are fewer than two batches that count, from the function that is returned.

    Examples:
        >>> from pure_batchops import gauss_newton
        >>> mean_op = averaged_with_error(gauss_newton(lambda params, buffers, x: params * x))
        >>> batches = [torch.tensor([1.0]), torch.tensor([2.0]), torch.tensor([2.0])]
        >>> mean_op(torch.tensor([1.0]), {}, batches, torch.tensor([1.0]))
        Estimate(value=tensor([3.]), standard_error=tensor([1.]))

    References:
        Cochran (1977), Sampling Techniques, section 6.3: a mean over clusters of unequal size is a ratio.
    """
    stream = weighted_products(op, weight, finite=False)
    checks.function_or_none("progress", progress)

    def average(params: Params, buffers: Buffers, batches: Iterable[Batch], v: Vector) -> Estimate:
        pairs = stream(params, buffers, batches if progress is None else progress(batches), v)
        return _estimate(reduce(_merged, (_state(*pair) for pair in pairs), None))

    return average


def _state(product: Tree, weight: float) -> _State:
    total = average_step(average_start(), product, weight)
    wide = {path: leaf.dtype for path, leaf in named_leaves(total.total).items()}
    spread = {
        path: Moments(total.weight**2, leaf.to(wide[path]), torch.zeros_like(leaf, dtype=wide[path]))
        for path, leaf in named_leaves(product).items()
    }
    return _State(total, spread, int(total.weight > 0))


def _merged(one: _State | None, other: _State) -> _State:
    if one is None:
        return other
    total = average_merge(one.total, other.total)  # which refuses products that differ
    spread = {path: moments.merged(leaf, other.spread[path]) for path, leaf in one.spread.items()}
    return _State(total, spread, one.batches + other.batches)


def _estimate(state: _State | None) -> Estimate:
    mean = average_result(average_start() if state is None else state.total)
    n = 0 if state is None else state.batches
    if state is None or n < 2:
        msg = f"batches must be at least two that count, to have a standard error, got {n}"
        raise ValueError(msg)
    total, weight = state.total.total, state.total.weight
    errors = []
    for (path, leaf), dtype in zip(named_leaves(total).items(), state.total.dtypes, strict=True):
        found = state.spread[path]
        about = found.squares + (found.mean - leaf / weight).square() * found.weight  # about t̄, not the mean for weights w²
        errors.append(((about * n / (n - 1)).sqrt() / weight).to(dtype))
    return Estimate(mean, rebuilt(total, errors))
