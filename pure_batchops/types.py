"""The words that every signature uses; nothing here runs.

A *tree* is a tensor or any nesting of dicts, lists, tuples and registered containers that holds tensors.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, Protocol

from torch import Tensor

Tree = Any
"""A tensor, or a nesting of containers that holds tensors."""

Params = Any
"""What is differentiated: a tree of floating-point tensors, D numbers in all."""

Buffers = Any
"""Everything else that the forward pass reads: buffers and frozen parameters."""

Batch = Any
"""The data that define a matrix: `(inputs, targets)`, or whatever the loss reads."""

Vector = Any
"""One vector or K of them: a tree like params, the same with a leading axis K, `(D,)`, or `(K, D)`."""

LinearMap = Callable[[Tree], Tree]
"""A linear function of trees."""

Forward = Callable[[Params, Buffers, Tree], Tree]
"""`(params, buffers, inputs) -> outputs`."""

Criterion = Callable[[Any, Any], Tensor]
"""`(output, target) -> one number`, the output and the target with a batch axis of length one."""

Selection = Any
"""Which parameters: a name, a shell pattern, several of them, or a predicate on `(name, tensor)`."""


Term = Callable[[Vector], tuple[Vector, float]]
"""One batch of an average: `v -> (product, weight)`."""

Terms = Callable[[Params, Buffers, Iterable[Batch]], Iterator[Term]]
"""`(params, buffers, batches) -> terms`: the terms of an average, one for each batch."""


class Traits(NamedTuple):
    """What is known of a loss or an operation beside its signature.

    Attributes:
        batch_dim: of a loss, the axis of the samples in its batches.
        independent: of a loss, whether the loss of each sample depends on no other sample.
        plain: of a loss, whether it enters `plain_calls` itself, wherever it runs code that is not ours.
        terms: of an average, the batches one by one.
    """

    batch_dim: int = 0
    independent: bool = False
    plain: bool = False
    terms: Terms | None = None


class SampleLosses(Protocol):
    """`(params, buffers, batch) -> (n,)`: the loss of each sample, which depends on no other sample."""

    def __call__(self, params: Params, buffers: Buffers, batch: Batch, /) -> Tensor: ...


class Operation(Protocol):
    """`(params, buffers, batch, v) -> m(batch) · v`, the product in the form of v.

    `at(params, buffers, batch)` does all the work that does not depend on v and returns `v -> product`.
    """

    def __call__(self, params: Params, buffers: Buffers, batch: Batch, v: Vector, /) -> Vector: ...

    @property
    def at(self) -> Callable[[Params, Buffers, Batch], Callable[[Vector], Vector]]: ...


class Likelihood(NamedTuple):
    """A distribution of targets given the model's output, for `monte_carlo_fisher`.

    Attributes:
        targets: `(outputs, uniform) -> targets`: one target for each sample, as a function of the outputs (samples
            along the first axis) and of independent numbers in (0, 1), of the shape of the outputs.
        criterion: the negative log-likelihood, `(output, target) -> one number`.
    """

    targets: Callable[[Tensor, Tensor], Tensor]
    criterion: Criterion


class Estimate(NamedTuple):
    """A number or a tensor of numbers that is known up to an error.

    Attributes:
        value: the estimate.
        standard_error: the standard deviation of each of its numbers, itself estimated.
    """

    value: Any
    standard_error: Any
