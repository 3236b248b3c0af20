"""Where to change a training point so that a prediction changes."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.func import grad

from pure_batchops import checks
from pure_batchops.batches import pair
from pure_batchops.influences.sides import check, gradient_rows, solver, tree_of
from pure_batchops.traits import traits_of
from pure_batchops.trees import device_of, leaves, map_leaves, move, tree_map
from pure_batchops.types import Batch, Buffers, Operation, Params, SampleLosses, Tree


def perturbation_influence(
    inverse: Operation, loss: SampleLosses, *, chunk_size: int | None = None
) -> Callable[[Params, Buffers, Iterable[Batch], Batch], Tree]:
    """The influence of perturbing the inputs, −∂/∂x_train (∇ℓ_testᵀ M⁻¹ ∇ℓ_train): where to change a training point.

    Args:
        inverse: as for `influence`.
        loss: as for `influence`, of pairs `(inputs, targets)` with floating-point inputs.
        chunk_size: how many test points are solved for at once, by default as for `influence`.

    Returns:
        `influences(params, buffers, train_batches, test_batch) -> (n_test, n_train, …)`, a tree like the inputs.

    Raises:
        TypeError: if inverse or loss is no function. The function raises it for inputs that are not floating-point.
        ValueError: as for `influence`, and for batches that are no pairs.

    Examples:
        >>> from pure_batchops import averaged, direct, hessian
        >>> loss = lambda params, buffers, batch: (params * batch[0] - batch[1]).square() / 2
        >>> influences = perturbation_influence(direct(averaged(hessian(loss)), 0.0), loss)
        >>> batch = (torch.tensor([1.0]), torch.tensor([1.0]))
        >>> influences(torch.tensor([2.0]), {}, [batch], batch)
        tensor([[-3.]])
    """
    check(inverse, loss)
    chunk_size = checks.whole_or_none("chunk_size", chunk_size)
    axis = traits_of(loss).batch_dim

    def influences(params: Params, buffers: Buffers, train_batches: Iterable[Batch], test_batch: Batch) -> Tree:
        solve = solver(inverse, params, buffers, train_batches)

        def of_batch(batch: Batch, solved: Tensor) -> Tree:
            inputs, targets = pair(move(batch, device_of(params)), axis)
            _refuse_integers(inputs)

            def slope(inputs: Tree, row: Tensor) -> Any:  # Σⱼ ∇ℓⱼᵀ row, of which each sample has its own term
                gradient = grad(lambda p: loss(p, buffers, (inputs, targets)).sum())(params)
                return sum((g * s).sum() for g, s in zip(leaves(gradient), leaves(tree_of(params, row)), strict=True))

            found = torch.vmap(grad(slope), (None, 0))(inputs, solved)
            return tree_map(lambda leaf: -leaf.movedim(axis % (leaf.dim() - 1) + 1, 1), found)

        def of_chunk(rows: Tensor) -> Tree:
            solved = solve(rows)
            return _joined([of_batch(batch, solved) for batch in train_batches], 1)

        test = move(test_batch, device_of(params))
        return _joined([of_chunk(rows) for rows in gradient_rows(loss, params, buffers, test, chunk_size)], 0)

    return influences


def _refuse_integers(inputs: Tree) -> None:
    for leaf in leaves(inputs):
        if not isinstance(leaf, Tensor) or not leaf.is_floating_point():
            seen = leaf.dtype if isinstance(leaf, Tensor) else type(leaf).__name__
            msg = f"inputs must be floating-point tensors to be perturbed, got {seen}"
            raise TypeError(msg)


def _joined(parts: list[Tree], axis: int) -> Tree:
    return map_leaves(lambda *group: torch.cat(group, axis), *parts)
