"""The calls of functions of torch inside a loss, and which parameters they use, as weight, as bias or otherwise."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from pure_batchops.gradients.kinds import KINDS, layer_call
from pure_batchops.gradients.layer import LayerCall, LayerKind
from pure_batchops.trees import tree_flatten


class FunctionCalls(TorchFunctionMode):
    """Hands each call of a function of torch to `handle(function, args, kwargs)`."""

    def __init__(self, handle: Callable[[Any, tuple[Any, ...], dict[str, Any]], Any]) -> None:
        super().__init__()
        self.handle = handle

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return self.handle(func, args, kwargs or {})


class ParameterUse(NamedTuple):
    """How a call uses parameters, which are known by the numbers of their leaves.

    Attributes:
        kind, call: the layer, None for a call of no known kind.
        weight: the number of the leaf that is its weight, or None.
        bias: the number of the leaf that is its bias, or None.
        others: the numbers of the leaves that the call uses in any other way; a leaf stands here once for each use.
    """

    kind: LayerKind | None
    call: LayerCall | None
    weight: int | None
    bias: int | None
    others: list[int]


def parameter_use(
    numbers: dict[int, int], function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> ParameterUse | None:
    """How a call uses the parameters, known by the `id` of their leaves; None if it is no layer and uses none."""
    others = _numbers_in(numbers, (*args, *kwargs.values()))
    if function not in KINDS:
        return ParameterUse(None, None, None, None, others) if others else None
    kind, call = layer_call(function, args, kwargs) or (None, None)
    if call is None:
        return ParameterUse(None, None, None, None, others)
    weight, bias = numbers.get(id(call.weight)), numbers.get(id(call.bias))
    for number in (weight, bias):
        if number is not None:
            others.remove(number)
    return ParameterUse(kind, call, weight, bias, others)


def holds_tensor(output: Any) -> bool:
    """Whether a call gave a tensor, not a shape or a dtype."""
    return isinstance(output, Tensor) or any(isinstance(part, Tensor) for part in tree_flatten(output)[0])


def _numbers_in(numbers: dict[int, int], arguments: Iterable[Any]) -> list[int]:
    found: list[int] = []
    for argument in arguments:  # most are leaves; torch is slow to find that out
        if isinstance(argument, (tuple, list, dict)) and not isinstance(argument, torch.Size):
            found += [numbers[id(part)] for part in tree_flatten(argument)[0] if id(part) in numbers]
        elif id(argument) in numbers:
            found.append(numbers[id(argument)])
    return found
