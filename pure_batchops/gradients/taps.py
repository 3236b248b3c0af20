"""The gradients of samples under vmap, with the weights of known layers kept as inputs and gradients at outputs.

The loss runs twice. First on one sample, to intercept every call of a function of torch: a weight that only known layers use
can be kept. Then on all samples under vmap, adding a zero (the "tap") to the output of each such layer. The gradient by the
tap is the gradient at that output.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.func import grad_and_value

from pure_batchops.gradients.calls import FunctionCalls, holds_tensor, parameter_use
from pure_batchops.gradients.flag import IdentityWithFlag
from pure_batchops.gradients.layer import LayerKind, LayerRecord, Options

Taps = list[tuple[int, Tensor]]
"""For each call of a layer, in order: the number of its weight's leaf, and a zero like its output."""


class LayerGradients(NamedTuple):
    """The gradients of all samples, formed for some leaves and kept as records of layers for the others.

    Attributes:
        losses: the loss of each sample alone, `(n,)`.
        records: the records of each weight that is kept by layer, by the number of its leaf.
        gradients: the gradients of the other leaves, `(n, …)`, by their number.
        unseen_uses: per sample, the number of weights with a use that was not intercepted; None if there can be none.
    """

    losses: Tensor
    records: dict[int, list[LayerRecord]]
    gradients: dict[int, Tensor]
    unseen_uses: Tensor | None


class _Intercepted(NamedTuple):
    """What a run under vmap intercepts, call by call: the leaf, the kind and its options, and the input."""

    numbers: list[int]
    kinds: list[tuple[LayerKind, Options]]
    inputs: list[Tensor]


def tappable_weights(loss_of_one: Callable[..., Tensor], leaves: list[Tensor], sample: list[Tensor]) -> Taps:
    """The weights that only known layers use, found with one sample."""
    fresh = [leaf.view_as(leaf) for leaf in leaves]  # fresh objects, so that their ids are unique
    numbers = {id(leaf): number for number, leaf in enumerate(fresh)}
    taps: Taps = []
    others: set[int] = set()

    def handle(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        output = function(*args, **kwargs)
        use = parameter_use(numbers, function, args, kwargs)
        if use is not None and holds_tensor(output):
            others.update(use.others)
            others.update(number for number in (use.bias,) if number is not None)
            if use.call is not None and use.weight is not None:
                is_tappable = use.call.has_rows and id(use.call.x) not in numbers
                others.update([] if is_tappable else [use.weight])
                taps.append((use.weight, torch.zeros_like(output)))
        return output

    with FunctionCalls(handle):
        loss_of_one(fresh, *sample)
    return [tap for tap in taps if tap[0] not in others]


def formed_gradients(loss_of_one: Callable[..., Tensor], leaves: list[Tensor], samples: list[Tensor]) -> LayerGradients:
    """The gradients of the losses of all samples, every one of them formed."""
    dims = (None, *[0] * len(samples))
    gradients, losses = torch.vmap(grad_and_value(loss_of_one), dims)(leaves, *samples)
    return LayerGradients(losses, {}, dict(enumerate(gradients)), None)


def tapped_gradients(
    loss_of_one: Callable[..., Tensor], leaves: list[Tensor], samples: list[Tensor], taps: Taps
) -> LayerGradients | None:
    """The gradients of the losses of all samples, with the tapped weights kept by layer.

    Returns:
        What `LayerGradients` says; None if the loss of all samples calls other layers than the loss of one did.
    """
    planned, zeros = [number for number, _ in taps], [zero for _, zero in taps]
    flags = [leaves[number].new_zeros(()) for number in sorted(set(planned))]
    rest = {number: leaf for number, leaf in enumerate(leaves) if number not in planned}
    seen = _Intercepted([], [], [])
    value = partial(_value_of_one, loss_of_one, leaves, seen)
    mapped = torch.vmap(grad_and_value(value, (0, 1, 2), has_aux=True), (None, None, None, *[0] * len(samples)))
    (deltas, used, gradients), (losses, inputs) = mapped(zeros, flags, rest, *samples)
    if seen.numbers != planned:
        return None
    records: dict[int, list[LayerRecord]] = {}
    for number, (kind, options), x, delta in zip(planned, seen.kinds, inputs, deltas, strict=True):
        records.setdefault(number, []).append(LayerRecord(kind, options, x, like_input(delta, x)))
    return LayerGradients(losses, records, gradients, torch.stack(used).sum(0))


def _value_of_one(
    loss_of_one: Callable[..., Tensor],
    leaves: list[Tensor],
    seen: _Intercepted,
    taps: list[Tensor],
    flags: list[Tensor],
    rest: dict[int, Tensor],
    *sample: Tensor,
) -> tuple[Tensor, list[Tensor]]:
    """The loss of one sample, and the inputs of its tapped layers."""
    # This fills `seen` from inside a transform. It is sound: vmap and grad run this function once, and only numbers, kinds and
    # options are read from `seen` afterwards. The inputs, which are traced, are returned.
    for intercepted in seen:
        intercepted.clear()
    watch: Callable[[Tensor, Tensor], Tensor] = IdentityWithFlag.apply
    tapped = [number for number in range(len(leaves)) if number not in rest]
    weights = {number: watch(leaves[number], flag) for number, flag in zip(tapped, flags, strict=True)}
    numbers = {id(weight): number for number, weight in weights.items()}

    def handle(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        use = parameter_use(numbers, function, args, kwargs)
        if use is None or use.call is None or use.kind is None or use.weight is None or len(seen.inputs) == len(taps):
            return function(*args, **kwargs)
        output = use.call.with_weight(leaves[use.weight]) + taps[len(seen.inputs)]
        seen.numbers.append(use.weight)
        seen.kinds.append((use.kind, use.call.options))
        seen.inputs.append(use.call.x.clone())  # copied, in case the loss changes it in place later
        return output

    with FunctionCalls(handle):
        loss = loss_of_one([weights[i] if i in weights else rest[i] for i in range(len(leaves))], *sample)
    return loss, list(seen.inputs)


def like_input(delta: Tensor, x: Tensor) -> Tensor:
    """The gradient at an output in the dtype of the input; under autocast they differ."""
    return delta.to(x.dtype) if x.is_floating_point() else delta
