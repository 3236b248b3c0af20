"""A module as a pure function, `forward(params, buffers, inputs) -> outputs`."""

import copy
import inspect
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from pure_batchops import checks, tracing
from pure_batchops.models.rewrites import spell_out_hooks, spelled_out
from pure_batchops.torch_privates import BatchNorm, Dropout, InstanceNorm, version
from pure_batchops.trees import tree_map
from pure_batchops.types import Buffers, Forward, Params, Tree


def pure_forward(model: nn.Module | Forward) -> Forward:
    """The forward pass of a module as a pure function, or the function itself.

    Inputs are handed over as they are, `model(inputs)`; where the module's forward cannot be called with one
    argument, a tuple or list of inputs becomes its positional arguments and a dict its keyword arguments.

    Returns:
        `forward(params, buffers, inputs) -> outputs`.

    Raises:
        TypeError: if model is neither a module nor a function.
        ValueError: if batch norm or dropout is in training mode.
    """
    if not isinstance(model, nn.Module):
        checks.function("model", model)
        return model
    _refuse_training_mode(model)
    skeleton = _skeleton(model)
    shapes = {name: tensor.shape for name, tensor in [*skeleton.named_parameters(), *skeleton.named_buffers()]}
    spread = not _accepts(inspect.signature(skeleton.forward), None)
    attention = _math_attention if any(map(_may_attend, skeleton.modules())) else nullcontext
    in_place = any(getattr(part, "inplace", False) for part in model.modules())
    trains, pure = any(part.training for part in model.modules()), all(map(_is_torchs, model.modules()))
    watched = None if pure and not trains else {name for name, _ in skeleton.named_buffers()}

    def forward(params: Params, buffers: Buffers, inputs: Tree) -> Tree:
        _check_state(shapes, params, buffers)
        arguments, keywords = _arguments(_copied(inputs) if in_place else inputs, spread)

        def outputs(buffers: Buffers) -> Tree:
            with attention():
                return functional_call(skeleton, (params, buffers), arguments, keywords)

        return outputs(buffers) if watched is None or tracing.compiling() else _unmoved(outputs, buffers, watched, trains)

    return forward


def _copied(inputs: Tree) -> Tree:
    """The inputs for a model that may begin with a module that writes into them."""
    return tree_map(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, inputs)


def _unmoved(outputs: Callable[[Buffers], Tree], buffers: Buffers, watched: set[str], trains: bool) -> Tree:  # noqa: FBT001
    """The outputs of a model, if it writes into none of its buffers and, in training mode, draws no random numbers."""
    before = _random_states() if trains else []
    copies = {name: tensor.clone() if name in watched else tensor for name, tensor in buffers.items()}
    tracked = {name: copies[name] for name in watched & copies.keys() if not copies[name].is_inference()}
    versions = {name: version(tensor) for name, tensor in tracked.items()}
    result = outputs(copies)
    written = [name for name, tensor in tracked.items() if version(tensor) != versions[name]]
    drew = trains and not all(map(torch.equal, before, _random_states()))
    if written or drew:
        did = f"wrote into its buffers {', '.join(written)}" if written else "drew random numbers (functional dropout?)"
        way = "but in training mode it {}; call model.eval()" if trains else "but it {}; let its forward return what it writes"
        msg = f"model must be a pure function of params and buffers, {way.format(did)}"
        raise ValueError(msg)
    return result


def _random_states() -> list[Tensor]:
    """The states of the generators that a forward pass may draw from."""
    return [torch.get_rng_state(), *(torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [])]


def _refuse_training_mode(model: nn.Module) -> None:
    for name, module in model.named_modules():
        where = f"{type(module).__name__} {name!r}" if name else type(module).__name__
        if isinstance(module, BatchNorm) and module.running_mean is None:
            msg = f"model must not mix the samples of a batch, got {where} without running statistics"
            raise ValueError(msg)
        if isinstance(module, (nn.Embedding, nn.EmbeddingBag)) and module.max_norm is not None:
            msg = (
                f"model must not write into its parameters, got {where} with max_norm={module.max_norm}, which rescales its "
                "weight in place; set it to None"
            )
            raise ValueError(msg)
        if not module.training:
            continue
        if isinstance(module, BatchNorm) or (isinstance(module, InstanceNorm) and module.track_running_stats):
            msg = f"model must not have batch norm in training mode, got {where}; call model.eval()"
            raise ValueError(msg)
        rate = getattr(module, "p" if isinstance(module, Dropout) else "dropout", 0)
        if isinstance(module, nn.RReLU) or (isinstance(rate, (int, float)) and rate > 0):
            msg = f"model must not have dropout in training mode, got {where}; call model.eval()"
            raise ValueError(msg)


def _skeleton(model: nn.Module) -> nn.Module:
    """A copy of the model that holds no numbers: each parameter and buffer on the meta device, ties kept."""
    memo: dict[int, Any] = {}
    for tensor in [*model.parameters(), *model.buffers()]:
        meta = torch.empty_like(tensor, device="meta")
        is_parameter = isinstance(tensor, nn.Parameter)
        memo[id(tensor)] = nn.Parameter(meta, tensor.requires_grad) if is_parameter else meta
    for module in model.modules():
        # A tensor that is computed from parameters (weight_norm's) cannot be deep-copied; a forward hook renews it.
        computed = [value for value in vars(module).values() if isinstance(value, Tensor) and not value.is_leaf]
        memo.update({id(value): torch.empty_like(value, device="meta") for value in computed})
    skeleton = copy.deepcopy(model, memo)
    for module in skeleton.modules():
        # The fused fast path of attention has no derivatives. It is for eval mode alone; no dropout is left to draw.
        if isinstance(module, nn.MultiheadAttention):
            module.dropout = 0.0
        if isinstance(module, (nn.MultiheadAttention, nn.TransformerEncoderLayer)):
            module.training = True
        if (forward := spelled_out(module)) is not None:
            module.forward = forward
        spell_out_hooks(module)
    return skeleton


def _check_state(shapes: Mapping[str, torch.Size], params: Any, buffers: Any) -> None:
    for what, tensors in (("params", params), ("buffers", buffers)):
        if not isinstance(tensors, Mapping):
            msg = f"{what} of a module must be a dict from names to tensors, got {type(tensors).__name__}"
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


def _arguments(inputs: Tree, spread: bool) -> tuple[tuple[Any, ...], dict[str, Any]]:  # noqa: FBT001
    if spread and isinstance(inputs, dict):
        return (), inputs
    return (tuple(inputs) if spread and isinstance(inputs, (tuple, list)) else (inputs,)), {}


def _accepts(signature: inspect.Signature, *arguments: Any) -> bool:
    try:
        signature.bind(*arguments)
    except TypeError:
        return False
    return True


def _may_attend(module: nn.Module) -> bool:
    """Whether a module may use scaled_dot_product_attention: torch's own with attention in its name, and any of a user's."""
    return "ttention" in type(module).__name__ or not _is_torchs(module)


def _is_torchs(module: nn.Module) -> bool:
    return type(module).__module__.startswith("torch.nn.modules.")


def _math_attention() -> AbstractContextManager[Any]:
    """Attention by plain matrix products: its fused kernels have neither forward mode nor second derivatives."""
    if tracing.compiling() and torch.__version__ < "2.6":
        return nullcontext()  # the compiler cannot trace the switch before torch 2.6
    if hasattr(torch.nn, "attention"):
        return torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH)
    kernel: Callable[..., AbstractContextManager[Any]] = torch.backends.cuda.sdp_kernel
    return kernel(enable_flash=False, enable_mem_efficient=False, enable_math=True)
