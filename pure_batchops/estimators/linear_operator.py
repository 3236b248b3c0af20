"""A matrix as scipy's solvers take it."""

from typing import Any

import torch
from torch import Tensor

from pure_batchops import checks, tracing
from pure_batchops.rows import RowMap
from pure_batchops.solvers.inverse import rows_of
from pure_batchops.types import Batch, Buffers, Operation, Params


def linear_operator(op: Operation, params: Params, buffers: Buffers, batch: Batch) -> Any:
    """The symmetric matrix m(batch) as a `scipy.sparse.linalg.LinearOperator`, x ↦ m(batch) x.

    Args:
        op: any symmetric operation, on a batch or, as `averaged(op)`, on batches that can be read again.
        params: where.
        buffers: what else the forward pass reads.
        batch: the data.

    Returns:
        A linear operator of shape `(D, D)` with `matvec`, `matmat` and their transposes, in the dtype of params, at least
        single. Arrays of numpy go in and come out, whatever the device of params.

    Raises:
        TypeError: if op is not a function.
        ValueError: from its products, under torch.vmap and torch.compile.
        ModuleNotFoundError: if scipy is not there.

    Examples:
        >>> import numpy as np
        >>> from pure_batchops import hessian
        >>> op = hessian(lambda params, buffers, x: (params @ x.T).square())
        >>> matrix = linear_operator(op, torch.zeros(2), {}, torch.tensor([[1.0, 2.0]]))
        >>> matrix @ np.array([1.0, 0.0])
        array([2., 4.], dtype=float32)
    """
    checks.operation("op", op)
    return operator_of(rows_of(op, params, buffers, batch))


def operator_of(matrix: RowMap) -> Any:
    """The linear operator of a symmetric map of rows."""

    def columns(x: Any) -> Any:  # (D, K) → (D, K)
        rows = torch.tensor(x.T.copy(), dtype=matrix.like.dtype, device=matrix.like.device)
        return numbers(matrix.multiply(rows)).T

    def column(x: Any) -> Any:
        return columns(x.reshape(-1, 1))[:, 0]

    return scipy_linalg().LinearOperator(
        (matrix.size, matrix.size), column, column, columns, numbers(matrix.like).dtype, columns
    )


def numbers(tensor: Tensor) -> Any:
    """The tensor as an array of numpy.

    Returns:
        An array.

    Raises:
        ValueError: if the tensor has no one value.
    """
    if tracing.readable(tensor.isfinite().all()) is None:
        msg = "scipy must be called outside of torch.vmap and torch.compile, as it reads numbers; use a loop, or 'lanczos'"
        raise ValueError(msg)
    return tensor.detach().cpu().numpy()


def scipy_linalg() -> Any:
    """The module `scipy.sparse.linalg`.

    Returns:
        The module.

    Raises:
        ModuleNotFoundError: if scipy is not there.
    """
    try:
        from scipy.sparse import linalg
    except ModuleNotFoundError as error:
        msg = f"{error.name} is not installed: pip install 'pure_batchops[scipy]'"
        raise ModuleNotFoundError(msg, name=error.name) from error
    return linalg
