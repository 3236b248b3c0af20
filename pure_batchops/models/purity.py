"""Modules that are no pure functions are refused: they draw random numbers, write into their state, or mix samples."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from pure_batchops import tracing
from pure_batchops.torch_privates import BatchNorm, Dropout, InstanceNorm, SpectralNorm, is_hooked, version
from pure_batchops.types import Buffers, Params, Tree


def refuse_impure_modules(model: nn.Module) -> None:
    """Refuse modules of torch that are known not to be pure.

    Raises:
        ValueError: if a module mixes samples, writes into its parameters, or is a batch norm or dropout in training mode.
    """
    for name, module in model.named_modules():
        where = f"{type(module).__name__} {name!r}" if name else type(module).__name__
        if isinstance(module, BatchNorm) and module.running_mean is None:
            msg = f"model must not mix the samples of a batch, got {where} without running statistics"
            raise ValueError(msg)
        if isinstance(module, (nn.Embedding, nn.EmbeddingBag)) and module.max_norm is not None:
            msg = (
                f"model must not write into its parameters, got {where} with max_norm={module.max_norm}, which rescales its "
                "weight in place; set max_norm to None"
            )
            raise ValueError(msg)
        if module.training:
            _refuse_training_mode(where, module)


def _refuse_training_mode(where: str, module: nn.Module) -> None:
    if isinstance(module, BatchNorm) or (isinstance(module, InstanceNorm) and module.track_running_stats):
        msg = f"model must not have batch norm in training mode, got {where}; call model.eval()"
        raise ValueError(msg)
    if isinstance(module, SpectralNorm):
        msg = f"model must not have spectral norm in training mode, which writes buffers, got {where}; call model.eval()"
        raise ValueError(msg)
    rate = getattr(module, "p" if isinstance(module, Dropout) else "dropout", 0)
    if isinstance(module, nn.RReLU) or (isinstance(rate, (int, float)) and rate > 0):
        msg = f"model must not have dropout in training mode, got {where}; call model.eval()"
        raise ValueError(msg)


def purity_check(model: nn.Module) -> Callable[[Callable[[Buffers], Tree], Params, Buffers], Tree]:
    """How to run a forward pass of the model, so that whatever it does besides is an error.

    Modules of torch in evaluation mode need no check, but for the pools that draw their regions. A module of the user's may
    write into its buffers, or draw random numbers. The compiler cannot trace the check, so compiled code skips it.

    Returns:
        `run(outputs, params, buffers)`, which returns `outputs(buffers)`.
    """
    is_training = any(module.training for module in model.modules())
    if not is_training and all(map(_is_known_pure, model.modules())):
        return lambda outputs, _, buffers: outputs(buffers)
    held = {name for name, _ in model.named_buffers()}
    watched = held | {name for name, _ in model.named_parameters()}

    def run(outputs: Callable[[Buffers], Tree], params: Params, buffers: Buffers) -> Tree:
        if tracing.compiling():
            return outputs(buffers)
        before = random_states()
        copies = {name: tensor.clone() if name in held else tensor for name, tensor in buffers.items()}
        tracked = {name: leaf for name, leaf in {**params, **copies}.items() if name in watched and not leaf.is_inference()}
        versions = {name: version(tensor) for name, tensor in tracked.items()}
        result = outputs(copies)
        written = [name for name, tensor in tracked.items() if version(tensor) != versions[name]]
        drew = not all(map(torch.equal, before, random_states()))
        if written or drew:
            raise _impure(written, is_training=is_training)
        return result

    return run


def _impure(written: list[str], *, is_training: bool) -> ValueError:
    if written:
        did, way = f"wrote into its tensors {', '.join(written)}", "let its forward return what it writes"
    else:
        did, way = "drew random numbers (functional dropout?)", "draw them before, and hand them over as an input"
    if is_training:
        did, way = f"in training mode it {did}", "call model.eval()"
    else:
        did = f"it {did}"
    return ValueError(f"model must be a pure function of params and buffers, but {did}; {way}")


def random_states() -> list[Tensor]:
    """The states of the generators that a forward pass may draw from."""
    return [torch.get_rng_state(), *(torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [])]


def _is_known_pure(module: nn.Module) -> bool:
    draws = isinstance(module, (nn.FractionalMaxPool2d, nn.FractionalMaxPool3d))
    return is_torchs(module) and not is_hooked(module) and not draws


def is_torchs(module: nn.Module) -> bool:
    """Whether a module is one of torch's own, whose behaviour is known."""
    return type(module).__module__.startswith("torch.nn.modules.")
