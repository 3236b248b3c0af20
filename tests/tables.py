"""The tables of the laws: one row for each operation and one for each inverse. Nothing is built before a test calls a row."""

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import settings
from torch.testing import assert_close

import pure_batchops as pb
from pure_batchops.noise import uniform
from tests import dense
from tests.strategies import KINDS, Problem, problems

LAMBDA = 0.3
SAMPLES, SEED = 2, 5  # of the sampled Fisher


class Row(NamedTuple):
    """An operation, its dense twin, and what is special about it."""

    operation: Callable[..., Any]  # problem, **options → op
    twin: Callable[[Problem], torch.Tensor]
    definite: bool = False  # positive semi-definite for every problem of the strategies
    tolerance: dict[str, float] = {}  # wider than the defaults of assert_close only for finite differences
    half: bool = True  # is near the dense product in half precision
    splits: bool = True  # the average over any split of the data is the whole
    chunks: bool = True  # has chunk_size
    compiled: bool = True  # the compiler does not take the route of another row
    again: bool = False  # the matrix of another row, by another route
    unused: float = 0.0  # what the diagonal holds for a parameter that no loss uses


def values(p: Problem) -> list[torch.Tensor]:
    return dense.losses(p.model, p.criterion, p.batch, p.batch_dim)


def half_squares(output: Any, target: Any) -> Any:
    return (output - target).square().sum() / 2


def hessian(mode: str) -> Callable[..., Any]:
    return lambda p, **options: pb.hessian(p.loss, mode=mode, **options)


def gauss_newton(p: Problem, **options: Any) -> Any:
    return pb.gauss_newton(p.loss, **options)


def harmonic_mean(p: Problem, **options: Any) -> Any:
    return pb.inverse_harmonic_mean(p.loss, LAMBDA, **options)


def by_layer(operation: Callable[..., Any]) -> Callable[..., Any]:
    """With one number less than the gradients of all samples have: layers are kept as inputs and gradients of outputs."""
    return lambda p, **options: operation(p, held=pb.n_points(p.batch, p.batch_dim) * p.numbers - 1, **options)


def unheld(operation: Callable[..., Any]) -> Callable[..., Any]:
    return lambda p, **options: operation(p, held=0, **options)


def generalized_gauss_newton(p: Problem, **options: Any) -> Any:
    return pb.generalized_gauss_newton(p.model, p.criterion, batch_dim=p.batch_dim, **options)


def fisher(p: Problem, **options: Any) -> Any:
    likelihood = pb.Likelihood(lambda outputs, noise: outputs.tanh() + noise, half_squares)
    return pb.monte_carlo_fisher(p.model, likelihood, samples=SAMPLES, seed=SEED, batch_dim=p.batch_dim, **options)


def dense_hessian(p: Problem) -> torch.Tensor:
    return dense.hessian(values(p), p.tensors)


def dense_gauss_newton(p: Problem) -> torch.Tensor:
    return dense.gauss_newton(values(p), p.tensors)


def dense_harmonic_mean(p: Problem) -> torch.Tensor:
    return dense.inverse_harmonic_mean(values(p), p.tensors, LAMBDA)


def dense_fisher(p: Problem) -> torch.Tensor:
    inputs, targets = p.batch
    samples = range(targets.shape[p.batch_dim])
    outputs = torch.cat([p.model(dense.sample(inputs, i, p.batch_dim)) for i in samples], p.batch_dim)
    rows = outputs.detach().movedim(p.batch_dim, 0)
    noise = uniform(SEED, (SAMPLES, *rows.shape), like=rows)
    total = 0
    for s in range(SAMPLES):
        drawn = inputs, (rows.tanh() + noise[s]).movedim(0, p.batch_dim)
        total = total + dense.gauss_newton(dense.losses(p.model, half_squares, drawn, p.batch_dim), p.tensors)
    return total / SAMPLES


def dense_blocks(p: Problem) -> torch.Tensor:
    return dense.block_diagonal(dense_hessian(p), [leaf.numel() for leaf in p.params.values()])


