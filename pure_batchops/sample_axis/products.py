"""Products of matrices: samples stay apart if the product does not sum over their axis."""

from typing import Any

from torch import Tensor

from pure_batchops.sample_axis.axis import Given, SampleAxis, argument


def matrix_product(given: Given, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> SampleAxis | None:
    """Where the samples lie in `x @ y`."""
    names = ("mat2", "other", "tensor2", "vec2", "vec")
    x = argument(args, kwargs, 0, "input")
    y = args[1] if len(args) > 1 else next((kwargs[name] for name in names if name in kwargs), None)
    return _product(given, x, y, output)


def added_product(given: Given, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> SampleAxis | None:
    """Where the samples lie in `c + x @ y`: `addmm`, `addmv`, `baddbmm`."""
    if len(args) < 3 or {"beta", "alpha"} & set(kwargs):
        return None
    where = _product(given, args[1], args[2], output)
    shift, added = args[0], given(args[0])
    if added is not None and added._replace(axis=output.dim() - shift.dim() + added.axis) != where:
        return None
    return where


def _product(given: Given, x: Any, y: Any, output: Any) -> SampleAxis | None:
    if not isinstance(x, Tensor) or not isinstance(y, Tensor) or not isinstance(output, Tensor):
        return None
    # The axes of the output, from the right: columns of y (none if y is a vector), rows of x (none if x is one), then stacks.
    in_x, in_y = given(x), given(y)
    places = set()
    if in_x is not None:
        from_right = x.dim() - in_x.axis
        if from_right == 1:  # the product sums over this axis
            return None
        places.add((from_right - (y.dim() == 1), *in_x[1:]))
    if in_y is not None:
        from_right = y.dim() - in_y.axis
        if y.dim() == 1 or from_right == 2:
            return None
        places.add((from_right - (x.dim() == 1 and from_right > 2), *in_y[1:]))
    if len(places) != 1:
        return None
    from_right, before, n, after = places.pop()
    axis = output.dim() - from_right
    is_there = 0 <= axis < output.dim() and output.shape[axis] == before * n * after
    return SampleAxis(axis, before, n, after) if is_there else None


def summed_products(given: Given, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> SampleAxis | None:  # noqa: ARG001
    """Where the samples lie in `einsum`, if every factor that holds them has the same letter for them, and the output too."""
    equation, *factors = args
    factors = list(factors[0]) if len(factors) == 1 and isinstance(factors[0], (tuple, list)) else factors
    if not isinstance(equation, str) or "->" not in equation or "." in equation:
        return None
    left, right = equation.replace(" ", "").split("->")
    letters = set()
    for subscripts, factor in zip(left.split(","), factors, strict=True):
        where = given(factor)
        if where is not None:
            letters.add((subscripts[where.axis], *where[1:]))
        if len(set(subscripts)) != len(subscripts):  # a diagonal
            return None
    if len(letters) != 1:
        return None
    letter, before, n, after = letters.pop()
    return SampleAxis(right.index(letter), before, n, after) if letter in right else None


def linear(given: Given, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> SampleAxis | None:  # noqa: ARG001
    """Where the samples lie in a linear layer, whose weight and bias hold none."""
    x = argument(args, kwargs, 0, "input")
    where = given(x)
    others = [argument(args, kwargs, 1, "weight"), argument(args, kwargs, 2, "bias")]
    if where is None or where.axis == x.dim() - 1 or any(given(other) is not None for other in others):
        return None
    return where
