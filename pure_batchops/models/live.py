"""Running a module itself, and leaving it as it was."""

from collections.abc import Callable
from operator import is_
from threading import RLock
from typing import Any

from torch import Tensor, nn

from pure_batchops import tracing

# A call puts other tensors into the module for a moment. No two threads may do that at once, to modules that may share parts.
_ONE_AT_A_TIME = RLock()
_OF_EVERY_MODULE = vars(nn.Module()).keys()


def unchanged(model: nn.Module) -> Callable[..., Any]:
    """How to call a function that runs the model, so that the model is as it was before.

    A forward pass may write into the module: old hooks of torch and user code keep tensors there. The modules run in the mode,
    training or evaluation, that they are in now.

    Returns:
        `keep(function, *args, **kwargs)`, which returns the function's result.
    """
    modules = list(model.modules())
    settings = [(module, name, value) for module in modules for name, value in _settings(module).items()]
    tensors = [
        (module, name, value.detach())
        for module in modules
        for name, value in vars(module).items()
        if isinstance(value, Tensor)
    ]

    def keep(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if tracing.compiling():
            return _compiled(settings, tensors, function, *args, **kwargs)
        with _ONE_AT_A_TIME:
            before = [(now, now.copy()) for module in modules for now in _containers(module)]
            for module, name, value in settings:
                vars(module)[name] = value
            try:
                return function(*args, **kwargs)
            finally:
                for now, then in before:
                    _restore(now, then)

    return keep


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
    remembered = [value for name, value in own.items() if type(value) in {dict, list} and name not in _OF_EVERY_MODULE]
    return [own, own["_parameters"], own["_buffers"], own["_modules"], *remembered]


def _restore(now: Any, then: Any) -> None:
    if isinstance(now, list):
        if len(now) != len(then) or not all(map(is_, now, then)):
            now[:] = then
    elif now.keys() != then.keys() or not all(map(is_, now.values(), then.values())):
        now.clear()
        now.update(then)


def _compiled(settings: Any, tensors: Any, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """The same for the compiler, which cannot trace `vars`: it restores the settings, and the tensors that hooks compute."""
    modes = [getattr(module, name) for module, name, _ in settings]
    for module, name, value in settings:
        setattr(module, name, value)
    try:
        return function(*args, **kwargs)
    finally:
        for module, name, tensor in tensors:
            setattr(module, name, tensor)
        for (module, name, _), mode in zip(settings, modes, strict=True):
            setattr(module, name, mode)
