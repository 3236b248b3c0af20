"""The gradients of single samples from one pass over the batch, of a loss that is known to keep its samples apart.

Then the gradient at the output of a layer, of the sum of all losses, is that of each sample in its own row. The pass takes
no gradient of a weight at all.
"""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pure_batchops.derivatives.plain_autograd import has_others
from pure_batchops.gradients.by_vmap import Calls, Tapped
from pure_batchops.gradients.kinds import Layer, Use, bias_gradients, is_of_one_image, layer_of, weight_gradients
from pure_batchops.losses.checked import checked_losses
from pure_batchops.torch_privates import version
from pure_batchops.tracing import is_untraced
from pure_batchops.trees import leaves, rebuilt, tree_flatten
from pure_batchops.types import Batch, Buffers, Params, SampleLosses


class _Call(NamedTuple):
    layer: Layer
    weight: int
    bias: int | None
    x: Tensor
    output: Tensor
    versions: tuple[int, int]


def recorded_layers(loss: SampleLosses, params: Params, buffers: Buffers, batch: Batch, held: int) -> Tapped | None:
    """The gradients of all samples: formed if they have at most `held` numbers, else those of weights as uses of layers.

    Returns:
        What `Tapped` says; None if a parameter is no weight or bias of a layer, or something else looks on.
    """
    if not is_untraced(params):
        return None
    flat = [leaf.detach() for leaf in leaves(params)]  # objects that nothing else is
    numbers = {id(leaf): number for number, leaf in enumerate(flat)}
    calls: list[_Call] = []
    others: list[Any] = []

    def handle(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        output = function(*args, **kwargs)
        if is_of_one_image(function, args):
            others.append(function)
        touched = [numbers[id(part)] for part in _parts((*args, *kwargs.values())) if id(part) in numbers]
        if not touched or not any(isinstance(part, Tensor) for part in _parts((output,))):  # a shape or a dtype
            return output
        found = layer_of(function, args, kwargs)
        bias = args[2] if len(args) > 2 else kwargs.get("bias")
        if found is None or touched != [numbers[id(part)] for part in (found[2], bias) if id(part) in numbers]:
            others.append(function)
            return output
        layer, x, weight = found
        if id(weight) not in numbers:  # a frozen weight of a bias that is not
            others.append(function)
            return output
        is_first = not output.requires_grad
        output = output.detach().requires_grad_() if is_first else output
        calls.append(_Call(layer, numbers[id(weight)], numbers.get(id(bias)), x, output, (version(x), version(output))))
        return output.clone() if is_first else output  # a leaf of autograd cannot be changed in place

    with torch.enable_grad(), Calls(handle):
        losses = checked_losses(loss)(rebuilt(params, flat), buffers, batch)
    used = {number for call in calls for number in (call.weight, call.bias)}
    if others or not losses.requires_grad or not used.issuperset(numbers.values()) or not _intact(calls, losses):
        return None
    deltas = torch.autograd.grad(losses.sum(), [call.output for call in calls])
    return _tapped(calls, deltas, flat, losses.detach(), held)


def _parts(arguments: Iterable[Any]) -> Iterator[Any]:
    """The leaves of arguments; most are leaves, for which torch's way of finding that out is slow."""
    for argument in arguments:
        is_leaf = isinstance(argument, torch.Size) or not isinstance(argument, (tuple, list, dict))
        yield from (argument,) if is_leaf else tree_flatten(argument)[0]


def _intact(calls: list[_Call], losses: Tensor) -> bool:
    """Whether each row is of one sample, nothing was changed in place, and the caller has no gradient in it."""
    same = all(call.versions == (version(call.x), version(call.output)) for call in calls)
    rows = all(call.x.dim() > 0 and call.output.dim() > 1 and len(call.x) == len(call.output) == len(losses) for call in calls)
    return same and rows and not has_others([losses], [call.output for call in calls if call.output.is_leaf])


def _tapped(calls: list[_Call], deltas: tuple[Tensor, ...], flat: list[Tensor], losses: Tensor, held: int) -> Tapped:
    uses: dict[int, list[Use]] = {}
    gradients: dict[int, Tensor] = {}
    for call, delta in zip(calls, deltas, strict=True):
        use = Use(call.layer, call.x.detach(), delta.to(call.x.dtype) if call.x.is_floating_point() else delta)
        uses.setdefault(call.weight, []).append(use)
        if call.bias is not None:
            part = bias_gradients(use, flat[call.bias])
            gradients[call.bias] = gradients[call.bias] + part if call.bias in gradients else part
    if len(losses) * sum(leaf.numel() for leaf in flat) <= held:
        for number, of_weight in uses.items():
            first, *more = (weight_gradients(use, flat[number]) for use in of_weight)
            gradients[number] = sum(more, first)
        uses = {}
    return Tapped(losses, uses, gradients, None)
