"""Products with the Hessian of a function by differences of its gradient, with a check that they do not depend on the step."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import grad

from pure_batchops import tracing
from pure_batchops.trees import leaves, map_leaves
from pure_batchops.types import LinearMap, Params, Tree

_NOISE = 32
"""How many times the rounding of the gradient a product may change from step to step. Networks were seen to reach 10."""


def finite_difference(function: Callable[[Params], Tensor], params: Params, step: float | Tensor | None = None) -> LinearMap:
    """V ↦ (g(θ + δv̂) − g(θ − δv̂)) ‖v‖ / 2δ, with v̂ = v / ‖v‖ and δ = step · (1 + ‖θ‖). The same with δ/2 must agree."""
    gradient = grad(function)
    epsilon = max(torch.finfo(leaf.dtype).eps for leaf in leaves(params))
    step = _step(step, epsilon)
    distance = step * (1 + _norm(params))

    def quotient(v: Tree, factor: Tensor) -> tuple[Tree, Tensor]:
        ahead, behind = (
            gradient(map_leaves(lambda p, d, sign=sign: p + (sign * factor).to(p.dtype) * d, params, v)) for sign in (1, -1)
        )
        rounding = epsilon * _norm(map_leaves(torch.Tensor.detach, ahead)) / factor.detach()
        return map_leaves(lambda a, b: ((a - b) / (2 * factor)).to(a.dtype), ahead, behind), rounding

    def product(v: Tree) -> Tree:
        size = _norm(v)
        factor = distance / torch.where(size > 0, size, 1)
        whole, rounding = quotient(v, factor)
        half, _ = quotient(v, factor / 2)
        return _settled(whole, half, epsilon**0.2, _NOISE * rounding, step)

    return product


def _step(step: float | Tensor | None, epsilon: float) -> float | Tensor:
    """The step. By default √ε in double precision, where few kinks lie so near, and ∛ε otherwise, which rounding spares."""
    least = epsilon**0.75
    if step is None:
        return float(epsilon ** (1 / 2 if epsilon < 1e-12 else 1 / 3))
    checked = step if isinstance(step, Tensor) else torch.tensor(step, dtype=torch.float64)

    def error(_: Tensor) -> ValueError:
        return ValueError(
            f"step must be at least {least:.1g} for params of this dtype, got {float(checked.detach()):.3g}; the difference "
            "of a shorter step is all rounding"
        )

    return tracing.raise_or_nan(checked >= least, checked, error)


def _settled(whole: Tree, half: Tree, tolerance: float, noise: Tensor, step: float | Tensor) -> Tree:
    """The product, if that with half the step is the same; else an error, or NaN where no number can be read.

    By halving the step the product changes as much as a kink within the step makes it wrong, and by 3/4 of that for a smooth
    function.

    Returns:
        The product with the whole step.
    """
    norms = [_norm(map_leaves(torch.Tensor.detach, tree)) for tree in (whole, half)]
    gap = _norm(map_leaves(lambda a, b: (a - b).detach(), whole, half))
    settled = (gap <= tolerance * torch.maximum(*norms) + noise) | ~gap.isfinite()

    def error(_: Tensor) -> ValueError:
        first, second, difference = (float(number) for number in (*norms, gap))
        return ValueError(
            f"a finite difference must not depend on its step, got products of the norms {first:.4g} with "
            f"step={float(step):.2g} and {second:.4g} with half of it, which differ by {difference:.2g}; across kinks (ReLU, "
            "max pooling) take a shorter step=, against rounding a longer one or params in double precision, or "
            "take another mode"
        )

    return map_leaves(lambda leaf: tracing.raise_or_nan(settled, leaf, error), whole)


def _norm(tree: Tree) -> Tensor:
    """The Euclidean norm of a tree, in double precision: squares of half precision overflow."""
    first = leaves(tree)[0]
    squares = torch.stack([leaf.double().square().sum().to(first.device) for leaf in leaves(tree)])
    return squares.sum().sqrt()
