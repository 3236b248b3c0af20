"""A module as a pure function, `forward(params, buffers, inputs) -> outputs`."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pure_batchops import checks
from pure_batchops.kernels.mode import plain_calls
from pure_batchops.models.live import running
from pure_batchops.models.purity import purity_check, refuse_impure_modules
from pure_batchops.models.wrappers import refuse_wrappers
from pure_batchops.trees import tree_map
from pure_batchops.types import Buffers, Forward, Params, Tree

Arguments = tuple[tuple[Any, ...], dict[str, Any]]


def pure_forward(model: nn.Module | Forward) -> Forward:
    """The forward pass of a module as a pure function of its tensors: what `sample_losses` runs, for a loss of your own.

    The module itself runs, with the tensors that it is given in place of its own. So closures, hooks and replaced forwards
    read them too. Afterwards the module is as it was. It runs in the mode (evaluation or training) that it is in now. Where
    torch's own kernels have wrong derivatives or none, plain operations run instead.

    The module is called as `model(inputs)`, with exceptions: a dict of inputs whose keys all name arguments of the module's
    forward becomes keyword arguments; and if the forward needs several arguments, a tuple or list becomes positional ones.

    Args:
        model: a module in eval mode, or a pure `forward(params, buffers, inputs)`, which is returned unchanged.

    Returns:
        `forward(params, buffers, inputs) -> outputs`. `params` and `buffers` together hold each tensor of the module once,
        as `functional_state(model)` gives them.

    Raises:
        TypeError: if model is neither a module nor a function.
        ValueError: if batch norm or dropout is in training mode, or the module is a wrapper that cannot run as a function
            (compiled, scripted, `DataParallel`). The returned function raises it for names and shapes that the module does
            not have, and for a module that writes into its buffers or draws random numbers.

    Examples:
        >>> model = torch.nn.Linear(2, 1)
        >>> params, buffers = {"weight": torch.ones(1, 2)}, {"bias": torch.zeros(1)}
        >>> pure_forward(model)(params, buffers, torch.tensor([[1.0, 2.0]]))
        tensor([[3.]])
    """
    if not isinstance(model, nn.Module):
        checks.function("model", model)
        return model
    refuse_wrappers(model)
    refuse_impure_modules(model)
    shapes = {name: tensor.shape for name, tensor in [*model.named_parameters(), *model.named_buffers()]}
    arguments_of = _reader(model)
    checked, run = purity_check(model), running(model)
    in_place = any(getattr(module, "inplace", False) for module in model.modules())

    def forward(params: Params, buffers: Buffers, inputs: Tree) -> Tree:
        _check_state(shapes, params, buffers)
        arguments, keywords = arguments_of(_copied(inputs) if in_place else inputs)

        def outputs(buffers: Buffers) -> Tree:
            with plain_calls(params, buffers, inputs):
                return run(params, buffers, arguments, keywords)

        return checked(outputs, params, buffers)

    return forward


def _copied(inputs: Tree) -> Tree:
    """Copies of the inputs, for a model whose first module may write into them."""
    return tree_map(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, inputs)


def _reader(model: nn.Module) -> Callable[[Tree], Arguments]:
    """Which arguments the model's forward gets from the inputs."""
    known = inspect.signature(model.forward).parameters.values()
    names = [p.name for p in known if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    takes_several = not checks.accepts(model.forward, None)
    takes_any_keyword = not names and any(p.kind is p.VAR_KEYWORD for p in known)

    def read(inputs: Tree) -> Arguments:
        if isinstance(inputs, Mapping) and (takes_several or takes_any_keyword or all(key in names for key in inputs)):
            return (), dict(inputs)
        return (tuple(inputs) if takes_several and isinstance(inputs, (tuple, list)) else (inputs,)), {}

    return read


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
