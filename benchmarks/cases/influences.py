"""The influences of training points on test points, as calls, and the inverses behind them."""

from collections.abc import Callable
from functools import partial

from torch import Tensor

from benchmarks.cases.operations import OPERATIONS
from benchmarks.cases.problems import Batch, Problem, pieces
from pure_batchops import Operation, averaged, conjugate_gradient, influence

SAMPLES, TEST_SHARE, BATCHES = 1_100, 11, 8
"""One sample in TEST_SHARE is a test point. The others form the batches."""

DAMPING = 1.0
"""Makes the Hessians positive definite."""

TOLERANCE = 1e-3
"""The relative residual at which a solve stops."""


def divided(batch: Batch) -> tuple[list[Batch], Batch]:
    """The batches of the training points, and the test points."""
    n = len(batch[1])
    train = n - n // TEST_SHARE
    return pieces((batch[0][:train], batch[1][:train]), -(-train // BATCHES)), (batch[0][train:], batch[1][train:])


def inverse(problem: Problem, operation: str) -> Operation:
    """The inverse behind an influence: the inverse harmonic mean itself, or a solve by conjugate gradients."""
    op = averaged(OPERATIONS[operation](problem))
    return op if operation == "inverse_harmonic_mean" else conjugate_gradient(op, DAMPING, tolerance=TOLERANCE)


def influences(problem: Problem, operation: str) -> Callable[[], Tensor]:
    """The call that gives the influences, `(test points, training points)`, with the sign of pyDVL."""
    of_points, (train, test) = influence(inverse(problem, operation), problem.loss), divided(problem.batch)
    return lambda: -of_points(problem.params, problem.buffers, train, test)


INFLUENCES: dict[str, Callable[[Problem], Callable[[], Tensor]]] = {
    f"influence_by_{operation}": partial(influences, operation=operation) for operation in ("inverse_harmonic_mean", "hessian")
}
"""Calls whose memory is measured, by the names that `benchmarks.memory` knows."""