ROWS = {
    "hessian": Row(hessian("reverse_over_reverse"), dense_hessian),
    "hessian_forward_over_reverse": Row(hessian("forward_over_reverse"), dense_hessian),
    "hessian_reverse_over_forward": Row(hessian("reverse_over_forward"), dense_hessian),
    # Central differences with a step of ∛ε are right to about ε^(2/3) of the third derivative. Half precision has no step
    # that is both small and exact.
    "hessian_finite_difference": Row(
        hessian("finite_difference"), dense_hessian, tolerance={"rtol": 1e-4, "atol": 1e-4}, half=False
    ),
    "gauss_newton": Row(gauss_newton, dense_gauss_newton, definite=True),
    "inverse_harmonic_mean": Row(harmonic_mean, dense_harmonic_mean, definite=True, unused=1 / LAMBDA),
    "gauss_newton_by_layer": Row(by_layer(gauss_newton), dense_gauss_newton, definite=True, compiled=False, again=True),
    "inverse_harmonic_mean_by_layer": Row(
        by_layer(harmonic_mean), dense_harmonic_mean, definite=True, compiled=False, again=True, unused=1 / LAMBDA
    ),
    "gauss_newton_unheld": Row(unheld(gauss_newton), dense_gauss_newton, definite=True, again=True),
    "inverse_harmonic_mean_unheld": Row(
        unheld(harmonic_mean), dense_harmonic_mean, definite=True, again=True, unused=1 / LAMBDA
    ),
    "generalized_gauss_newton": Row(
        generalized_gauss_newton,
        lambda p: dense.generalized_gauss_newton(p.model, p.criterion, p.batch, p.tensors, p.batch_dim),
        definite=True,  # every criterion of the strategies is convex in the output
    ),
    "monte_carlo_fisher": Row(fisher, dense_fisher, definite=True, splits=False),
    "damped": Row(
        lambda p: pb.damped(pb.gauss_newton(p.loss), LAMBDA),
        lambda p: dense_gauss_newton(p) + LAMBDA * torch.eye(p.numbers, dtype=torch.float64),
        definite=True,
        chunks=False,
        unused=LAMBDA,
    ),
    "block_diagonal": Row(lambda p: pb.block_diagonal(pb.hessian(p.loss), list(p.params)), dense_blocks, chunks=False),
}


class Inverse(NamedTuple):
    """A method, and what is special about it."""

    inverse: Callable[..., Any]  # op, λ, the largest eigenvalue, D, tolerance → the inverse of op + λ
    definite: bool = False  # needs a positive semi-definite matrix
    averages: bool = True  # of an average over several batches it is the inverse of the mean, not a random one


def preconditioned(op: Any, regularization: Any, largest: float, size: int, tolerance: float = 1e-12) -> Any:
    near = pb.nystroem(op, regularization, rank=max(1, size // 2))
    return pb.conjugate_gradient(op, regularization, tolerance=tolerance, preconditioner=near)


INVERSES = {
    "conjugate_gradient": Inverse(
        lambda op, regularization, largest, size, tolerance=1e-12: pb.conjugate_gradient(
            op, regularization, tolerance=tolerance
        )
    ),
    "preconditioned": Inverse(preconditioned, definite=True),
    "lissa": Inverse(
        lambda op, regularization, largest, size, tolerance=None: pb.lissa(
            op, regularization, scale=regularization + largest, depth=22
        ),
        averages=False,
    ),
    "lissa_of_its_own_scale": Inverse(
        lambda op, regularization, largest, size, tolerance=None: pb.lissa(op, regularization, depth=22), averages=False
    ),
    "nystroem": Inverse(
        lambda op, regularization, largest, size, tolerance=None: pb.nystroem(op, regularization, rank=size), definite=True
    ),
    "direct": Inverse(lambda op, regularization, largest, size, tolerance=None: pb.direct(op, regularization)),
}

few = settings(max_examples=settings().max_examples // 2)  # each example is many products
smooth = problems([kind for kind in KINDS if kind not in ("convolution", "one")])  # no kinks: their derivatives jump


def each(table: dict[str, Any], argument: str = "row") -> Any:
    """A test for each entry of a table, under its name."""
    return pytest.mark.parametrize(argument, table.values(), ids=table)


def rows(holds: Callable[[Row], Any]) -> Any:
    """A test for each row of which this holds."""
    return each({name: row for name, row in ROWS.items() if holds(row)})


every_row = each(ROWS)
every_inverse = each(INVERSES, "inverse")


def close(row: Row, actual: Any, expected: Any) -> None:
    assert_close(actual, expected, **row.tolerance)
