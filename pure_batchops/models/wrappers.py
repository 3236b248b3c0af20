"""Wrappers around a model that cannot run as a function of its tensors: they are refused, with the way to the model inside."""

from torch import nn
from torch.jit import ScriptModule


def refuse_wrappers(model: nn.Module) -> None:
    """Refuse a module that is, or holds, a wrapper whose forward is not the code of the model.

    Raises:
        ValueError: if there is one.
    """
    for name, module in model.named_modules():
        what = _wrapper(module)
        if what:
            where = f" at {name!r}" if name else ""
            msg = f"model must be a module that torch.func.functional_call can run, got {what[0]}{where}; take {what[1]}"
            raise ValueError(msg)


def _wrapper(module: nn.Module) -> tuple[str, str] | None:
    """What kind of wrapper a module is, and what to take in its place."""
    if isinstance(module, nn.DataParallel):
        return "nn.DataParallel", "the module inside, its attribute .module"
    if isinstance(module, ScriptModule):
        return "a scripted or traced module", "the module from before torch.jit.script or torch.jit.trace"
    if type(module).__name__ == "OptimizedModule":  # importing its class would import the compiler
        return "a module of torch.compile", "the module inside, its attribute ._orig_mod, and compile the operation instead"
    return None
