"""The losses of the samples of a batch of outputs, from a criterion `(output, target) -> one number`."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from pure_batchops import checks, tracing
from pure_batchops.batches import has_samples, length
from pure_batchops.kernels.mode import plain_calls
from pure_batchops.losses.agreement import agreeing, known, value_on_batch
from pure_batchops.losses.apart import kept_apart
from pure_batchops.losses.outputs import checked_outputs
from pure_batchops.losses.recognized import BY_CLASS, BY_ELEMENT, FUSED, IGNORED, recognized
from pure_batchops.losses.refused import refuse_batch_weights
from pure_batchops.torch_privates import unseen
from pure_batchops.trees import leaves, tree_map
from pure_batchops.types import Criterion, Tree


def output_losses(criterion: Criterion, batch_dim: int) -> Callable[[Tree, Tree], Tensor]:
    """The criterion of each sample.

    torch's common losses are computed for the whole batch at once, element by element, and then reduced for each sample. Any
    other criterion is mapped over the samples, and must agree with its value on the batch. Both give the same numbers.

    Returns:
        `(outputs, targets) -> (n,)`.
    """
    checks.function("criterion", criterion)
    refuse_batch_weights(criterion)
    function, reduction, elementwise = recognized(criterion)

    def loss_of_one(output: Tree, target: Tree) -> Tensor:
        return _one_number(criterion(_with_axis(output, batch_dim), _with_axis(_alike(function, output, target), batch_dim)))

    def losses(outputs: Tree, targets: Tree) -> Tensor:
        checked_outputs(outputs, batch_dim)
        n = length("the model's outputs and the targets", (outputs, targets), batch_dim)
        if batch_dim == 0 and elementwise is not None and elements_belong_to_samples(function, outputs, targets):
            with plain_calls(outputs, targets):
                elements = elementwise(outputs, _alike(function, outputs, targets))
            values = _reduced(elements, reduction)
            return values if reduction == "sum" or function not in BY_CLASS else _counted(values, outputs, targets)
        axes = tuple(
            tree_map(lambda leaf: batch_dim if has_samples(leaf, batch_dim) else None, tree) for tree in (outputs, targets)
        )
        with _unseen():  # first, as the criterion may write into the outputs
            whole = value_on_batch(criterion, outputs, _alike(function, outputs, targets)) if n > 1 else None
        with plain_calls(outputs, targets):
            values = torch.vmap(loss_of_one, in_dims=axes)(outputs, targets)
        with _unseen():
            values = agreeing(values, whole, outputs, batch_dim)
        return kept_apart(values, *leaves(outputs))

    return losses


def _one_number(value: Any) -> Tensor:
    if not isinstance(value, Tensor) or value.numel() != 1:
        seen = f"the shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        msg = f"criterion must return one number per sample, got {seen}; use reduction='mean' or 'sum', or reduce yourself"
        raise ValueError(msg)
    return value.reshape(())


def elements_belong_to_samples(function: Any, outputs: Tree, targets: Tree) -> bool:
    """Whether each element of the criterion on the batch belongs to one sample, as it does without broadcasting."""
    if not isinstance(outputs, Tensor) or not isinstance(targets, Tensor):
        return False
    if outputs.shape == targets.shape:
        return targets.is_floating_point() and (function in BY_ELEMENT or outputs.dim() > 1)
    return function in BY_CLASS and outputs.shape[:1] + outputs.shape[2:] == targets.shape


def _reduced(elements: Tensor, reduction: str) -> Tensor:
    """The losses of the samples from the losses of their elements."""
    if elements.dim() == 1:
        return elements
    return elements.flatten(1).sum(1) if reduction == "sum" else elements.flatten(1).mean(1)


def _counted(losses: Tensor, outputs: Tree, targets: Any) -> Tensor:
    """The losses, if no label is ignored: a mean over the labels that count is no mean over samples."""
    if targets.is_floating_point():
        return losses
    with _unseen():
        counted = targets != IGNORED
        return known(counted.all(), losses, outputs, 0, lambda: ignored(counted))


def _unseen() -> AbstractContextManager[Any]:
    """For our own looks at numbers, which no follower of the calls shall take for those of the loss."""
    context: AbstractContextManager[Any] = nullcontext() if tracing.compiling() else unseen()
    return context


def ignored(counted: Tensor) -> ValueError:
    """The refusal of labels of which some do not count."""
    ways = {1: "leave these samples out of the batch, x[y != -100], y[y != -100]; or "}
    return ValueError(
        f"targets must not hold ignored labels ({IGNORED}) with reduction='mean', got {int((~counted).sum())} of "
        f"{counted.numel()}: a mean over the labels that count is no mean over samples; {ways.get(counted.dim(), '')}use "
        "reduction='sum', the sum over the labels that count of each sample; or write a loss of your own, "
        "(params, buffers, batch) -> (n,), and give the average weight="
    )


def _alike(function: Any, output: Tree, target: Tree) -> Tree:
    """The target, batched by every vmap that batches the output."""
    if function in FUSED and isinstance(target, Tensor) and output.shape == target.shape:
        return target + torch.zeros_like(output)
    return target


def _with_axis(tree: Tree, batch_dim: int) -> Tree:
    return tree_map(lambda leaf: leaf.unsqueeze(batch_dim) if isinstance(leaf, Tensor) else leaf, tree)
