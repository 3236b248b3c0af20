"""Running a module itself with other tensors, and leaving it as it was."""

from collections.abc import Callable, Iterator
from itertools import chain
from operator import is_
from threading import RLock
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call

from pure_batchops import tracing
from pure_batchops.models.exchange import exchange
from pure_batchops.types import Buffers, Params, Tree

# A call puts other tensors into the module for a moment. No two threads may do that at once, to modules that may share parts.
_ONE_AT_A_TIME = RLock()
_KINDS = {dict, list, type(vars(nn.Module())["_parameters"])}  # before torch 2.3, the last is an OrderedDict


def running(model: nn.Module) -> Callable[[Params, Buffers, tuple[Any, ...], dict[str, Any]], Tree]:
    """How to run the model with other tensors, so that it is as it was before.

    A forward pass may write into the module: old hooks of torch and user code keep tensors there. The modules run in the mode,
    training or evaluation, that they are in now.

    Returns:
        `run(params, buffers, arguments, keywords)`, which returns what the model returns.
    """
    modules = list(model.modules())
    settings = [(module, name, value) for module in modules for name, value in _settings(module).items()]
    tensors = [
        (module, name, value.detach())
        for module in modules
        for name, value in vars(module).items()
        if isinstance(value, Tensor)
    ]
    put = exchange(model)

    def run(params: Params, buffers: Buffers, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Tree:
        if tracing.compiling():
            return _compiled(settings, tensors, model, params, buffers, arguments, keywords)
        with _ONE_AT_A_TIME:
            before = [(now, now.copy()) for module in modules for now in _containers(module)]
            for module, name, value in settings:
                vars(module)[name] = value
            slots = put({**params, **buffers})
            try:
                if slots is None:
                    return functional_call(model, (params, buffers), arguments, keywords, strict=True)
                return model(*arguments, **keywords)
            finally:
                for container, key, _, own in slots or []:
                    container[key] = own
                _restore(before)

    return run


def _settings(module: nn.Module) -> dict[str, Any]:
    """The attributes with which a module runs."""
    # Torch's attention has fast kernels without derivatives, which it takes only in evaluation mode. In training mode it
    # applies its dropout, which therefore is set to zero: a dropout in training mode was refused.
    if isinstance(module, nn.MultiheadAttention):
        return {"training": True, "dropout": 0.0}
    return {"training": True if isinstance(module, nn.TransformerEncoderLayer) else module.training}


def _containers(module: nn.Module) -> list[Any]:
    """Where a module keeps what it holds: dicts, among them those and the lists in which a forward remembers results."""
    own = vars(module)
    return [own, *[value for value in own.values() if type(value) in _KINDS]]


def _restore(before: list[tuple[Any, Any]]) -> None:
    """Put back what the containers held before."""
    nows, thens = zip(*before, strict=True)
    if [*map(len, nows)] == [*map(len, thens)] and all(map(is_, _contents(nows), _contents(thens))):
        return
    for now, then in before:
        if isinstance(now, list):
            now[:] = then
        elif now.keys() != then.keys() or not all(map(is_, now.values(), then.values())):
            now.clear()
            now.update(then)


def _contents(containers: tuple[Any, ...]) -> Iterator[Any]:
    """The keys of dicts and the items of lists, and then the values of dicts."""
    return chain(*containers, *[container.values() for container in containers if type(container) is not list])


def _compiled(
    settings: Any, tensors: Any, model: nn.Module, params: Params, buffers: Buffers, arguments: Any, keywords: Any
) -> Tree:
    """The same for the compiler, which cannot trace `vars`: it restores the settings, and the tensors that hooks compute."""
    modes = [getattr(module, name) for module, name, _ in settings]
    for module, name, value in settings:
        setattr(module, name, value)
    try:
        return functional_call(model, (params, buffers), arguments, keywords, strict=True)
    finally:
        for module, name, tensor in tensors:
            setattr(module, name, tensor)
        for (module, name, _), mode in zip(settings, modes, strict=True):
            setattr(module, name, mode)
