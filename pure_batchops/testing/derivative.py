"""The law of derivatives: a gradient through the product is the slope of the product."""

import torch
from torch import Tensor

from pure_batchops.testing.case import Case, copied, states, vector
from pure_batchops.trees import leaves, tree_flatten, tree_map, tree_unflatten
from pure_batchops.types import Tree

_STEP = 1e-5
"""Of central differences in double precision: a thousandth of what is allowed, and seldom across a kink."""

_ALLOWED = 1e-3
"""Relative: a wrong derivative is not a little wrong, but the product may have a tolerance of its own."""


def derivative(case: Case) -> bool:
    """The product must have the right derivative by params and buffers, none of them detached, or raise an error."""
    wide = case._replace(params=_doubled(case.params), buffers=_doubled(case.buffers), batch=_doubled(case.batch))
    gaps = []
    for params, buffers in states(wide)[:2]:  # a kink at params, as of a ReLU at zero, is not one near them
        try:
            found, slope, size = _slopes(wide._replace(params=params, buffers=buffers))
        except RuntimeError:  # torch has no such derivative, or the operation fixes another dtype
            return False
        gap = abs(found - slope)
        if gap <= _ALLOWED * max(abs(slope), 1e-3 * size):
            return True
        gaps.append(f"got {found:.9g} by torch.autograd where the central difference is {slope:.9g}")
    raise AssertionError(f"{gaps[0]}, of u · m v in a random direction")


def _slopes(case: Case) -> tuple[float, float, float]:
    """The slope of u · m v in a random direction of params and buffers: by autograd, by central difference, and a scale."""
    u, v = vector(case, 1), vector(case, 2)
    flat, structure = tree_flatten((case.params, case.buffers))
    moved = [i for i, leaf in enumerate(flat) if isinstance(leaf, Tensor) and leaf.is_floating_point()]
    generator = torch.Generator().manual_seed(case.seed)
    along = [torch.randn(flat[i].shape, generator=generator, dtype=torch.float64).to(flat[i]) for i in moved]

    def value(points: list[Tensor]) -> Tensor:
        state = list(flat)
        for i, point in zip(moved, points, strict=True):
            state[i] = point
        params, buffers = tree_unflatten(state, structure)
        product = case.op(params, buffers, copied(case.batch), copied(v))
        return torch.stack([(a * b).sum() for a, b in zip(leaves(u), leaves(product), strict=True)]).sum()

    def at(step: float) -> float:
        return value([flat[i] + step * direction for i, direction in zip(moved, along, strict=True)]).item()

    slope = (at(_STEP) - at(-_STEP)) / (2 * _STEP)
    points = [flat[i].detach().clone().requires_grad_() for i in moved]
    result = value(points)
    gradients = torch.autograd.grad(result, points, allow_unused=True) if result.requires_grad else ()
    pairs = [(g, a) for g, a in zip(gradients, along, strict=False) if g is not None]
    return sum((g * a).sum().item() for g, a in pairs), slope, abs(result.item())


def _doubled(tree: Tree) -> Tree:
    return tree_map(lambda leaf: leaf.double() if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf, tree)
