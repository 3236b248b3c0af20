"""Random sums of gradients, Σ rᵢ ∇ℓᵢ: of the batch, of its parts, and of single samples. If two agree, so do all ∇ℓᵢ.

The rule of all routes is that ∇ℓᵢ is the gradient of the i-th loss that the batch gave. One backward pass over the batch gives
the sum for it. If other gradients have the same sum for random rᵢ, then with probability one each of them is the same.
"""

from contextlib import nullcontext
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.func import grad

from pure_batchops import tracing
from pure_batchops.batches import part
from pure_batchops.derivatives.plain_autograd import recorded_pull
from pure_batchops.gradients.calls import FunctionCalls
from pure_batchops.gradients.kinds import layer_call
from pure_batchops.gradients.layer import wide
from pure_batchops.gradients.recorded import Recorded
from pure_batchops.kernels.first_order import first_order
from pure_batchops.losses.checked import checked_losses
from pure_batchops.noise import uniform
from pure_batchops.traits import traits_of
from pure_batchops.trees import leaves, tree_map
from pure_batchops.types import Batch, Buffers, Params, SampleLosses, Tree


class Sum(NamedTuple):
    """The losses of n samples, `(n,)`, and Σ rᵢ ∇ℓᵢ, leaf by leaf. `epsilon` is that of the narrowest numbers inside."""

    losses: Tensor
    gradient: list[Tensor]
    epsilon: float


Sums = tuple[Sum, Sum]
"""Two sums that must agree: of the samples alone, and of the batch."""


def factors(losses: Tensor, start: int = 0) -> Tensor:
    """The random numbers rᵢ for n losses, in (½, 1½), from the place `start` on."""
    return (0.5 + uniform(0, (len(losses),), losses, start=start)).to(losses.dtype)


def sum_of(losses: Tensor, gradient: list[Tensor]) -> Sum:
    """A sum whose numbers inside are known by the losses and gradients alone."""
    return Sum(losses, gradient, max(torch.finfo(part.dtype).eps for part in (losses, *gradient)))


def sum_of_recorded(recorded: Recorded) -> Sum | None:
    """The sum of the batch, from its recorded losses; None if autograd refuses what the loss changed in place."""
    losses = recorded.losses
    if recorded.members.levels:
        return tracing.refused("recorded gradients", "they are those of an ensemble")
    try:
        gradient = recorded_pull([losses], recorded.inputs, [factors(losses)])
    except RuntimeError as error:  # the same sum is then made once more, and raises its own errors
        return tracing.refused("recorded gradients", str(error))
    return sum_of(losses.detach(), gradient)


def sum_of_batch(loss: SampleLosses, params: Params, buffers: Buffers, batch: Batch, start: int = 0) -> Sum:
    """The sum of a batch whose first sample has the place `start`."""
    losses, seen = partial(checked_losses(loss), buffers=buffers, batch=batch), [0.0]

    def weighted(p: Any) -> Any:  # C3
        values = losses(p)
        return (factors(values, start) * values).sum(), values

    with nullcontext() if tracing.compiling() else FunctionCalls(partial(_with_epsilon, seen)):
        tree, values = grad(weighted, has_aux=True)(params)
    found = sum_of(values, leaves(tree))
    return Sum(values, found.gradient, max(found.epsilon, *seen, _epsilon_of_autocast()))


def _with_epsilon(seen: list[float], function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The output of a call. The epsilon of its numbers is added to `seen`."""
    _, call = layer_call(function, args, kwargs) or (None, None)
    if call is not None:  # a copy, in case the loss changes the input in place later
        copy = call.x.clone()
        args = tuple(copy if part is call.x else part for part in args)
        kwargs = {name: copy if part is call.x else part for name, part in kwargs.items()}
    output = function(*args, **kwargs)
    if isinstance(output, Tensor) and output.is_floating_point():
        seen.append(torch.finfo(output.dtype).eps)
    return output


def _epsilon_of_autocast() -> float:
    """Under the compiler, which shows no single call: what autocast may make of the numbers inside."""
    is_on = tracing.compiling() and (torch.is_autocast_enabled() or torch.is_autocast_cpu_enabled())
    return torch.finfo(torch.bfloat16).eps if is_on else 0.0


def sum_of_parts(loss: SampleLosses, params: Params, buffers: Buffers, batch: Batch, n: int, size: int) -> Sum:
    """The sum of a batch of n samples, from parts of at most `size` samples that each go through the loss alone."""
    axis = traits_of(loss).batch_dim
    starts = range(0, n, size)
    of_parts = (part(batch, start, min(size, n - start), axis, n) for start in starts)
    return joined([sum_of_batch(loss, params, buffers, each, start) for each, start in zip(of_parts, starts, strict=True)])


def joined(sums: list[Sum]) -> Sum:
    """One sum from those of parts."""
    gradients = zip(*(each.gradient for each in sums), strict=True)
    total = [sum(group[1:], group[0]) for group in gradients]
    return Sum(torch.cat([each.losses for each in sums]), total, max(each.epsilon for each in sums))


def sum_of_rows(rows: list[Tensor], losses: Tensor, start: int = 0) -> Sum:
    """The sum of formed gradients, `(n, …)` each."""
    r = factors(losses, start)
    return sum_of(losses, [torch.tensordot(r.to(wide(row).dtype), wide(row), 1).to(row.dtype) for row in rows])


def losses_of_parts(
    loss: SampleLosses, params: Params, buffers: Buffers, batch: Batch, n: int, first: int | None
) -> list[Tensor]:
    """The losses of parts of a batch of n > 1 samples that go through the loss alone: the first few, or both halves."""
    axis, half = traits_of(loss).batch_dim, n // 2
    spans = [(0, half), (half, n - half)] if first is None else [(0, first)]
    with torch.no_grad(), first_order("reverse"):
        parts = [part(batch, start, size, axis, n) for start, size in spans]
        return [checked_losses(loss)(params, buffers, each).detach() for each in parts]


def doubled(tree: Tree) -> Tree:
    """The tree with its floating-point tensors in double precision."""
    return tree_map(lambda leaf: leaf.double() if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf, tree)
