"""A module as a pure function, `forward(params, buffers, inputs) -> outputs`."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from pure_batchops import checks
from pure_batchops.models.attention import attention_switch
from pure_batchops.models.purity import purity_check, refuse_impure_modules
from pure_batchops.models.skeleton import skeleton_of
from pure_batchops.trees import tree_map
from pure_batchops.types import Buffers, Forward, Params, Tree


def pure_forward(model: nn.Module | Forward) -> Forward:
    """The forward pass of a module as a pure function. A function is returned unchanged.

    The module is called as `model(inputs)`. If its forward cannot be called with one argument, a tuple or list of inputs
    becomes its positional arguments, and a dict its keyword arguments.

    Returns:
        `forward(params, buffers, inputs) -> outputs`.

    Raises:
        TypeError: if model is neither a module nor a function.
        ValueError: if batch norm or dropout is in training mode.
    """
    if not isinstance(model, nn.Module):
        checks.function("model", model)
        return model
    refuse_impure_modules(model)
    skeleton = skeleton_of(model)
    shapes = {name: tensor.shape for name, tensor in [*skeleton.named_parameters(), *skeleton.named_buffers()]}
    takes_several = not checks.accepts(skeleton.forward, None)
    attention, run = attention_switch(skeleton), purity_check(model)
    in_place = any(getattr(module, "inplace", False) for module in model.modules())

    def forward(params: Params, buffers: Buffers, inputs: Tree) -> Tree:
        _check_state(shapes, params, buffers)
        arguments, keywords = _arguments(_copied(inputs) if in_place else inputs, takes_several=takes_several)

        def outputs(buffers: Buffers) -> Tree:
            with attention():
                return functional_call(skeleton, (params, buffers), arguments, keywords)

        return run(outputs, buffers)

    return forward


def _copied(inputs: Tree) -> Tree:
    """Copies of the inputs, for a model whose first module may write into them."""
    return tree_map(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, inputs)


def _check_state(shapes: Mapping[str, torch.Size], params: Any, buffers: Any) -> None:
    """Check that params and buffers together are the tensors of the model."""
    for what, tensors in (("params", params), ("buffers", buffers)):
        if not isinstance(tensors, Mapping):
            msg = (
                f"{what} of a module must be a dict from names to tensors, got {type(tensors).__name__}; the arguments are "
                "(params, buffers, batch, v) or (params, buffers, batch), and buffers are {} for a model without any"
            )
            raise TypeError(msg)
        for name, tensor in tensors.items():
            if name not in shapes:
                msg = f"the model has no parameter or buffer {name!r}, given in {what}; it has {', '.join(shapes)}"
                raise ValueError(msg)
            if tensor.shape != shapes[name]:
                msg = (
                    f"{what}[{name!r}] must have the model's shape {tuple(shapes[name])}, got {tuple(tensor.shape)}; "
                    "for an ensemble use torch.vmap"
                )
                raise ValueError(msg)
    missing = [name for name in shapes if name not in params and name not in buffers]
    twice = [name for name in params if name in buffers]
    if missing or twice:
        msg = (
            f"params and buffers together must hold each tensor of the model once; "
            f"missing {', '.join(missing) or 'none'}, in both {', '.join(twice) or 'none'}"
        )
        raise ValueError(msg)


def _arguments(inputs: Tree, *, takes_several: bool) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The positional and keyword arguments of the module's forward."""
    if takes_several and isinstance(inputs, dict):
        return (), inputs
    return (tuple(inputs) if takes_several and isinstance(inputs, (tuple, list)) else (inputs,)), {}
