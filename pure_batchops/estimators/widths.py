"""The width of the Gaussians of a spectral density, and what rounding allows."""

import torch
from torch import Tensor

from pure_batchops.rows import RowMap
from pure_batchops.tracing import raise_or_nan

ROUNDINGS_WIDE, ROUNDINGS_APART = 4, 30
"""The least width, and the least spacing of a grid, in units of the rounding of the largest eigenvalue."""


def default_width(values: Tensor, matrix: RowMap, points: int) -> Tensor:
    """A hundredth of the span of the values. If they are equal up to rounding, a hundredth of their size, or of one."""
    span, size = values.max() - values.min(), values.abs().max()
    wide = torch.where(span > matrix.eps**0.5 * size, span, torch.where(size > 0, size, 1.0)) / 100
    return torch.maximum(wide, _least(values, matrix, points))


def _least(values: Tensor, matrix: RowMap, points: int) -> Tensor:
    """The least width that the rounding allows: of the eigenvalues, and of a grid whose points must not fall together."""
    span, size = values.max() - values.min(), values.abs().max()
    spacing = ROUNDINGS_APART * torch.finfo(matrix.like.dtype).eps * size
    return torch.maximum(ROUNDINGS_WIDE * matrix.eps * size, ((points - 1) * spacing - span) / 12)


def checked_width(width: float | Tensor, values: Tensor, matrix: RowMap, points: int) -> Tensor:
    """The width of the caller, refused or NaN where it is too small for the rounding."""
    sigma, least = width * torch.ones_like(values[0, 0]), _least(values, matrix, points).detach()

    def error(_: Tensor) -> Exception:
        return ValueError(
            f"width must be at least {float(least):.2g}, which the rounding of eigenvalues of up to "
            f"{float(values.detach().abs().max()):.2g} allows for {points} points, got {float(sigma.detach()):.2g}; use "
            "params in float64, or fewer points"
        )

    return raise_or_nan(~(sigma < least), sigma, error)
