"""Where to change a training point so that a prediction changes."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.func import grad

from pure_batchops import checks
from pure_batchops.batches import pair
from pure_batchops.influences.gradient_rows import gradient_rows
from pure_batchops.influences.inverse_at import inverse_at
from pure_batchops.losses.checked import checked_losses
from pure_batchops.streams import in_one_order
from pure_batchops.traits import traits_of
from pure_batchops.trees import device_of, leaves, map_leaves, move, tree_map
from pure_batchops.types import Batch, Buffers, Operation, Params, SampleLosses, Tree
from pure_batchops.vectors import unflatten


def perturbation_influence(
    inverse: Operation, loss: SampleLosses, *, chunk_size: int | None = None
) -> Callable[[Params, Buffers, Iterable[Batch], Batch], Tree]:
    """The derivative of the influence by the training inputs, −∂/∂x_train (∇ℓ_testᵀ M⁻¹ ∇ℓ_train).

    It tells where to change a training point so that the loss of a test point changes.

    Args:
        inverse: as for `influence`.
        loss: as for `influence`. Its batches are pairs `(inputs, targets)` with floating-point inputs.
        chunk_size: the number of test points in one chunk, by default as for `influence`.

    Returns:
        `influences(params, buffers, train_batches, test_batch) -> (n_test, n_train, …)`: a tree like the inputs.

    Raises:
        TypeError: if inverse or loss is no function. The function raises it for inputs that are not floating-point.
        ValueError: as for `influence`. The function also raises it for batches that are not pairs.

    Examples:
        >>> from pure_batchops import averaged, direct, hessian
        >>> loss = lambda params, buffers, batch: (params * batch[0] - batch[1]).square() / 2
        >>> influences = perturbation_influence(direct(averaged(hessian(loss)), 0.0), loss)
        >>> batch = (torch.tensor([1.0]), torch.tensor([1.0]))
        >>> influences(torch.tensor([2.0]), {}, [batch], batch)
        tensor([[-3.]])
    """
    checks.operation("inverse", inverse)
    checks.loss(loss)
    chunk_size = checks.whole_or_none("chunk_size", chunk_size)
    axis, losses = traits_of(loss).batch_dim, checked_losses(loss)

    def influences(params: Params, buffers: Buffers, train_batches: Iterable[Batch], test_batch: Batch) -> Tree:
        batches = in_one_order("train_batches", train_batches)
        solve = inverse_at(inverse, params, buffers, batches)

        def influences_of_batch(batch: Batch, solved: Tensor) -> Tree:
            inputs, targets = pair(move(batch, device_of(params)), axis)
            _check_floating_point(inputs)

            def slope(inputs: Tree, row: Tensor) -> Any:  # Σⱼ ∇ℓⱼᵀ row: one term for each sample
                gradient = grad(lambda p: losses(p, buffers, (inputs, targets)).sum())(params)
                return sum((g * s).sum() for g, s in zip(leaves(gradient), leaves(unflatten(params, row)), strict=True))

            mixed = torch.vmap(grad(slope), (None, 0))(inputs, solved)
            return tree_map(lambda leaf: -leaf.movedim(axis % (leaf.dim() - 1) + 1, 1), mixed)  # the axis of samples → 1

        def influences_of_chunk(test_rows: Tensor) -> Tree:
            solved = solve(test_rows)  # ∇ℓ_test → M⁻¹ ∇ℓ_test
            return _joined([influences_of_batch(batch, solved) for batch in batches], 1)

        test = move(test_batch, device_of(params))
        return _joined([influences_of_chunk(rows) for rows in gradient_rows(loss, params, buffers, test, chunk_size)], 0)

    return influences


def _check_floating_point(inputs: Tree) -> None:
    for leaf in leaves(inputs):
        if not isinstance(leaf, Tensor) or not leaf.is_floating_point():
            kind = leaf.dtype if isinstance(leaf, Tensor) else type(leaf).__name__
            msg = f"inputs must be floating-point tensors, because their derivative is taken, got {kind}"
            raise TypeError(msg)


def _joined(parts: list[Tree], axis: int) -> Tree:
    return map_leaves(lambda *group: torch.cat(group, axis), *parts)
