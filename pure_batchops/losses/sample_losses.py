"""The loss of each sample, `(params, buffers, batch) -> (n,)`, from a model and a criterion."""

from torch import Tensor, nn

from pure_batchops import checks
from pure_batchops.batches import pair
from pure_batchops.kernels.mode import plain_calls
from pure_batchops.losses.criterion import output_losses
from pure_batchops.losses.recognized import recognized
from pure_batchops.models.forward import pure_forward
from pure_batchops.models.row_by_row import is_row_by_row
from pure_batchops.points import saw_losses
from pure_batchops.traits import marked
from pure_batchops.types import Batch, Buffers, Criterion, Forward, Params, SampleLosses, Traits, Tree


def sample_losses(model: nn.Module | Forward, criterion: Criterion, batch_dim: int = 0) -> SampleLosses:
    """The loss of each sample, ℓᵢ = criterion(model(inputs)ᵢ, targetsᵢ).

    The model runs once on the whole batch; the criterion sees one sample at a time, with a batch axis of length one.

    Args:
        model: a module in eval mode, or a pure `forward(params, buffers, inputs)`. The module
            itself runs, with params and buffers in place of its own tensors; `pure_forward` says with which arguments.
        criterion: one of torch's losses, as a module or function, or any `(output, target) -> one number`. For a batch of
            several samples it must give the mean or the sum of its values for the samples (or all of them). A criterion that
            is meant for one sample says so in its first line: `assert len(output) == 1, f"got {len(output)}"` (torch.compile
            traces an assertion with such a message). Labels of -100 count as zero in a sum, and are refused in a mean.
        batch_dim: the axis of the samples in inputs, outputs and targets.

    Returns:
        `loss(params, buffers, batch) -> (n,)`, where `batch` is a pair `(inputs, targets)`, each any tree.

    Raises:
        TypeError: if model is neither a module nor a function, criterion is no function, or batch_dim no whole number.
        ValueError: if the model has batch norm or dropout in training mode, mixes samples by a batch norm without running
            statistics, or rescales an embedding; if the criterion gives a sample another weight alone than in its batch, or
            has parameters. The returned function raises it for a criterion that disagrees with itself on the batch and for
            labels of -100 in a mean (under vmap and torch.compile the losses and their derivatives are NaN instead), for a
            batch that is no pair, is empty, or has inputs and targets of different lengths, for names that the model does not
            have, and for a criterion that returns several numbers per sample.

    Examples:
        >>> import torch
        >>> def line(params, buffers, x):
        ...     return params["slope"] * x
        >>> loss = sample_losses(line, torch.nn.MSELoss())
        >>> loss({"slope": torch.tensor(2.0)}, {}, (torch.tensor([1.0, 2.0]), torch.tensor([0.0, 0.0])))
        tensor([ 4., 16.])
    """
    forward, axis = pure_forward(model), checks.axis("batch_dim", batch_dim)
    forward = forward if isinstance(model, nn.Module) else _plain(forward)
    criteria = output_losses(criterion, axis)

    def loss(params: Params, buffers: Buffers, batch: Batch) -> Tensor:
        inputs, targets = pair(batch, axis)
        losses = criteria(forward(params, buffers, inputs), targets)
        saw_losses(len(losses))
        return losses

    is_apart = axis == 0 and is_row_by_row(model)
    is_known = recognized(criterion).elementwise is not None  # any other is compared with its value on the batch
    return marked(loss, Traits(batch_dim=axis, independent=is_apart and is_known, plain=True))


def _plain(forward: Forward) -> Forward:
    """The forward pass of the user's own, in plain operations; that of a module sees to it itself."""

    def plain(params: Params, buffers: Buffers, inputs: Tree) -> Tree:
        with plain_calls(params, buffers, inputs):
            return forward(params, buffers, inputs)

    return plain
