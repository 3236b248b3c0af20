"""The inverse of a randomised low-rank approximation."""

from functools import partial

import torch
from torch import Tensor

from pure_batchops import checks, tracing
from pure_batchops.noise import normal
from pure_batchops.solvers.rows import LinAlgError, RowMap, operation_on_rows, rows_of, width
from pure_batchops.trees import parameter_leaves
from pure_batchops.types import Batch, Buffers, Operation, Params


def nystroem(op: Operation, regularization: float | Tensor, *, rank: int, seed: int = 0) -> Operation:
    """The inverse (U Λ Uᵀ + λI)⁻¹ v = U (Λ + λI)⁻¹ Uᵀ v + (v − U Uᵀ v) / λ of a randomised approximation of rank r.

    U Λ Uᵀ = (A Ω) (Ωᵀ A Ω)⁻¹ (A Ω)ᵀ for A = m(batch) and r random orthonormal columns Ω; before the inversion A is
    shifted by a multiple of rounding, after it Λ is shifted back. It costs r products. As the preconditioner of
    conjugate gradients it leaves of the spectrum above λ what the largest r eigenvalues do not hold.

    Args:
        op: any symmetric positive semi-definite operation, on a batch or, as `averaged(op)`, on batches.
        regularization: λ, positive and finite; or a 0-dim tensor, which may be vmapped.
        rank: r, at least 1 and at most D; with r = D the inverse is exact to rounding.
        seed: of Ω, which is the same for every v and every member of an ensemble.

    Returns:
        `op(params, buffers, batch, v) -> x`, symmetric and positive definite. `at` does all the products.

    Raises:
        TypeError: if op is no function, or an option is no number.
        ValueError: if regularization or rank is not positive, or seed is negative. The operation raises it for a rank larger
            than D, and for a v that is not finite.
        torch.linalg.LinAlgError: by the operation, if op is not positive semi-definite; under vmap and torch.compile,
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
    damping = checks.positive("regularization", regularization)
    columns, start = checks.whole("rank", rank), checks.whole("seed", seed, least=0)

    def at(params: Params, buffers: Buffers, batch: Batch) -> RowMap:
        size = width(params)
        if columns > size:
            msg = f"rank must be at most the number of parameters, {size}, got {columns}"
            raise ValueError(msg)
        like = next(iter(parameter_leaves(params).values()))
        basis = torch.linalg.qr(normal(start, (columns, size), like).mT)[0].mT  # Ωᵀ, (r, D)
        images = rows_of(op, params, buffers, batch)(basis)
        rounding = 8 * torch.finfo(like.dtype).eps * torch.linalg.matrix_norm(images)
        vectors, values = _eigenpairs(images, basis, rounding)
        weights = 1 / (values + damping) - 1 / damping
        return partial(_inverse, damping, vectors, weights)

    return operation_on_rows(at)


def _inverse(damping: float | Tensor, vectors: Tensor, weights: Tensor, rows: Tensor) -> Tensor:
    return rows / damping + ((rows @ vectors.mT) * weights) @ vectors


def _eigenpairs(images: Tensor, basis: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
    """Uᵀ, `(r, D)`, and Λ, `(r,)`, from (A Ω)ᵀ and Ωᵀ."""
    shifted = images + shift * basis  # Ωᵀ(A + νI)
    core = basis @ shifted.mT
    factor, fault = torch.linalg.cholesky_ex((core + core.mT) / 2)
    sketch = torch.linalg.solve_triangular(factor, shifted, upper=False)  # (A + νI) ≈ sketchᵀ sketch
    _, roots, vectors = torch.linalg.svd(sketch, full_matrices=False)
    positive = fault == 0
    if tracing.readable(positive) is False:
        least = float(torch.linalg.eigvalsh((core + core.mT) / 2)[0])
        msg = (
            f"op must be positive semi-definite for nystroem, got a matrix that has the eigenvalue {least:.3g} on a random "
            "subspace; take gauss_newton or generalized_gauss_newton instead of hessian, or damp it"
        )
        raise LinAlgError(msg)
    return vectors, torch.where(positive, (roots.square() - shift).clamp(min=0), torch.nan)
