"""Which training points drive their own prediction."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from pure_batchops import checks
from pure_batchops.influences.gradient_rows import gradient_rows
from pure_batchops.influences.inverse_at import inverse_at
from pure_batchops.streams import in_one_order
from pure_batchops.trees import device_of, move
from pure_batchops.types import Batch, Buffers, Operation, Params, SampleLosses


def self_influence(
    inverse: Operation, loss: SampleLosses, *, chunk_size: int | None = None
) -> Callable[[Params, Buffers, Iterable[Batch]], Tensor]:
    """The influence of each training point on its own loss, ∇ℓᵢᵀ M⁻¹ ∇ℓᵢ. Mislabelled points have large values.

    Without the point, one of n, its own loss rises by about this value / n. This is minus the diagonal of `influence`.

    Args:
        inverse: M⁻¹, as for `influence`.
        loss: as for `influence`.
        chunk_size: the number of training points in one chunk, by default as for `influence`.

    Returns:
        `influences(params, buffers, train_batches) -> (n_train,)`. No value is negative if M is positive definite.

    Raises:
        TypeError: if inverse or loss is no function.
        ValueError: as for `influence`.

    Examples:
        >>> from pure_batchops import averaged, direct, hessian
        >>> loss = lambda params, buffers, x: (params - x).square() / 2
        >>> influences = self_influence(direct(averaged(hessian(loss)), 0.0), loss)
        >>> influences(torch.tensor([2.0]), {}, [torch.tensor([1.0, 2.0]), torch.tensor([4.0])])
        tensor([1., 0., 4.])
    """
    checks.operation("inverse", inverse)
    checks.loss(loss)
    chunk_size = checks.whole_or_none("chunk_size", chunk_size)

    def influences(params: Params, buffers: Buffers, train_batches: Iterable[Batch]) -> Tensor:
        batches = in_one_order("train_batches", train_batches)
        solve = inverse_at(inverse, params, buffers, batches)
        moved = (move(batch, device_of(params)) for batch in batches)
        rows_by_chunk = (rows for batch in moved for rows in gradient_rows(loss, params, buffers, batch, chunk_size))
        values = [(rows * solve(rows)).sum(1) for rows in rows_by_chunk]
        if not values:
            msg = "train_batches must hold at least one batch, got none"
            raise ValueError(msg)
        return torch.cat(values)

    return influences
