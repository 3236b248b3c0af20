"""How the eigenvalues are spread."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from pure_batchops import checks
from pure_batchops.averages.moments import moments, standard_error
from pure_batchops.budget import spans
from pure_batchops.estimators.lanczos import lanczos, ritz
from pure_batchops.estimators.student import widening
from pure_batchops.estimators.widths import checked_width, default_width
from pure_batchops.noise import signs
from pure_batchops.rows import RowMap
from pure_batchops.solvers.inverse import rows_of
from pure_batchops.types import Batch, Buffers, Operation, Params


class SpectralDensity(NamedTuple):
    """The density of the eigenvalues, ready to be drawn.

    Attributes:
        grid: t, `(points,)`, evenly spaced.
        density: φ(t), `(points,)`, not negative; its sum times the spacing of the grid is one.
        standard_error: of the density, `(points,)`, from the differences between starts, as wide as for `trace`.
    """

    grid: Tensor
    density: Tensor
    standard_error: Tensor


def spectral_density(
    op: Operation,
    *,
    samples: int = 10,
    steps: int = 80,
    points: int = 1000,
    seed: int | Tensor = 0,
    width: float | Tensor | None = None,
    chunk_size: int | None = None,
) -> Callable[[Params, Buffers, Batch], SpectralDensity]:
    """The spectral density φ(t) = 1/D Σᵢ N(t; λᵢ, σ²) of a symmetric matrix, by stochastic Lanczos quadrature.

    For random signs z, (1/D) zᵀ f(A) z has the mean (1/D) tr f(A), and m steps of Lanczos from z give it as Σⱼ τⱼ f(θⱼ),
    exactly for polynomials of degree < 2m: φ is the mean over starts of Σⱼ τⱼ N(t; θⱼ, σ²). Each point of the grid has the
    mean of φ over its cell, so that no peak is lost between points. The signs are the same as for `trace`, so the first
    moment of φ is the estimate of `trace` from as many samples, divided by D.

    Args:
        op: any symmetric operation, on a batch or, as `averaged(op)`, on batches that can be read again.
        samples: the number of starts z, at least 2. An eigenvalue of one in D shows up to a factor of about √(2/samples).
        steps: m, never more than D: the number of products for each start.
        points: the number of points of the grid, which spans the Ritz values θ and 6σ beyond.
        seed: of the signs; or a 0-dim integer tensor, which may be vmapped, see `trace`.
        width: σ; or a 0-dim tensor, which may be vmapped. By default a hundredth of the span of the Ritz values.
        chunk_size: how many starts go together, by default as many as hold 2²² numbers, m·D each.

    Returns:
        `density(params, buffers, batch) -> SpectralDensity`, in the precision of params, at least single. It integrates
        to one, its first moment is about tr A / D and the second about ‖A‖² / D + σ².

    Raises:
        TypeError: if op is not a function, or an option is not a number.
        ValueError: if samples or points are fewer than 2, steps or chunk_size is not positive, or width is not positive
            and finite. The function that is returned raises it for params without numbers, and for a width below the
            rounding of eigenvalues; under torch.vmap and torch.compile the density is NaN instead.

    Examples:
        >>> from pure_batchops import hessian
        >>> op = hessian(lambda params, buffers, x: (params * x).square().sum(1))
        >>> grid, density, _ = spectral_density(op, points=200)(torch.zeros(3), {}, torch.tensor([[1.0, 1.0, 2.0]]))
        >>> (density * (grid[1] - grid[0])).sum().round(decimals=4)
        tensor(1.)
        >>> (density * (grid > 5) * (grid[1] - grid[0])).sum().round(decimals=4)
        tensor(0.3333)

    References:
        Lin, Saad and Yang (2016), Approximating Spectral Densities of Large Matrices.
        Ghorbani, Krishnan and Xiao (2019), An Investigation into Neural Net Optimization via Hessian Eigenvalue Density.
    """
    checks.operation("op", op)
    samples, steps = checks.whole("samples", samples, 2), checks.whole("steps", steps)
    points, seed = checks.whole("points", points, 2), checks.seed("seed", seed)
    chunk_size = checks.whole_or_none("chunk_size", chunk_size)
    if width is not None:
        width = checks.positive("width", width)

    def density(params: Params, buffers: Buffers, batch: Batch) -> SpectralDensity:
        matrix = rows_of(op, params, buffers, batch)
        if matrix.size == 0:
            msg = "params must hold numbers for a spectral density, got 0 numbers; is everything frozen?"
            raise ValueError(msg)
        values, weights = _quadrature(matrix, samples, min(steps, matrix.size), seed, chunk_size)
        sigma = default_width(values, matrix, points) if width is None else checked_width(width, values, matrix, points)
        low, high = values.min() - 6 * sigma, values.max() + 6 * sigma
        places = torch.arange(-0.5, points, dtype=values.dtype, device=values.device) / (points - 1)
        edges = low + (high - low) * places  # of the cells around the points of the grid
        below = torch.special.ndtr((edges - values[..., None]) / sigma)  # (S, m, points + 1)
        masses = torch.einsum("sm,smp->sp", weights, below.diff().clamp(min=0))
        spread = moments(masses * (points - 1) / (high - low))
        grid = (edges[1:] + edges[:-1]) / 2
        return SpectralDensity(
            *(part.to(matrix.like.dtype) for part in (grid, spread.mean, standard_error(spread) * widening(samples - 1)))
        )

    return density


def _quadrature(matrix: RowMap, samples: int, steps: int, seed: int | Tensor, chunk_size: int | None) -> tuple[Tensor, Tensor]:
    """The nodes θ and the weights τ of each start, `(S, m)`."""

    def rule(first: int, many: int) -> tuple[Tensor, Tensor]:
        starts = signs(seed, many, matrix.size, matrix.like, start=first)
        values, vectors = ritz(lanczos(matrix, starts, steps, seed))
        return values, vectors[:, 0].square()

    rules = [rule(*span) for span in spans(samples, steps * matrix.size, chunk_size)]
    values, weights = (torch.cat(parts) for parts in zip(*rules, strict=True))
    return values.double(), weights.double()  # sums of Gaussians need more than single precision
