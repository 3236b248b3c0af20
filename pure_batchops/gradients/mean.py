"""The gradient of the mean loss of a batch."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.func import grad_and_value

from pure_batchops import checks, tracing
from pure_batchops.derivatives.plain_autograd import recorded_pull, recording
from pure_batchops.losses.checked import mean_loss
from pure_batchops.members import above
from pure_batchops.trees import parameter_leaves, rebuilt
from pure_batchops.types import Batch, Buffers, Params, SampleLosses, Tree


def gradient(loss: SampleLosses) -> Callable[[Params, Buffers, Batch], Tree]:
    """The gradient of the mean loss, ∇(1/n Σᵢ ℓᵢ): a mean over the n samples of the batch.

    Args:
        loss: `(params, buffers, batch) -> (n,)`, or a function that returns a 0-dim tensor, which is taken as it is.

    Returns:
        `gradients(params, buffers, batch) -> tree`, a tree like params. It is a pure function, which may be differentiated and
        vmapped.

    Raises:
        TypeError: if loss is no function.
        ValueError: the function raises it for a loss that returns neither `(n,)` nor `()`.

    Examples:
        The gradient of the mean of ½ (w − xᵢ)² is the mean of w − xᵢ:

        >>> loss = lambda params, buffers, x: (params["w"] - x).square() / 2
        >>> gradient(loss)({"w": torch.tensor(3.0)}, {}, torch.tensor([1.0, 2.0]))
        {'w': tensor(1.5000)}
    """
    both = value_and_gradient(loss)

    def gradients(params: Params, buffers: Buffers, batch: Batch) -> Tree:
        return both(params, buffers, batch)[1]

    return gradients


def value_and_gradient(loss: SampleLosses) -> Callable[[Params, Buffers, Batch], tuple[Tensor, Tree]]:
    """The mean loss, 1/n Σᵢ ℓᵢ, and its gradient, for the cost of the gradient.

    Args:
        loss: as for `gradient`.

    Returns:
        `both(params, buffers, batch) -> (value, tree)`: a 0-dim tensor, and a tree like params.

    Raises:
        TypeError: as for `gradient`.
        ValueError: as for `gradient`.

    Examples:
        >>> loss = lambda params, buffers, x: (params["w"] - x).square() / 2
        >>> value_and_gradient(loss)({"w": torch.tensor(3.0)}, {}, torch.tensor([1.0, 2.0]))
        (tensor(1.2500), {'w': tensor(1.5000)})
    """
    checks.loss(loss)
    mean = mean_loss(loss)

    def both(params: Params, buffers: Buffers, batch: Batch) -> tuple[Tensor, Tree]:
        tracing.refuse_inference_mode()
        parameter_leaves(params)
        at_batch = partial(mean, buffers=buffers, batch=batch)
        recorded = recording(at_batch, params)
        if recorded is None:
            tracing.log("gradient: torch.func")
            tree, value = grad_and_value(at_batch)(params)
            return value, tree
        tracing.log("gradient: plain autograd")
        value, inputs, members = recorded
        pulled = recorded_pull([value], inputs, [torch.ones_like(value)])
        return above(value.detach(), members), rebuilt(params, [above(leaf, members) for leaf in pulled])

    return both
