"""The one way in which operations call a loss or a forward pass: in plain operations, checked to be a function of params."""

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.func import vjp

from pure_batchops import torch_privates, tracing
from pure_batchops.kernels.mode import plain_calls, watched
from pure_batchops.traits import traits_of
from pure_batchops.trees import leaves, rebuilt
from pure_batchops.types import Buffers, Params, Tree


def evaluated(function: Callable[..., Tree], params: Params, buffers: Buffers, batch: Any) -> Tree:
    """`function(params, buffers, batch)`, of a loss or a forward pass.

    Returns:
        Its result.

    Raises:
        ValueError: if autograd records params, and the result depends neither on them nor on buffers: then every product would
            be zero. Compiled code does not check it. Also if a part runs under torch.no_grad in forward mode.
    """
    with (watched if traits_of(function).plain else plain_calls)(params, buffers, batch) as stopped:
        result = function(params, buffers, batch)
        if stopped() and torch_privates.in_forward_mode():
            msg = (
                "loss must not run a part under torch.no_grad in forward mode, which goes on where reverse mode stops; call "
                "detach() on the tensor instead, or take another mode"
            )
            raise ValueError(msg)
        if stopped() and torch_privates.transforms() == []:
            # Reentrant checkpointing runs a part of the loss under torch.no_grad, and plain autograd may lose it without a
            # word. torch.func refuses it.
            vjp(lambda own: function(own, buffers, batch), params)
        if not tracing.compiling() and tracing.requires_grad(params) and _is_independent(result):
            _refuse_independent(function, params, buffers, batch)
    return result


def _tensors(tree: Tree) -> list[Tensor]:
    return [leaf for leaf in leaves(tree) if isinstance(leaf, Tensor)]


def _is_independent(result: Tree) -> bool:
    """Whether a result holds tensors, and autograd records none of them."""
    tensors = _tensors(result)
    return bool(tensors) and not tracing.requires_grad(tensors)


def _refuse_independent(function: Callable[..., Tree], params: Params, buffers: Buffers, batch: Any) -> None:
    """Refuse a function of neither params nor buffers. Of params alone it may be none, where they are a block of them all."""
    flat = leaves(buffers)
    floating = [i for i, leaf in enumerate(flat) if isinstance(leaf, Tensor) and leaf.is_floating_point()]
    seen: list[bool] = []

    def depends(own: list[Tensor]) -> list[Tensor]:
        every = dict(zip(floating, own, strict=True))
        result = function(params, rebuilt(buffers, [every.get(i, leaf) for i, leaf in enumerate(flat)]), batch)
        seen.append(any(leaf.requires_grad for leaf in _tensors(result)))
        return own

    if floating:
        vjp(depends, [flat[i].detach() for i in floating])
    if not any(seen):
        msg = (
            "loss must depend on params, got one that uses none of them, or only under torch.no_grad, so that every product "
            "would be zero; instead of model(inputs), call torch.func.functional_call(model, (params, buffers), (inputs,))"
        )
        raise ValueError(msg)
