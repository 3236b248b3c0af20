"""The law of derivatives: a gradient through the product is the slope of the product."""

import torch
from torch import Tensor

from pure_batchops.testing.case import Case, copied, doubled, states, vector
from pure_batchops.trees import leaves, tree_flatten, tree_unflatten

_STEP = 1e-5
"""The length of the steps of central differences, in double precision: seldom across a kink."""

_ALLOWED = 1e-3
"""Relative to the slope: a wrong derivative is seldom only a little wrong."""

_NOISE = 1e-5
"""Relative to the product, over a step: products that are themselves differences are right to 1e-10."""


def derivative(case: Case) -> bool:
    """The product must have the right derivative by params and buffers, with nothing detached, or raise an error."""
    wide = case._replace(params=doubled(case.params), buffers=doubled(case.buffers), batch=doubled(case.batch))
    gaps = []
    for params, buffers in states(wide)[:2]:  # a kink at params, as of a ReLU at zero, is not one near them
        try:
            found, slope, size = _slopes(wide._replace(params=params, buffers=buffers))
        except RuntimeError:  # torch has no such derivative, or the operation fixes another dtype
            return False
        if abs(found - slope) <= _ALLOWED * abs(slope) + _NOISE * size:
            return True
        gaps.append(f"got {found:.9g} by torch.autograd where the central difference is {slope:.9g}")
    msg = f"{gaps[0]}, the derivative of u · m v in a random direction of params and buffers"
    raise AssertionError(msg)


def _slopes(case: Case) -> tuple[float, float, float]:
    """The slope of u · m v in a random direction of params and buffers.

    Returns:
        It by autograd and by a central difference, and Σᵢ |uᵢ (m v)ᵢ|.
    """
    flat, structure = tree_flatten((case.params, case.buffers))
    moved = [i for i, leaf in enumerate(flat) if isinstance(leaf, Tensor) and leaf.is_floating_point()]
    along = _direction([flat[i] for i in moved], case.seed)

    def terms(points: list[Tensor]) -> Tensor:
        state = list(flat)
        for i, point in zip(moved, points, strict=True):
            state[i] = point
        params, buffers = tree_unflatten(state, structure)
        product = case.op(params, buffers, copied(case.batch), vector(case, 2))
        return torch.cat([(a * b).flatten().cpu() for a, b in zip(leaves(vector(case, 1)), leaves(product), strict=True)])

    def at(step: float) -> float:
        points = [flat[i] + step * direction for i, direction in zip(moved, along, strict=True)]
        return terms(points).detach().sum().item()

    points = [flat[i].detach().clone().requires_grad_() for i in moved]
    own = terms(points)
    gradients = torch.autograd.grad(own.sum(), points, allow_unused=True) if own.requires_grad else []
    found = sum((g * a).sum().item() for g, a in zip(gradients, along, strict=False) if g is not None)
    return found, (at(_STEP) - at(-_STEP)) / (2 * _STEP), own.detach().abs().sum().item()


def _direction(likes: list[Tensor], seed: int) -> list[Tensor]:
    """A random direction of length one."""
    generator = torch.Generator().manual_seed(seed)
    drawn = [torch.randn(like.shape, generator=generator, dtype=torch.float64) for like in likes]
    length = torch.stack([leaf.norm() for leaf in drawn]).norm()
    return [(leaf / length).to(like) for leaf, like in zip(drawn, likes, strict=True)]
