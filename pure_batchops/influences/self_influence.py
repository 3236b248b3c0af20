"""Which training points drive their own prediction."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from pure_batchops import checks
from pure_batchops.influences.sides import check, gradient_rows, solver
from pure_batchops.trees import device_of, move
from pure_batchops.types import Batch, Buffers, Operation, Params, SampleLosses


def self_influence(
    inverse: Operation, loss: SampleLosses, *, chunk_size: int | None = None
) -> Callable[[Params, Buffers, Iterable[Batch]], Tensor]:
    """By how much the loss of each training point falls by its own weight, ∇ℓᵢᵀ M⁻¹ ∇ℓᵢ: of mislabelled points, much.

    Args:
        inverse: as for `influence`, of which this is the diagonal, with the opposite sign.
        loss: as for `influence`.
        chunk_size: how many points are solved for at once, by default as for `influence`.

    Returns:
        `influences(params, buffers, train_batches) -> (n_train,)`, not negative if M is positive definite.

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
    check(inverse, loss)
    chunk_size = checks.whole_or_none("chunk_size", chunk_size)

    def influences(params: Params, buffers: Buffers, train_batches: Iterable[Batch]) -> Tensor:
        solve = solver(inverse, params, buffers, train_batches)
        moved = (move(batch, device_of(params)) for batch in train_batches)
        found = [
            (rows * solve(rows)).sum(1) for batch in moved for rows in gradient_rows(loss, params, buffers, batch, chunk_size)
        ]
        if not found:
            msg = "train_batches must hold at least one batch, got none"
            raise ValueError(msg)
        return torch.cat(found)

    return influences
