"""The gradients of single samples through the layers of a loss, without forming them.

The loss runs twice. On one sample alone, every call of a function of torch is looked at: a weight of which all uses are calls
of known layers can be kept as pairs of inputs and gradients of outputs. Then on all samples by vmap, each such output with
a zero added, the tap, whose gradient is that of the output.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.func import grad_and_value
from torch.nn import functional as F  # noqa: N812  # its usual name
from torch.overrides import TorchFunctionMode

from pure_batchops.gradients.kinds import Use, layer_of
from pure_batchops.torch_privates import attention_seen_by_modes
from pure_batchops.trees import tree_flatten

Taps = list[tuple[int, Tensor]]
"""For each call of a layer in turn the number of its weight's leaf, and a zero like its output."""


class Tapped(NamedTuple):
    """The gradients of all samples.

    Attributes:
        losses: of each sample alone, `(n,)`.
        uses: those of each tapped weight, by the number of its leaf.
        gradients: those of the other leaves, `(n, …)`, by their number.
        hidden: for each sample how many tapped weights are used in a way that was not seen; None without a tapped weight.
    """

    losses: Tensor
    uses: dict[int, list[Use]]
    gradients: dict[int, Tensor]
    hidden: Tensor | None


class Calls(TorchFunctionMode):
    """Hands each call of a function of torch to `handle(function, args, kwargs)`."""

    def __init__(self, handle: Callable[[Any, tuple[Any, ...], dict[str, Any]], Any]) -> None:
        super().__init__()
        self.handle = handle

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is F.multi_head_attention_forward:
            with self:
                return attention_seen_by_modes(*args, **kwargs or {})
        return self.handle(func, args, kwargs or {})


class _Watch(torch.autograd.Function):
    """The weight, and a flag whose gradient is one if the weight is used at all, whatever the gradient of the weight."""

    generate_vmap_rule = True

    @staticmethod
    def forward(weight: Tensor, flag: Tensor) -> Tensor:  # noqa: ARG004
        return weight.view_as(weight)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def jvp(ctx: Any, weight: Tensor, flag: Tensor) -> Tensor:  # noqa: ARG004
        return weight.view_as(weight)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ARG004
        return gradient, gradient.new_ones(())


def plan(loss_of_one: Callable[..., Tensor], leaves: list[Tensor], sample: list[Tensor]) -> Taps:
    """Which weights can be tapped, from the loss of one sample."""
    watched = [leaf.view_as(leaf) for leaf in leaves]  # objects that nothing else is
    numbers = {id(leaf): number for number, leaf in enumerate(watched)}
    calls: Taps = []
    others: set[int] = set()

    def handle(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        result = function(*args, **kwargs)
        touched = {numbers[id(part)] for part in tree_flatten((args, kwargs))[0] if id(part) in numbers}
        if touched and any(isinstance(part, Tensor) for part in tree_flatten(result)[0]):  # not a shape or a dtype
            layer = layer_of(function, args, kwargs)
            weight = None if layer is None else numbers.get(id(layer[2]))
            if layer is not None and weight is not None and id(layer[1]) not in numbers:
                calls.append((weight, torch.zeros_like(result)))
                touched.remove(weight)
            others.update(touched)
        return result

    with Calls(handle):
        loss_of_one(watched, *sample)
    return [call for call in calls if call[0] not in others]


def tapped_gradients(loss_of_one: Callable[..., Tensor], leaves: list[Tensor], samples: list[Tensor], planned: Taps) -> Tapped:
    """The gradients of the losses of all samples.

    Returns:
        What `Tapped` says.

    Raises:
        RuntimeError: if the loss of all samples calls other layers than that of one did.
    """
    dims = (None, *[0] * len(samples))
    if not planned:
        gradients, losses = torch.vmap(grad_and_value(loss_of_one), dims)(leaves, *samples)
        return Tapped(losses, {}, dict(enumerate(gradients)), None)
    watch: Callable[[Tensor, Tensor], Tensor] = _Watch.apply
    tapped = sorted({number for number, _ in planned})
    taps = [tap for _, tap in planned]
    flags = [leaves[number].new_zeros(()) for number in tapped]
    rest = {number: leaf for number, leaf in enumerate(leaves) if number not in tapped}
    layers: list[Any] = []

    def value(taps: list[Tensor], flags: list[Tensor], rest: dict[int, Tensor], *sample: Tensor) -> Any:
        layers.clear()
        inputs: list[Tensor] = []
        weights = {number: watch(leaves[number], flag) for number, flag in zip(tapped, flags, strict=True)}
        numbers = {id(weight): number for number, weight in weights.items()}

        def handle(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if len(args) < 2 or id(args[1]) not in numbers:
                return function(*args, **kwargs)
            layer, number = layer_of(function, args, kwargs), numbers[id(args[1])]
            if layer is None or len(inputs) == len(taps):
                return function(*args, **kwargs)
            output = function(args[0], leaves[number], *args[2:], **kwargs) + taps[len(inputs)]
            inputs.append(args[0].clone())  # what the loss does to it later is not to be seen
            layers.append((number, layer[0]))
            return output

        with Calls(handle):
            loss = loss_of_one([weights[i] if i in weights else rest[i] for i in range(len(leaves))], *sample)
        return loss, inputs

    mapped = torch.vmap(grad_and_value(value, (0, 1, 2), has_aux=True), (None, None, *dims))
    (deltas, seen, gradients), (losses, inputs) = mapped(taps, flags, rest, *samples)
    if [number for number, _ in layers] != [number for number, _ in planned]:
        msg = "the loss of all samples calls other layers than that of one did"
        raise RuntimeError(msg)
    uses: dict[int, list[Use]] = {number: [] for number in tapped}
    for (number, layer), x, delta in zip(layers, inputs, deltas, strict=True):
        uses[number].append(Use(layer, x, delta.to(x.dtype) if x.is_floating_point() else delta))  # autocast mixes them
    return Tapped(losses, uses, gradients, torch.stack(seen).sum(0))
