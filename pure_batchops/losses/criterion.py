"""The losses of the samples of a batch of outputs, from a criterion `(output, target) -> one number`."""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  # its usual name

from pure_batchops import checks
from pure_batchops.batches import has_samples, length
from pure_batchops.trees import leaves, tree_map
from pure_batchops.types import Criterion, Tree

# These raise size errors under two nested vmaps, the outer over both arguments and the inner over one (torch 2.1 to 2.13).
_FUSED = (F.mse_loss, F.huber_loss, F.smooth_l1_loss)
_BY_ELEMENT = (*_FUSED, F.l1_loss, F.binary_cross_entropy, F.binary_cross_entropy_with_logits)
_BY_CLASS = (F.cross_entropy, F.nll_loss)
_IGNORED = -100
_FUNCTIONS: dict[type[nn.Module], Callable[..., Tensor]] = {
    nn.MSELoss: F.mse_loss,
    nn.HuberLoss: F.huber_loss,
    nn.SmoothL1Loss: F.smooth_l1_loss,
    nn.L1Loss: F.l1_loss,
    nn.BCELoss: F.binary_cross_entropy,
    nn.BCEWithLogitsLoss: F.binary_cross_entropy_with_logits,
    nn.CrossEntropyLoss: F.cross_entropy,
    nn.NLLLoss: F.nll_loss,
}


def output_losses(criterion: Criterion, batch_dim: int) -> Callable[[Tree, Tree], Tensor]:
    """The criterion of each sample.

    torch's common losses are computed for the whole batch at once, element by element, and then reduced for each sample. Any
    other criterion is mapped over the samples. Both give the same numbers.

    Returns:
        `(outputs, targets) -> (n,)`.
    """
    checks.function("criterion", criterion)
    _refuse_batch_weights(criterion)
    function, reduction, elementwise = _recognized(criterion)

    def loss_of_one(output: Tree, target: Tree) -> Tensor:
        value = criterion(_with_axis(output, batch_dim), _with_axis(_alike(function, output, target), batch_dim))
        if not isinstance(value, Tensor) or value.numel() != 1:
            seen = f"the shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            msg = f"criterion must return one number per sample, got {seen}; use reduction='mean' or 'sum', or reduce yourself"
            raise ValueError(msg)
        return value.reshape(())

    def losses(outputs: Tree, targets: Tree) -> Tensor:
        if any(not has_samples(leaf, batch_dim) for leaf in leaves(outputs)):
            msg = f"model must return an output for each sample along axis {batch_dim}, got an output without that axis"
            raise ValueError(msg)
        length("the model's outputs and the targets", (outputs, targets), batch_dim)
        if batch_dim == 0 and elementwise is not None and _elements_belong_to_samples(function, outputs, targets):
            return _reduced(elementwise(outputs, _alike(function, outputs, targets)), targets, reduction)
        axes = tuple(
            tree_map(lambda leaf: batch_dim if has_samples(leaf, batch_dim) else None, tree) for tree in (outputs, targets)
        )
        return torch.vmap(loss_of_one, in_dims=axes)(outputs, targets)

    return losses


class Recognized(NamedTuple):
    """What is known of a criterion.

    Attributes:
        function: the function of torch that it calls, or the criterion itself.
        reduction: `"mean"`, `"sum"` or `"none"`.
        elementwise: the criterion without its reduction, or None if the function or its options are unknown.
    """

    function: Any
    reduction: str
    elementwise: Callable[[Tensor, Tensor], Tensor] | None


def _recognized(criterion: Any) -> Recognized:
    options: dict[str, Any] = vars(criterion) if isinstance(criterion, nn.Module) else getattr(criterion, "keywords", {})
    function = criterion.func if isinstance(criterion, partial) else _FUNCTIONS.get(type(criterion), criterion)
    reduction = options.get("reduction", "mean")
    unknown = function not in _BY_ELEMENT + _BY_CLASS or reduction not in {"mean", "sum"}
    if unknown or getattr(criterion, "args", None) or {"size_average", "reduce"} & set(options):
        return Recognized(function, reduction, None)
    if not isinstance(criterion, nn.Module):
        return Recognized(function, reduction, partial(criterion, reduction="none"))
    unreduced: Any = copy.copy(criterion)
    unreduced.reduction = "none"
    return Recognized(function, reduction, unreduced)


def _elements_belong_to_samples(function: Any, outputs: Tree, targets: Tree) -> bool:
    """Whether each element of the criterion on the batch belongs to one sample, as it does without broadcasting."""
    if not isinstance(outputs, Tensor) or not isinstance(targets, Tensor):
        return False
    if outputs.shape == targets.shape:
        return targets.is_floating_point() and (function in _BY_ELEMENT or outputs.dim() > 1)
    return function in _BY_CLASS and outputs.shape[:1] + outputs.shape[2:] == targets.shape


def _reduced(elements: Tensor, targets: Tensor, reduction: str) -> Tensor:
    """The losses of the samples from the losses of their elements. A mean does not count ignored elements (-100)."""
    counted = None if reduction == "sum" or targets.is_floating_point() else targets != _IGNORED
    if elements.dim() == 1:
        return (
            elements if counted is None else elements + torch.where(counted, 0.0, torch.nan)
        )  # the mean of an ignored element alone is 0/0
    by_sample = elements.flatten(1)
    if counted is not None:
        return by_sample.sum(1) / counted.flatten(1).sum(1)
    return by_sample.sum(1) if reduction == "sum" else by_sample.mean(1)


def _alike(function: Any, output: Tree, target: Tree) -> Tree:
    """The target, batched by every vmap that batches the output."""
    if function in _FUSED and isinstance(target, Tensor) and output.shape == target.shape:
        return target + torch.zeros_like(output)
    return target


def _with_axis(tree: Tree, batch_dim: int) -> Tree:
    return tree_map(lambda leaf: leaf.unsqueeze(batch_dim) if isinstance(leaf, Tensor) else leaf, tree)


def _refuse_batch_weights(criterion: Criterion) -> None:
    """Refuse a criterion whose mean over a batch is not the mean of its values for single samples."""
    options = (
        criterion.keywords if isinstance(criterion, partial) else vars(criterion) if isinstance(criterion, nn.Module) else {}
    )
    buffers = dict(criterion.named_buffers()) if isinstance(criterion, nn.Module) else {}
    weight = options.get("weight", buffers.get("weight"))
    reduction = options.get("reduction", "mean")
    is_binary = _recognized(criterion).function in (F.binary_cross_entropy, F.binary_cross_entropy_with_logits)
    if weight is not None and (reduction == "mean" or (is_binary and reduction != "none")):
        way = "" if is_binary else "use reduction='sum', which gives each sample its weighted loss, or "
        msg = (
            f"criterion must not have weights with reduction={reduction!r}: alone in its batch a sample loses its weight; "
            f"{way}weigh in a criterion of your own, (output, target) -> one number"
        )
        raise ValueError(msg)
    ignored = options.get("ignore_index", _IGNORED)
    if ignored != _IGNORED and reduction == "mean":
        msg = (
            f"criterion must not have ignore_index={ignored} with reduction='mean': alone in its batch an ignored sample "
            "is 0/0; use reduction='sum', or mask in a criterion of your own, (output, target) -> one number"
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
