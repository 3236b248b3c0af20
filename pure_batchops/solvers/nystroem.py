"""The inverse of a randomised low-rank approximation."""

from functools import partial

import torch
from torch import Tensor

from pure_batchops import checks, tracing
from pure_batchops.noise import normal
from pure_batchops.rows import RowFunction, width
from pure_batchops.solvers.inverse import LinAlgError, lengths, operation_on_rows, rows_of
from pure_batchops.trees import parameter_leaves
from pure_batchops.types import Batch, Buffers, Operation, Params


def nystroem(op: Operation, regularization: float | Tensor, *, rank: int, seed: int | Tensor = 0) -> Operation:
    """The inverse (U Λ Uᵀ + λI)⁻¹ v = U (Λ + λI)⁻¹ Uᵀ v + (v − U Uᵀ v) / λ of a randomised approximation of rank r.

    U Λ Uᵀ = (A Ω) (Ωᵀ A Ω)⁻¹ (A Ω)ᵀ for A = m(batch) and r random orthonormal columns Ω. A is shifted by a multiple of
    the rounding of products before the inversion, and Λ is shifted back after it. It costs r + 1 products. As a preconditioner
    of conjugate gradients it removes about the r largest eigenvalues from the spectrum above λ.

    Args:
        op: any symmetric positive semi-definite operation, on a batch or, as `averaged(op)`, on batches.
        regularization: λ, positive and finite; or a 0-dim tensor, which may be vmapped.
        rank: r, at least 1 and at most D; with r = D the inverse is exact to rounding.
        seed: of Ω, which is the same for every v; or a 0-dim integer tensor, which may be vmapped, see `trace`.

    Returns:
        `op(params, buffers, batch, v) -> x`, symmetric and positive definite. `at` does all the products.

    Raises:
        TypeError: if op is not a function, or an option is not a number.
        ValueError: if regularization or rank is not positive, or seed is negative. The operation raises it for a rank larger
            than D, and for a v that is not finite.
        torch.linalg.LinAlgError: by the operation, if op is seen not to be positive semi-definite, on Ω or on
            one random row more; under vmap and torch.compile,
            where no number can be read, the product is NaN instead.

    Examples:
        >>> from pure_batchops import gauss_newton
        >>> op = gauss_newton(lambda params, buffers, x: (params * x).sum(1))
        >>> inverse = nystroem(op, 1.0, rank=1)
        >>> inverse(torch.zeros(2), {}, torch.tensor([[1.0, 0.0]]), torch.tensor([4.0, 10.0])).round(decimals=3)
        tensor([ 2., 10.])

    References:
        Tropp, Yurtsever, Udell and Cevher (2017), Fixed-rank approximation of a positive-semidefinite matrix from
        streaming data. Frangella, Tropp and Udell (2023), Randomized Nyström preconditioning.
    """
    checks.operation("op", op)
    regularization = checks.positive("regularization", regularization)
    rank, seed = checks.whole("rank", rank), checks.seed("seed", seed)

    def at(params: Params, buffers: Buffers, batch: Batch) -> RowFunction:
        size, dtype = width(params), next(iter(parameter_leaves(params).values())).dtype
        if rank > size:
            msg = f"rank must be at most the number of parameters, {size}, got {rank}"
            raise ValueError(msg)
        matrix = rows_of(op, params, buffers, batch)
        # Ωᵀ, and one row more, which shows whether what Ω does not see is positive semi-definite; (r + 1, D)
        basis = torch.linalg.qr(normal(seed, (min(rank + 1, size), size), matrix.like).mT)[0].mT
        basis = basis.to(dtype).to(basis.dtype)  # what op really multiplies: Ω need not be exactly orthonormal
        vectors, values = _eigenpairs(matrix.multiply(basis), basis, matrix.eps, rank)
        weights = 1 / (values + regularization) - 1 / regularization
        return partial(_inverse, regularization, vectors, weights)

    return operation_on_rows(at)


def _inverse(regularization: float | Tensor, vectors: Tensor, weights: Tensor, rows: Tensor) -> Tensor:
    return rows / regularization + ((rows @ vectors.mT) * weights) @ vectors


def _eigenpairs(images: Tensor, basis: Tensor, eps: float, rank: int) -> tuple[Tensor, Tensor]:
    """Uᵀ, `(r, D)`, and Λ, `(r,)`, from (A Ω)ᵀ and Ωᵀ, whose first r rows count."""
    shift = _shift(images, basis, eps)
    shifted = images + shift * basis  # Ωᵀ(A + νI)
    core = _symmetric(basis @ shifted.mT)
    factor, fault = torch.linalg.cholesky_ex(core)
    good = fault == 0
    factor = torch.where(good, factor, torch.eye(len(core), dtype=core.dtype, device=core.device))  # the SVD refuses NaN
    sketch = torch.linalg.solve_triangular(factor[:rank, :rank], shifted[:rank], upper=False)  # (A + νI) ≈ sketchᵀ sketch
    _, roots, vectors = torch.linalg.svd(sketch, full_matrices=False)
    values = (roots.square() - shift).clamp(min=0)
    return vectors, tracing.raise_or_nan(good, values, partial(_not_semidefinite, core))


def _shift(images: Tensor, basis: Tensor, eps: float) -> Tensor:
    """ν, which makes Ωᵀ A Ω positive definite in spite of rounding."""
    # A larger ν makes a larger error, of about ν D/r. For half precision the worst case of rounding would be far too much, so
    # take what is needed: the noise of products shows, because it makes Ωᵀ A Ω asymmetric, or some eigenvalue negative.
    size, rounding = lengths(images.reshape(1, -1))[0], torch.finfo(images.dtype).eps
    size = torch.where(size > 0, size, 1.0)  # the zero matrix
    worst, least = 8 * eps * size, 8 * rounding * size
    if eps <= rounding:
        return worst
    core = basis @ images.mT
    asymmetry = torch.linalg.matrix_norm((core - core.mT) / 2, 2)
    noise = torch.maximum(asymmetry, -torch.linalg.eigvalsh(_symmetric(core))[0])
    return (2 * noise).detach().clamp(least, worst)


def _symmetric(matrix: Tensor) -> Tensor:
    return (matrix + matrix.mT) / 2


def _not_semidefinite(core: Tensor, _: Tensor) -> Exception:
    least = float(torch.linalg.eigvalsh(core)[0])
    return LinAlgError(
        f"op must be positive semi-definite for nystroem, got a matrix that has the eigenvalue {least:.3g} on a random "
        "subspace; use gauss_newton or generalized_gauss_newton instead of hessian, or damped(op, ...)"
    )
