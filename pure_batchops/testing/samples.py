"""The laws of the losses of samples: one number for each, the same alone as in the batch, in any order."""

from typing import Any

import torch
from torch import Tensor
from torch.func import vjp

from pure_batchops.batches import has_samples, split
from pure_batchops.testing.agreement import agree
from pure_batchops.testing.case import LossCase, copied, doubled, members, stacked
from pure_batchops.trees import leaves, map_leaves, tree_map
from pure_batchops.types import Batch, Tree


def shape(case: LossCase) -> bool:
    """The loss must return one number for each sample: a floating-point tensor (n,), for a batch that holds n samples."""
    values = losses(case)
    if not any(has_samples(leaf, case.batch_dim, len(values)) for leaf in leaves(case.batch)):
        msg = f"got {len(values)} losses, and no tensor of the batch has {len(values)} samples along axis {case.batch_dim}"
        raise AssertionError(msg)
    return True


def independent(case: LossCase) -> bool:
    """The samples must be independent: each has the same loss, and the same gradient of it, alone as in the batch."""
    own, n = losses(case), len(losses(case))
    if n < 2:
        return False
    wide = _in_double(case)
    alone, samples = split(wide.batch, n, case.batch_dim)
    if not samples:
        msg = f"got no tensor of the batch with {n} samples along axis {case.batch_dim}"
        raise AssertionError(msg)
    batches = [alone(*(part[i] for part in samples)) for i in range(n)]
    for number, member in enumerate(members(wide)):  # near params, a gate that is shut at params is open
        where = "at params" if number == 0 else "near params"
        together = _losses_and_gradients(wide._replace(params=member))
        apart = [_losses_and_gradients(wide._replace(params=member, batch=batch)) for batch in batches]
        expected = stacked([map_leaves(lambda leaf: leaf[0], one) for one in apart])
        agree(_as_given(together, own, case), _as_given(expected, own, case), case.tolerance, f"{where}, in the batch")
    return True


def order(case: LossCase) -> bool:
    """The order of the samples must change nothing: the losses of samples in another order are the same, in that order."""
    n = len(losses(case))
    permuted = torch.randperm(n, generator=torch.Generator().manual_seed(case.seed))
    for words, places in {"reversed": torch.arange(n).flip(0), "permuted": permuted}.items():
        batch = tree_map(lambda leaf, places=places: _reordered(leaf, places, case.batch_dim), case.batch)
        expected = losses(case)[places]
        agree(losses(case._replace(batch=batch)), expected, case.tolerance, f"for the samples {words}")
    return n > 1


def losses(case: LossCase) -> Tensor:
    """The losses for copies of the arguments.

    Returns:
        A tensor `(n,)`.

    Raises:
        AssertionError: if they are no floating-point tensor `(n,)`.
    """
    values: Any = case.loss(*map(copied, (case.params, case.buffers, case.batch)))
    if not isinstance(values, Tensor):
        msg = f"got {type(values).__name__} where a tensor of shape (n,) is expected"
        raise AssertionError(msg)
    if values.dim() != 1 or not len(values) or not values.is_floating_point():
        msg = f"got a tensor of shape {tuple(values.shape)} and {values.dtype} where floating-point losses (n,) are expected"
        raise AssertionError(msg)
    return values


def _losses_and_gradients(case: LossCase) -> dict[str, Tree]:
    """The loss of each sample, and the gradient of each loss."""
    values, pull = vjp(lambda p: case.loss(p, copied(case.buffers), copied(case.batch)), copied(case.params))
    one_hot = torch.eye(len(values), dtype=values.dtype, device=values.device)
    return {"the losses": values, "the gradients": stacked([pull(row)[0] for row in one_hot])}


def _in_double(case: LossCase) -> LossCase:
    """The case in double precision, so that rounding is no difference; the case itself if the loss fixes another dtype."""
    point = (doubled(case.params), doubled(case.buffers), doubled(case.batch))
    wide = case._replace(params=point[0], buffers=point[1], batch=point[2])
    try:
        losses(wide)
    except RuntimeError:  # as torch says that two dtypes do not go together
        return case
    return wide


def _as_given(tree: dict[str, Tree], own: Tensor, case: LossCase) -> dict[str, Tree]:
    """Losses and gradients in the dtypes of the case, whose tolerances apply."""
    gradients = map_leaves(lambda leaf, like: leaf.to(like.dtype), tree["the gradients"], case.params)
    return {"the losses": tree["the losses"].to(own.dtype), "the gradients": gradients}


def _reordered(leaf: Any, places: Tensor, axis: int) -> Batch:
    return leaf.index_select(axis, places.to(leaf.device)) if has_samples(leaf, axis, len(places)) else leaf
