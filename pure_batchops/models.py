"""From modules to plain tensors and pure functions: `(params, buffers)`, and `forward(params, buffers, inputs)`."""

import copy
import inspect
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from pure_batchops import checks
from pure_batchops.trees import named, named_leaves, rebuilt, same_leaves
from pure_batchops.types import Buffers, Forward, Params, Selection, Tree

# The base classes of all batch norms, instance norms and dropouts have private names only.
BatchNorm = nn.modules.batchnorm._BatchNorm  # noqa: SLF001
InstanceNorm = nn.modules.instancenorm._InstanceNorm  # noqa: SLF001
Dropout = nn.modules.dropout._DropoutNd  # noqa: SLF001

State = tuple[dict[str, Tensor], dict[str, Tensor]]


def functional_state(model: nn.Module, restrict_to: Selection = None) -> State:
    """The parameters to differentiate, and everything else that the model holds.

    Args:
        model: any module. It is not changed.
        restrict_to: which parameters to differentiate: a name, a shell pattern such as `"layer4.*"`, several of
            them, or a predicate on `(name, tensor)`. By default all with `requires_grad=True`; one that is picked
            is differentiated whatever its `requires_grad`. A tied parameter answers to each of its names.

    Returns:
        `(params, buffers)`, dicts from names to detached tensors that share storage with the model, in the model's
        order; buffers are the real buffers and the parameters that were not picked.

    Raises:
        TypeError: if model is no module, or restrict_to is none of the above.
        ValueError: if a name or pattern matches nothing, or nothing is left to differentiate.

    Examples:
        >>> model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Linear(2, 1))
        >>> params, buffers = functional_state(model, restrict_to="1.*")
        >>> list(params), list(buffers)
        (['1.weight', '1.bias'], ['0.weight', '0.bias'])
    """
    if not isinstance(model, nn.Module):
        msg = f"model must be a torch.nn.Module, got {type(model).__name__}"
        raise TypeError(msg)
    parameters = dict(model.named_parameters())
    if restrict_to is None:
        picked = {name for name, tensor in parameters.items() if tensor.requires_grad}
    else:
        first_names = {id(tensor): name for name, tensor in parameters.items()}
        every_name = dict(model.named_parameters(remove_duplicate=False))
        picked = {first_names[id(every_name[name])] for name in selected(every_name, restrict_to)}
    if not picked:
        msg = (
            f"no parameter is left to differentiate (restrict_to={restrict_to!r}); the model has "
            f"{', '.join(parameters) or 'no parameters'}; those with requires_grad=False must be picked by restrict_to"
        )
        raise ValueError(msg)
    params = {name: tensor.detach() for name, tensor in parameters.items() if name in picked}
    frozen = {name: tensor.detach() for name, tensor in parameters.items() if name not in picked}
    return params, {**frozen, **{name: tensor.detach() for name, tensor in model.named_buffers()}}


def selected(tensors: Mapping[str, Tensor], selection: Selection) -> list[str]:
    """The names that a selection picks.

    Returns:
        A list, in the order of tensors.

    Raises:
        TypeError: if the selection is no name, pattern, several of them, or predicate.
        ValueError: if a name or pattern matches nothing.
    """
    if callable(selection):
        return [name for name, tensor in tensors.items() if selection(name, tensor)]
    patterns = [selection] if isinstance(selection, str) else selection
    if not isinstance(patterns, Iterable) or isinstance(patterns, (bytes, Tensor)):
        msg = f"parameters are picked by names, shell patterns or a predicate, got {type(selection).__name__}"
        raise TypeError(msg)
    picked: set[str] = set()
    for pattern in patterns:
        if not isinstance(pattern, str):
            msg = f"a name or pattern of parameters must be a string, got {pattern!r}"
            raise TypeError(msg)
        matches = {pattern} & tensors.keys() or {name for name in tensors if fnmatchcase(name, pattern)}
        if not matches:
            msg = f"no parameter matches {pattern!r}; there are {', '.join(tensors)}"
            raise ValueError(msg)
        picked |= matches
    return [name for name in tensors if name in picked]


