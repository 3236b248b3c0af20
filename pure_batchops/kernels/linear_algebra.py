"""Linear algebra in plain operations.

torch differentiates these in forward mode by factors that it takes for constants (torch 2.1 to 2.13): derivatives of a forward
derivative, so `grad(jvp(f))`, are silently wrong; of `cholesky_inverse`, `jvp(grad(f))` too.
"""

from typing import Any

import torch
from torch import Tensor

from pure_batchops import tracing


def solve(A: Tensor, B: Tensor, *, left: bool = True, out: Any = None) -> Tensor:  # noqa: N803  # torch's names
    """`torch.linalg.solve`."""
    if out is not None or not _is_regular(A):
        return torch.linalg.solve(A, B, left=left, out=out)
    if B.dim() == 1 or (B.dim() == A.dim() - 1 and B.shape == A.shape[:-1]):  # one right side for each matrix
        return solve(A, B[..., None])[..., 0]
    if not left:
        return solve(A.mT, B.mT).mT
    exchange, lower, upper = torch.linalg.lu(A)
    return _by_factors(exchange, lower, upper, B)


def lu_solve(LU: Tensor, pivots: Tensor, B: Tensor, *, left: bool = True, adjoint: bool = False, out: Any = None) -> Tensor:  # noqa: N803  # torch's names
    """`torch.linalg.lu_solve`. torch's own has silently wrong derivatives under two nested vmaps."""
    if out is not None or min(LU.dim(), B.dim()) < 2 or LU.shape[-1] != LU.shape[-2] or LU.is_complex():
        return torch.linalg.lu_solve(LU, pivots, B, left=left, adjoint=adjoint, out=out)
    if not left:  # X A = B is Aᵀ Xᵀ = Bᵀ
        return lu_solve(LU, pivots, B.mT, adjoint=not adjoint).mT
    exchange, lower, upper = torch.lu_unpack(LU, pivots)
    if adjoint:
        half = torch.linalg.solve_triangular(upper.mT, B, upper=False)
        return exchange @ torch.linalg.solve_triangular(lower.mT, half, upper=True, unitriangular=True)
    return _by_factors(exchange, lower, upper, B)


def _by_factors(exchange: Tensor, lower: Tensor, upper: Tensor, right: Tensor) -> Tensor:
    half = torch.linalg.solve_triangular(lower, exchange.mT @ right, upper=False, unitriangular=True)
    return torch.linalg.solve_triangular(upper, half, upper=True)


def torch_lu_solve(input: Tensor, LU_data: Tensor, LU_pivots: Tensor, *, out: Any = None) -> Tensor:  # noqa: N803  # torch's names
    """`torch.lu_solve`."""
    return lu_solve(LU_data, LU_pivots, input, out=out)


def slogdet(A: Tensor, *, out: Any = None) -> Any:  # noqa: N803  # torch's name
    """`torch.linalg.slogdet`, and `torch.slogdet`."""
    if out is not None or not _is_regular(A):
        return torch.linalg.slogdet(A, out=out)
    results: Any = torch.return_types  # whose classes mypy does not know
    return results.linalg_slogdet(_slogdet(A))


def logdet(input: Tensor) -> Tensor:
    """`torch.logdet`."""
    if not _is_regular(input):
        return torch.logdet(input)
    sign, logarithm = _slogdet(input)
    return torch.where(sign < 0, torch.nan, logarithm)


def det(A: Tensor, *, out: Any = None) -> Tensor:  # noqa: N803  # torch's name
    """`torch.linalg.det`, and `torch.det`. Where no number can be read, derivatives of singular matrices are NaN."""
    if out is not None or not _is_regular(A):
        return torch.linalg.det(A, out=out)
    factors, pivots, _ = torch.linalg.lu_factor_ex(A)
    return _sign(pivots, A) * factors.diagonal(dim1=-2, dim2=-1).prod(-1)


def cholesky_inverse(L: Tensor, upper: bool = False, *, out: Any = None) -> Tensor:  # noqa: N803  # torch's name
    """`torch.cholesky_inverse`."""
    if out is not None or L.dim() < 2 or L.shape[-1] != L.shape[-2] or L.is_complex():
        return torch.cholesky_inverse(L, upper, out=out)
    return cholesky_solve(torch.eye(L.shape[-1], dtype=L.dtype, device=L.device), L, upper)


def cholesky_solve(input: Tensor, L: Tensor, upper: bool = False, *, out: Any = None) -> Tensor:  # noqa: N803  # torch's name
    """`torch.cholesky_solve`. torch's own has a gradient in the triangle that it does not read."""
    if out is not None or min(input.dim(), L.dim()) < 2 or input.shape[-2] != L.shape[-1] or L.is_complex():
        return torch.cholesky_solve(input, L, upper, out=out)
    lower = L.triu().mT if upper else L.tril()
    return torch.linalg.solve_triangular(lower.mT, torch.linalg.solve_triangular(lower, input, upper=False), upper=True)


def householder_product(A: Tensor, tau: Tensor, *, out: Any = None) -> Tensor:  # noqa: N803  # torch's name
    """`torch.linalg.householder_product`."""
    fits = A.dim() > 1 and A.shape[-1] <= A.shape[-2] and tau.shape[-1] <= A.shape[-1] and A.is_floating_point()
    if out is not None or not fits or tau.shape[:-1] != A.shape[:-2]:
        return torch.linalg.householder_product(A, tau, out=out)
    one = torch.eye(*A.shape[-2:], dtype=A.dtype, device=A.device)
    directions, q = A.tril(-1) + one, one.expand_as(A)
    for number in reversed(range(tau.shape[-1])):
        v = directions[..., number : number + 1]
        q = q - tau[..., number, None, None] * v @ (v.mT @ q)
    return q


def _slogdet(matrix: Tensor) -> tuple[Tensor, Tensor]:
    factors, pivots, _ = torch.linalg.lu_factor_ex(matrix)
    diagonal = factors.diagonal(dim1=-2, dim2=-1)
    return _sign(pivots, matrix) * diagonal.sign().prod(-1), diagonal.abs().log().sum(-1)


def _sign(pivots: Tensor, matrix: Tensor) -> Tensor:
    """+1 or −1: whether an even number of rows was exchanged."""
    exchanged = pivots != torch.arange(1, pivots.shape[-1] + 1, device=pivots.device)
    return (1 - 2 * (exchanged.sum(-1) % 2)).to(matrix.dtype)


def _is_regular(matrix: Tensor) -> bool:
    """Whether a matrix is real, square and not known to be singular; a singular one is left to torch."""
    square = matrix.is_floating_point() and matrix.dim() > 1 and matrix.shape[-1] == matrix.shape[-2] and matrix.numel() > 0
    if not square:
        return False
    pivots = torch.linalg.lu_factor_ex(matrix.detach())[0].diagonal(dim1=-2, dim2=-1)
    return tracing.readable((pivots == 0).any()) is not True
