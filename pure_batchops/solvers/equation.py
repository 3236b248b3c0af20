"""The equation that a solver solves, and the tensors that it holds."""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from pure_batchops.solvers.inverse import plus, rows_of
from pure_batchops.trees import tree_flatten, tree_unflatten
from pure_batchops.types import Batch, Buffers, Operation, Params


class Equation(NamedTuple):
    """(m + λI) x = v at one point.

    Attributes:
        op: m.
        regularization: λ.
        point: params, buffers and batch.
    """

    op: Operation
    regularization: float | Tensor
    point: tuple[Params, Buffers, Batch]


def constant(equation: Equation) -> Equation:
    """The same equation, as a constant for everyone who differentiates."""
    return with_tensors(equation, [tensor.detach() for tensor in tensors_of(equation)])


def multiplied(equation: Equation, rows: Tensor) -> Tensor:
    """(m + λI) applied to rows."""
    return plus(rows_of(equation.op, *equation.point).multiply(rows), equation.regularization, rows)


def tensors_of(equation: Equation) -> list[Tensor]:
    """The tensors that the equation holds: λ, and those of the point."""
    return [leaf for leaf in tree_flatten((equation.regularization, equation.point))[0] if isinstance(leaf, Tensor)]


def with_tensors(equation: Equation, tensors: Sequence[Tensor]) -> Equation:
    """The equation with other tensors in the same places."""
    leaves, shape = tree_flatten((equation.regularization, equation.point))
    replaced = iter(tensors)
    regularization, point = tree_unflatten([next(replaced) if isinstance(leaf, Tensor) else leaf for leaf in leaves], shape)
    return Equation(equation.op, regularization, point)