def stack_states(states: Iterable[tuple[Params, Buffers]]) -> tuple[Params, Buffers]:
    """The states of an ensemble as one, with a leading axis for the members, ready for `torch.vmap`.

    Args:
        states: `(params, buffers)` of each member, all of the same names and shapes.

    Returns:
        `(params, buffers)`, each leaf the stack of the members' leaves; new tensors.

    Raises:
        ValueError: if there is no member, or members differ in names or shapes.

    Examples:
        >>> params, _ = stack_states([({"w": torch.zeros(2)}, {}), ({"w": torch.ones(2)}, {})])
        >>> params["w"]
        tensor([[0., 0.],
                [1., 1.]])
    """
    members = [_checked_state(state) for state in states]
    if not members:
        msg = "states must hold at least one (params, buffers), got none"
        raise ValueError(msg)
    params, buffers = zip(*members, strict=True)
    return _stack("params", list(params)), _stack("buffers", list(buffers))


def _checked_state(state: Any) -> tuple[Params, Buffers]:
    if not isinstance(state, (tuple, list)) or len(state) != 2:
        msg = f"states must be an iterable of pairs (params, buffers), got an item of {type(state).__name__}"
        raise ValueError(msg)
    return state[0], state[1]


def _stack(what: str, trees: list[Tree]) -> Tree:
    expected = named_leaves(trees[0])
    rows = [same_leaves(f"{what} of member {i}", expected, tree) for i, tree in enumerate(trees)]
    for path, *column in zip(expected, *rows, strict=True):
        for i, leaf in enumerate(column):
            if leaf.shape != column[0].shape or leaf.dtype != column[0].dtype:
                msg = (
                    f"{what} of all members must agree at {named(path)}: member 0 has {tuple(column[0].shape)} "
                    f"{column[0].dtype}, member {i} has {tuple(leaf.shape)} {leaf.dtype}"
                )
                raise ValueError(msg)
    stacked = [torch.stack([leaf.detach() for leaf in column]) for column in zip(*rows, strict=True)]
    return rebuilt(trees[0], stacked)


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
    signature = inspect.signature(skeleton.forward)
    watched = {name for name, _ in skeleton.named_buffers()} if any(part.training for part in model.modules()) else None

    def forward(params: Params, buffers: Buffers, inputs: Tree) -> Tree:
        _check_state(shapes, params, buffers)
        arguments, keywords = _arguments(signature, inputs)

        def outputs(buffers: Buffers) -> Tree:
            with _math_attention():
                return functional_call(skeleton, (params, buffers), arguments, keywords, strict=True)

        return outputs(buffers) if watched is None or checks.compiling() else _unmoved(outputs, buffers, watched)

    return forward


def _unmoved(outputs: Callable[[Buffers], Tree], buffers: Buffers, watched: set[str]) -> Tree:
    """The outputs of a model of which a part is in training mode, if it neither draws random numbers nor writes."""
    before = torch.get_rng_state()
    copies = {name: tensor.clone() if name in watched else tensor for name, tensor in buffers.items()}
    versions = {name: tensor._version for name, tensor in copies.items()}  # noqa: SLF001
    result = outputs(copies)
    written = [name for name, tensor in copies.items() if tensor._version != versions[name]]  # noqa: SLF001
    if written or not torch.equal(before, torch.get_rng_state()):
        did = f"wrote into its buffers {', '.join(written)}" if written else "drew random numbers (functional dropout?)"
        msg = f"model must be a pure function of params and buffers, but in training mode it {did}; call model.eval()"
        raise ValueError(msg)
    return result


def _refuse_training_mode(model: nn.Module) -> None:
    for name, module in model.named_modules():
        where = f"{type(module).__name__} {name!r}" if name else type(module).__name__
        if isinstance(module, BatchNorm) and module.running_mean is None:
            msg = f"model must not mix the samples of a batch, got {where} without running statistics"
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


def _arguments(signature: inspect.Signature, inputs: Tree) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(inputs, (tuple, list, dict)) and not _accepts(signature, inputs):
        return ((), inputs) if isinstance(inputs, dict) else (tuple(inputs), {})
    return (inputs,), {}


def _accepts(signature: inspect.Signature, inputs: Tree) -> bool:
    try:
        signature.bind(inputs)
    except TypeError:
        return False
    return True


def _math_attention() -> AbstractContextManager[Any]:
    """Attention by plain matrix products: its fused kernels have neither forward mode nor second derivatives."""
    if hasattr(torch.nn, "attention"):
        return torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH)
    kernel: Callable[..., AbstractContextManager[Any]] = torch.backends.cuda.sdp_kernel
    return kernel(enable_flash=False, enable_mem_efficient=False, enable_math=True)
