"""Eigenvalues at the ends of the spectrum, with their vectors."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from pure_batchops import checks
from pure_batchops.estimators.arpack import arpack
from pure_batchops.estimators.krylov import ends, krylov
from pure_batchops.estimators.lanczos import directions
from pure_batchops.estimators.linear_operator import scipy_linalg
from pure_batchops.solvers.inverse import lengths, rows_of
from pure_batchops.types import Batch, Buffers, Operation, Params


class Eigenpairs(NamedTuple):
    """Numbers and vectors with A u = θ u, or nearly so.

    Attributes:
        values: θ, `(k,)`, from the wanted end inwards; for both ends, from the largest down.
        vectors: u, `(k, D)`, orthonormal rows, flat in the order of params.
        residuals: ‖A u − θ u‖, `(k,)`, from a product with u: no eigenvalue is farther from θ than this.
    """

    values: Tensor
    vectors: Tensor
    residuals: Tensor


def eigenpairs(
    op: Operation,
    k: int,
    *,
    which: str = "largest",
    method: str = "lanczos",
    steps: int | None = None,
    tolerance: float | None = None,
    seed: int | Tensor = 0,
) -> Callable[[Params, Buffers, Batch], Eigenpairs]:
    """The k eigenpairs of a symmetric matrix at an end of its spectrum, A uᵢ = θᵢ uᵢ, ‖uᵢ‖ = 1.

    `"lanczos"` stops when its pairs have converged, after `steps` steps at the latest. Under torch.vmap and torch.compile it
    takes all of them. The residuals tell how good the pairs are. From one start it sees a repeated eigenvalue only once, so
    it looks for more from a second start, and takes all steps if it finds any. It may miss a repeated eigenvalue close to the
    last wanted one. `"scipy"` restarts until it has converged, by `scipy.sparse.linalg.eigsh`. Ends are algebraic: the
    smallest eigenvalue is the most negative one.

    Args:
        op: any symmetric operation, on a batch or, as `averaged(op)`, on batches that can be read again.
        k: the number of pairs.
        which: `"largest"`, `"smallest"`, or `"both"`: half of them from each end, the largest one more if k is odd.
        method: `"lanczos"` or `"scipy"`.
        steps: the most products before the residuals, by default 2k + 50; all of these vectors are held. D steps or more are
            all pairs exactly, in D products. For `"scipy"` the number of vectors that it holds, by default its own.
        tolerance: a pair has converged when ‖A u − θ u‖ ≤ tolerance · ‖A‖. By default the rounding of products to the power
            ¾, 6e-6 in float32 and 2e-12 in float64; for `"scipy"` the rounding itself, and relative to θ.
        seed: of the start; or a 0-dim integer tensor, which may be vmapped, see `trace`.

    Returns:
        `pairs(params, buffers, batch) -> Eigenpairs`, in the precision of params, at least single. The sign of a vector
        makes its product with the start positive.

    Raises:
        TypeError: if op is not a function, or k, steps or seed is not a whole number.
        ValueError: if which or method is unknown, k is not positive, steps are fewer than k, or tolerance is not between
            0 and 1. The function that is returned raises it if k is larger than D, or if scipy meets torch.vmap or
            torch.compile.
        ModuleNotFoundError: if method is `"scipy"` and scipy is not installed.
        torch.linalg.LinAlgError: if scipy gives an eigenvector twice, which it does for repeated eigenvalues and few steps.
        ArpackNoConvergence: of scipy's, from the function that is returned, if it stops before it has converged, which it
            does for eigenvalues near zero beside large ones.

    Examples:
        >>> from pure_batchops import hessian
        >>> op = hessian(lambda params, buffers, x: (params * x).square().sum(1))
        >>> point = torch.zeros(3), {}, torch.tensor([[1.0, 2.0, 3.0]])
        >>> values, vectors, residuals = eigenpairs(op, 2)(*point)
        >>> values.round(), vectors.round().abs()
        (tensor([18.,  8.]), tensor([[0., 0., 1.],
                [0., 1., 0.]]))

    References:
        Parlett (1998), The Symmetric Eigenvalue Problem.
    """
    checks.operation("op", op)
    k, seed = checks.whole("k", k), checks.seed("seed", seed)
    checks.option("which", which, ("largest", "smallest", "both"))
    checks.option("method", method, ("lanczos", "scipy"))
    steps = checks.whole_or_none("steps", steps, k)
    if tolerance is not None:
        tolerance = checks.fraction("tolerance", tolerance)
    if method == "scipy":
        scipy_linalg()

    def pairs(params: Params, buffers: Buffers, batch: Batch) -> Eigenpairs:
        matrix = rows_of(op, params, buffers, batch)
        if k > matrix.size:
            msg = f"k must be at most {matrix.size}, the numbers that params hold, got {k}"
            raise ValueError(msg)
        start = directions(matrix, 1, seed)[0]
        if method == "lanczos":
            residual = tolerance or matrix.eps**0.75
            values, vectors = krylov(matrix, k, which, steps or 2 * k + 50, start, seed, residual)
        else:
            values, vectors = arpack(matrix, k, which, steps, start, tolerance or matrix.eps)
            places = ends(len(values), k, which)
            values, vectors = values[places], vectors[places]
        vectors = torch.where(vectors @ start < 0, -1, 1)[:, None] * vectors
        return Eigenpairs(values, vectors, lengths(matrix.multiply(vectors) - values[:, None] * vectors))

    return pairs
