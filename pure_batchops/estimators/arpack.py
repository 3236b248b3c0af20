"""Eigenpairs by ARPACK, through scipy."""

import torch
from torch import Tensor

from pure_batchops.estimators.linear_operator import numbers, operator_of, scipy_linalg
from pure_batchops.rows import RowMap
from pure_batchops.solvers.inverse import LinAlgError, scales

_ENDS = {"largest": "LA", "smallest": "SA", "both": "BE"}


def arpack(
    matrix: RowMap, k: int, which: str, basis_size: int | None, start: Tensor, tolerance: float
) -> tuple[Tensor, Tensor]:
    """The k wanted eigenpairs of a symmetric matrix, or all of them if the matrix is no larger than the work.

    Args:
        matrix: a symmetric matrix.
        k: the number of pairs.
        which: `"largest"`, `"smallest"` or `"both"`.
        basis_size: the number of vectors that ARPACK holds, by default 2k + 1 or 20.
        start: `(D,)`.
        tolerance: of the residuals, relative to the eigenvalues.

    Returns:
        The eigenvalues, ascending, `(m,)`, m = k or D, and unit eigenvectors as rows, `(m, D)`.
    """
    basis_size = max(k + 1, basis_size or max(2 * k + 1, 20))
    if basis_size >= matrix.size:
        return _dense(matrix)
    image = matrix.multiply(start[None])
    if not numbers(image).any():  # the zero matrix, which ARPACK refuses
        return start.new_zeros(k), torch.eye(k, matrix.size, dtype=start.dtype, device=start.device)
    scale = scales(image)  # ARPACK takes eigenvalues below 1e-5, in single precision, for zero
    scaled = matrix._replace(multiply=lambda rows: matrix.multiply(rows) / scale)
    values, columns = scipy_linalg().eigsh(
        operator_of(scaled),
        k,
        which="LA" if k == 1 and which == "both" else _ENDS[which],  # ARPACK has no two ends of one
        v0=numbers(start),
        ncv=basis_size,
        tol=tolerance,
    )
    order = values.argsort()
    return torch.as_tensor(values[order]).to(start) * scale[0], _orthonormal(torch.as_tensor(columns.T[order]).to(start))


def _orthonormal(vectors: Tensor) -> Tensor:
    off = torch.linalg.matrix_norm(vectors @ vectors.mT - torch.eye(len(vectors), dtype=vectors.dtype, device=vectors.device))
    if off > torch.finfo(vectors.dtype).eps ** 0.5:
        msg = (
            f"the vectors of scipy must be orthonormal, got {float(off):.2g} beside one: with so few steps it gives a "
            "vector twice where an eigenvalue is repeated; raise steps, or use method='lanczos'"
        )
        raise LinAlgError(msg)
    return vectors


def _dense(matrix: RowMap) -> tuple[Tensor, Tensor]:
    rows = matrix.multiply(torch.eye(matrix.size, dtype=matrix.like.dtype, device=matrix.like.device))
    numbers(rows)  # under torch.vmap this method is refused, however small the matrix
    values, columns = torch.linalg.eigh((rows + rows.mT) / 2)
    return values, columns.mT
