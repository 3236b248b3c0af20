"""From a model and a criterion to the loss of each sample, `(params, buffers, batch) -> (n,)`."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  # its usual name
from torch.utils._pytree import tree_map

from pure_batchops import checks
from pure_batchops.forwards import pure_forward
from pure_batchops.trees import leaves
from pure_batchops.types import Batch, Buffers, Criterion, Forward, Params, SampleLosses, Tree

# Under two vmaps, of which the outer batches both arguments and the inner one, these fail on sizes (torch 2.1 to 2.13).
_FUSED = (F.mse_loss, F.huber_loss, F.smooth_l1_loss)
_FUSED_MODULES = (nn.MSELoss, nn.HuberLoss, nn.SmoothL1Loss)


def sample_losses(model: nn.Module | Forward, criterion: Criterion, batch_dim: int = 0) -> SampleLosses:
    """The loss of each sample, ℓᵢ = criterion(model(inputs)ᵢ, targetsᵢ).

    The model runs once on the whole batch; the criterion sees one sample at a time, with a batch axis of length one.

    Args:
        model: a module in eval mode (kept as a skeleton without numbers), called as `model(inputs)`, or, where its
            forward needs several arguments, with the items of a tuple or dict; or a pure `forward(params, buffers, inputs)`.
        criterion: a loss of torch's, as a module or function, or any `(output, target) -> one number`.
        batch_dim: the axis of the samples in inputs, outputs and targets.

    Returns:
        `loss(params, buffers, batch) -> (n,)`, where `batch` is a pair `(inputs, targets)`, each any tree.

    Raises:
        TypeError: if model is neither a module nor a function, or criterion is no function.
        ValueError: if the model has batch norm or dropout in training mode, or the criterion would weigh a sample
            differently alone than in its batch. The returned function raises it for a batch that is no pair, is empty,
            or has inputs and targets of different lengths, for names that the model does not have, and for a
            criterion that returns several numbers per sample.

    Examples:
        >>> def line(params, buffers, x):
        ...     return params["slope"] * x
        >>> loss = sample_losses(line, torch.nn.MSELoss())
        >>> loss({"slope": torch.tensor(2.0)}, {}, (torch.tensor([1.0, 2.0]), torch.tensor([0.0, 0.0])))
        tensor([ 4., 16.])
    """
    forward, axis = pure_forward(model), checks.axis("batch_dim", batch_dim)
    criteria = output_losses(criterion, axis)

    def loss(params: Params, buffers: Buffers, batch: Batch) -> Tensor:
        inputs, targets = pair(batch, axis)
        return criteria(forward(params, buffers, inputs), targets)

    loss.batch_dim = axis  # type: ignore[attr-defined]  # how to take a single sample out of a batch
    return loss


def output_losses(criterion: Criterion, batch_dim: int) -> Callable[[Tree, Tree], Tensor]:
    """The criterion of each sample, `(outputs, targets) -> (n,)`."""
    checks.function("criterion", criterion)
    _refuse_batch_weights(criterion)

    fused = (criterion.func if isinstance(criterion, partial) else criterion) in _FUSED or isinstance(
        criterion, _FUSED_MODULES
    )

    def of_one(output: Tree, target: Tree) -> Tensor:
        if fused and isinstance(target, Tensor) and output.shape == target.shape:
            target = target + torch.zeros_like(output)  # batched wherever the output is
        value = criterion(_with_axis(output, batch_dim), _with_axis(target, batch_dim))
        if not isinstance(value, Tensor) or value.numel() != 1:
            seen = f"the shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            msg = f"criterion must return one number per sample, got {seen}; use reduction='mean' or 'sum', or reduce yourself"
            raise ValueError(msg)
        return value.reshape(())

    def losses(outputs: Tree, targets: Tree) -> Tensor:
        if any(not _has_axis(leaf) for leaf in leaves(outputs)):
            msg = f"model must return an output for each sample along axis {batch_dim}, got one without axes"
            raise ValueError(msg)
        length("the model's outputs and the targets", (outputs, targets), batch_dim)
        axes = tuple(tree_map(lambda leaf: batch_dim if _has_axis(leaf) else None, tree) for tree in (outputs, targets))
        return torch.vmap(of_one, in_dims=axes)(outputs, targets)

    return losses


def pair(batch: Batch, batch_dim: int = 0) -> tuple[Tree, Tree]:
    """The two parts of a batch.

    Returns:
        Inputs and targets.

    Raises:
        ValueError: if the batch is no pair, is empty, or its inputs and targets have different lengths.
    """
    if not isinstance(batch, (tuple, list)) or len(batch) != 2:
        seen = f"{type(batch).__name__} of length {len(batch)}" if isinstance(batch, (tuple, list)) else type(batch).__name__
        msg = f"batch must be a pair (inputs, targets), got {seen}"
        raise ValueError(msg)
    length("inputs and targets", tuple(batch), batch_dim)
    return batch[0], batch[1]


def length(what: str, tree: Tree, batch_dim: int = 0) -> int:
    """The number of samples along an axis, on which all tensors with axes must agree.

    Returns:
        The number, at least one.

    Raises:
        ValueError: if there is no such axis, lengths differ, or there is no sample.
    """
    tensors = [leaf for leaf in leaves(tree) if _has_axis(leaf)]
    axes = batch_dim + 1 if batch_dim >= 0 else -batch_dim
    lengths = [leaf.shape[batch_dim] if leaf.dim() >= axes else None for leaf in tensors]
    if not lengths or None in lengths or len(set(lengths)) > 1:
        shapes = ", ".join(str(tuple(leaf.shape)) for leaf in tensors)
        msg = f"{what} must have one number of samples along axis {batch_dim}, got the shapes {shapes or 'of no tensor'}"
        raise ValueError(msg)
    if lengths[0] == 0:
        msg = f"{what} must hold at least one sample, got an empty batch"
        raise ValueError(msg)
    return tensors[0].shape[batch_dim]


def each_loss(loss: SampleLosses) -> Callable[..., Tensor]:
    """The loss, whose result is checked to be one number for each of n > 0 samples."""

    def losses(params: Params, buffers: Buffers, batch: Batch) -> Tensor:
        values = loss(params, buffers, batch)
        _refuse_shape(
            values,
            values.dim() == 1 if isinstance(values, Tensor) else False,
            "the losses of the samples, of shape (n,)",
        )
        return values

    return losses


def mean_loss(loss: SampleLosses) -> Callable[..., Tensor]:
    """The mean of the losses of the samples, a 0-dim tensor; of a loss that is one already, the loss."""

    def mean(params: Params, buffers: Buffers, batch: Batch) -> Tensor:
        values = loss(params, buffers, batch)
        _refuse_shape(values, values.dim() <= 1 if isinstance(values, Tensor) else False, "a tensor of shape (n,) or ()")
        return values.mean()

    return mean


def _refuse_shape(values: Any, fits: bool, expected: str) -> None:  # noqa: FBT001
    if not fits:
        seen = f"the shape {tuple(values.shape)}" if isinstance(values, Tensor) else type(values).__name__
        msg = f"loss must return {expected}, got {seen}"
        raise ValueError(msg)
    if values.numel() == 0:
        msg = "loss must return the loss of at least one sample, got an empty tensor; is the batch empty?"
        raise ValueError(msg)


def _has_axis(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.dim() > 0


def _with_axis(tree: Tree, batch_dim: int) -> Tree:
    return tree_map(lambda leaf: leaf.unsqueeze(batch_dim) if isinstance(leaf, Tensor) else leaf, tree)


def _refuse_batch_weights(criterion: Criterion) -> None:
    """Refuse a criterion whose mean over a batch is not the mean of what it says of each sample alone."""
    options = (
        criterion.keywords if isinstance(criterion, partial) else vars(criterion) if isinstance(criterion, nn.Module) else {}
    )
    buffers = dict(criterion.named_buffers()) if isinstance(criterion, nn.Module) else {}
    weight = options.get("weight", buffers.get("weight"))
    reduction = options.get("reduction", "mean")
    elementwise = isinstance(criterion, (nn.BCELoss, nn.BCEWithLogitsLoss))
    if weight is not None and (reduction == "mean" or (elementwise and reduction != "none")):
        msg = (
            f"criterion must not have weights with reduction={reduction!r}: alone in its batch a sample loses its weight; "
            "use reduction='none', or weigh in a criterion of your own"
        )
        raise ValueError(msg)
    ignored = options.get("ignore_index", -100)
    if ignored != -100 and reduction == "mean":
        msg = (
            f"criterion must not have ignore_index={ignored} with reduction='mean': alone in its batch an ignored sample "
            "is 0/0; use reduction='none', or mask in a criterion of your own"
        )
        raise ValueError(msg)
    learned = (
        [name for name, tensor in criterion.named_parameters() if tensor.requires_grad]
        if isinstance(criterion, nn.Module)
        else []
    )
    if learned:
        msg = f"criterion must not have parameters of its own, got {', '.join(learned)}; put them into the model"
        raise ValueError(msg)
