"""The calls of known layers inside a loss that the compiler traces, and the zeros added to their outputs."""

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor
from torch.func import grad

from pure_batchops.gradients.kinds import layer_call
from pure_batchops.gradients.layer import LayerCall, LayerKind, Options
from pure_batchops.kernels.traced import traced_calls
from pure_batchops.losses.checked import checked_losses
from pure_batchops.trees import rebuilt
from pure_batchops.types import Batch, Buffers, Params, SampleLosses


class TracedCall(NamedTuple):
    """One call of a layer: the numbers of the leaves that are its weight and its bias, its kind, input and output."""

    weight: int
    bias: int | None
    kind: LayerKind
    options: Options
    x: Tensor
    output: Tensor


def traced_losses(
    loss: SampleLosses, params: Params, buffers: Buffers, batch: Batch, flat: list[Tensor], handle: Callable[..., Any]
) -> Tensor:
    """The losses of the batch, whose calls of torch `handle` makes."""
    return traced_calls(handle, checked_losses(loss), rebuilt(params, flat), buffers, batch)


def first_run(losses_of: Callable[..., Tensor], flat: list[Tensor], found: list[TracedCall]) -> tuple[int, bool]:
    """The number of losses, and whether they depend on params otherwise than by known layers, whose calls are added.

    Known layers get constants, so that whatever still depends on params uses them in another way, seen or not.

    Returns:
        The two.
    """
    seen: list[Any] = []

    def total(own: Any) -> Any:  # C3
        def handle(function: Any, args: Any, kwargs: Any, plain: Any) -> Any:
            call = _known_call(own, function, args, kwargs)
            if call is None:
                return plain(*args, **kwargs)
            kind, read, weight, bias = call
            output = _with_constants(own, flat, (weight, bias), plain, args, kwargs)
            found.append(TracedCall(weight, bias, kind, read.options, read.x, output))
            return output

        losses = losses_of(own, handle)
        seen.append((len(losses), losses.requires_grad))
        return losses.sum()

    grad(total)(flat)
    n, depends = seen[0]
    return n, depends


def tapped_losses(losses_of: Callable[..., Tensor], flat: Any, taps: Any) -> Any:
    """The losses, and the inputs of the tapped layers."""
    inputs: list[Any] = []

    def handle(function: Any, args: Any, kwargs: Any, plain: Any) -> Any:
        call = _known_call(flat, function, args, kwargs)
        if call is None:
            return plain(*args, **kwargs)
        output = plain(*args, **kwargs) + taps[len(inputs)]
        inputs.append(call[1].x.clone())  # in case the loss changes it in place later
        return output

    return losses_of(flat, handle), inputs


def _known_call(own: Any, function: Any, args: Any, kwargs: Any) -> tuple[LayerKind, LayerCall, int, int | None] | None:
    """The kind and the call of a layer whose weight is a leaf, and the numbers of its weight and its bias."""
    kind, call = layer_call(function, args, kwargs) or (None, None)
    if kind is None or call is None or not call.has_rows or _number(own, call.x) is not None:
        return None
    weight, bias = _number(own, call.weight), _number(own, call.bias)
    return None if weight is None else (kind, call, weight, bias)


def _number(own: Any, tensor: Any) -> int | None:
    """The number of the leaf that a tensor is. The compiler cannot take the id of a tensor, but compares two."""
    for number, leaf in enumerate(own):
        if tensor is leaf:
            return number
    return None


def _with_constants(own: Any, flat: Any, numbers: Any, plain: Any, args: Any, kwargs: Any) -> Any:
    """The output of a call with the weight and the bias as constants."""

    def constant(argument: Any) -> Any:
        for number in numbers:
            if number is not None and argument is own[number]:
                return flat[number]
        return argument

    return plain(*[constant(part) for part in args], **{name: constant(part) for name, part in kwargs.items()})
