"""Operations averaged over batches, with the error that follows from the spread of the batches."""

from collections.abc import Callable, Iterable
from functools import reduce
from typing import NamedTuple

import torch

from pure_batchops.averages import moments
from pure_batchops.averages.moments import Moments
from pure_batchops.averages.state import AverageState, average_merge, average_result, average_start, average_step
from pure_batchops.averages.stream import Progress, Weight, stream_of
from pure_batchops.trees import Path, named_leaves, rebuilt
from pure_batchops.types import Batch, Buffers, Estimate, Operation, Params, Tree, Vector


class _State(NamedTuple):
    """What is kept of the products t with weights w.

    Attributes:
        average: the state of their average.
        spread: the moments of each leaf, for the weights w².
        batches: how many products have a positive weight.
        largest: the largest weight.
    """

    average: AverageState
    spread: dict[Path, Moments]
    batches: int
    largest: float


def averaged_with_error(
    op: Operation,
    weight: Weight | None = None,
    progress: Progress | None = None,
) -> Callable[[Params, Buffers, Iterable[Batch], Vector], Estimate]:
    """The operation averaged over n batches, t̄ = Σ wᵢ tᵢ / Σ wᵢ, with its standard error.

    The square of the standard error is (n−1)/n Σ wᵢ² (tᵢ − t̄)² / (Σ wᵢ − max wᵢ)², for each number of the product. For equal
    weights it is the variance of the products over n. For unequal ones it is larger, because a batch that weighs much is close
    to the mean that it makes: it is at least the error of the jackknife. It holds for batches that are drawn independently. It
    says how far the product of these batches may be from the product of all data.

    Few batches tell little about their own spread. The product of all data lies within two standard errors in at least 70 of
    100 cases for an effective number of two batches, 81 for three, 89 for six, 94 for twenty: in Student's t of one degree of
    freedom less. The effective number is (Σ wᵢ)² / Σ wᵢ².

    Args:
        op: any operation on a batch, also under vmap.
        weight: the weight of a batch, as for `averaged`. Batches of weight zero are not among the n.
        progress: wraps the stream of batches, for example `tqdm`.

    Returns:
        `average(params, buffers, batches, v) -> Estimate(product, standard_error)`. Both have the form and the dtype of v.
        `batches` is any iterable; it is read once, one batch at a time. The product is the one of `averaged`.

    Raises:
        TypeError: if op, weight or progress is no function.
        ValueError: by the function that is returned, if fewer than two batches have a positive weight, and where `averaged`
            raises it.

    Examples:
        >>> from pure_batchops import gauss_newton
        >>> mean_op = averaged_with_error(gauss_newton(lambda params, buffers, x: params * x))
        >>> batches = [torch.tensor([1.0]), torch.tensor([2.0]), torch.tensor([2.0])]
        >>> mean_op(torch.tensor([1.0]), {}, batches, torch.tensor([1.0]))
        Estimate(value=tensor([3.]), standard_error=tensor([1.]))

    References:
        Cochran (1977), Sampling Techniques, section 6.3: a mean over clusters of unequal size is a ratio.
        Efron and Stein (1981), The jackknife estimate of variance.
    """
    stream = stream_of(op, weight, progress, finite=False)

    def average(params: Params, buffers: Buffers, batches: Iterable[Batch], v: Vector) -> Estimate:
        pairs = stream.products(params, buffers, batches, v)
        return _estimate(reduce(_merged, (_state(*pair) for pair in pairs), None))

    return average


def _state(product: Tree, weight: float) -> _State:
    average = average_step(average_start(), product, weight)
    zeros = {path: torch.zeros_like(leaf) for path, leaf in named_leaves(average.total).items()}
    spread = {
        path: Moments(average.weight**2, leaf.to(zeros[path].dtype) if average.weight else zeros[path], zeros[path])
        for path, leaf in named_leaves(product).items()
    }
    return _State(average, spread, int(average.weight > 0), average.weight)


def _merged(one: _State | None, other: _State) -> _State:
    if one is None:
        return other
    average = average_merge(one.average, other.average)  # refuses products that differ in structure
    spread = {path: moments.merged(of_leaf, other.spread[path]) for path, of_leaf in one.spread.items()}
    return _State(average, spread, one.batches + other.batches, max(one.largest, other.largest))


def _estimate(state: _State | None) -> Estimate:
    mean = average_result(average_start() if state is None else state.average)
    n = 0 if state is None else state.batches
    if state is None or n < 2:
        msg = f"batches must be at least two of positive weight to have a standard error, got {n}"
        raise ValueError(msg)
    total, weight, _, dtypes = state.average
    errors = []
    for (path, leaf), dtype in zip(named_leaves(total).items(), dtypes, strict=True):
        of_leaf = state.spread[path]
        # Σ w² (t − t̄)²: the spread is known about the mean for the weights w², which is not t̄
        squares = of_leaf.squares + (of_leaf.mean - leaf / weight).square() * of_leaf.weight
        errors.append(((squares * (n - 1) / n).sqrt() / (weight - state.largest)).to(dtype))
    return Estimate(mean, rebuilt(total, errors))
