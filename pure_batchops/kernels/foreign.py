"""Parameters that a loss reads past its arguments: they are refused."""

from typing import Any

import torch
from torch import Tensor, nn

from pure_batchops.trees import leaves

_HARMLESS = {Tensor.detach, torch.detach, Tensor.data.__get__}  # type: ignore[attr-defined]


MAY_HOLD_PARAMETERS = {nn.Parameter, list, tuple}
"""The types of the arguments that `refuse_foreign` looks at."""


def refuse_foreign(function: Any, argument: Any, output: Any, given: Any) -> None:
    """Refuse an argument of a call that is an `nn.Parameter` which the loss was not given, or holds one.

    A product does not depend on it. So either the loss calls a module where it should read params, or the parameter is meant
    to be fixed, which `requires_grad_(False)` says.

    Raises:
        ValueError: if the call reads such a parameter.
    """
    if type(argument) is nn.Parameter:
        _refuse(function, argument, output, given)
    elif type(argument) in MAY_HOLD_PARAMETERS:
        for part in argument:
            refuse_foreign(function, part, output, given)


def _refuse(function: Any, parameter: nn.Parameter, output: Any, given: Any) -> None:
    if not parameter.requires_grad or not torch.is_grad_enabled() or function in _HARMLESS or not isinstance(output, Tensor):
        return
    name = getattr(function, "__name__", str(function))
    if name.endswith("_like") or name.startswith("new_") or any(parameter is leaf for leaf in leaves(given)):
        return
    msg = (
        f"loss must read its numbers from params and buffers, got a call of {name} with an nn.Parameter of shape "
        f"{tuple(parameter.shape)} that is in neither; call torch.func.functional_call(model, (params, buffers), (inputs,)) "
        "instead of model(inputs), and read params instead of model.parameters(). If the parameter is meant to be fixed, say "
        "so by parameter.requires_grad_(False) or torch.no_grad()"
    )
    raise ValueError(msg)
