"""Errors of torch, with the way out."""

from collections.abc import Callable
from typing import Any

from pure_batchops import tracing

_CHECKPOINTING = "switch checkpointing off: model.gradient_checkpointing_disable(), or the model's own option"
_ATTENTION = (
    "The fused attention kernels have no second derivatives. Run your forward inside `with "
    "torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):` (before torch 2.3, `with "
    "torch.backends.cuda.sdp_kernel(enable_flash=False, enable_mem_efficient=False):`), and for an "
    "nn.TransformerEncoderLayer call torch.backends.mha.set_fastpath_enabled(False)."
)
_FUNCTION = (
    "A torch.autograd.Function in the loss needs setup_context, so that torch.func can differentiate it. If it is that of "
    f"activation checkpointing, {_CHECKPOINTING}. If a module has a full backward hook, remove the hook."
)
_DERIVATIVES_INSIDE = (
    "Inside a loss, take derivatives by torch.func: torch.func.grad(u)(x) instead of x.requires_grad_() and "
    "torch.autograd.grad(u(x), x), and torch.func.grad(torch.func.grad(u)) for a second derivative."
)
_COMPILED = (
    "A module of torch.compile has no second derivatives. Pass the module inside, its attribute ._orig_mod, and compile the "
    "operation instead."
)
_NO_SECOND = (
    "A function in the loss has no second derivative in torch. hessian(loss, mode='finite_difference') needs only first "
    "derivatives, and so do gauss_newton and inverse_harmonic_mean with held= of n samples times D parameters, or more."
)
_RANDOM = (
    "A loss must not draw random numbers, as two passes would see two functions. Draw them before, and hand them over in the "
    "batch."
)
_NO_FORWARD = "A function in the loss has no forward mode in torch. hessian(loss), reverse over reverse, needs none."
_ONE_BY_ONE = (
    "The loss reads the numbers of tensors (.item(), a boolean mask, numpy), or writes into a tensor without the axis of the "
    "ensemble, which torch.vmap cannot do. Call the operation without torch.vmap, for one member of the ensemble and, with "
    "mode='finite_difference', one vector at a time; or write torch.where for a mask, and torch.cat for a write."
)
_WAYS: dict[str, tuple[str, ...]] = {
    _ATTENTION: ("scaled_dot_product", "flash_attention", "efficient_attention", "encoder_layer_fwd", "multi_head_attention"),
    f"A loss must not recompute its activations: {_CHECKPOINTING}.": ("use_reentrant", "saved tensor hooks"),
    _FUNCTION: ("setup_context",),
    _DERIVATIVES_INSIDE: ("Tensor.requires_grad_()", "appears to not have been used in the graph"),
    _COMPILED: ("torch.compile with aot_autograd does not currently support double backward",),
    _RANDOM: ("called random operation while in randomness error mode",),
    _NO_FORWARD: ("Trying to use forward AD",),
    _ONE_BY_ONE: ("data-dependent control flow", "dynamic shape", "there exists a Tensor `other`", "access data pointer"),
    _NO_SECOND: ("derivative for aten::", "the derivative for '", "not differentiable twice"),
}
"""For each way out, what the message of torch says. The first that fits is taken."""


def explained(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function; an error of torch that we know is followed by the way out."""

    def call(*arguments: Any) -> Any:
        tracing.refuse_inference_mode()
        try:
            return function(*arguments)
        except RuntimeError as error:
            way = _way(str(error))
            if way is None:
                raise
            msg = f"{error}\n{way}"
            raise RuntimeError(msg) from error

    return call


def _way(message: str) -> str | None:
    """The way out of an error of torch; None for an error that is not known, or was explained before."""
    for way, signs in _WAYS.items():
        if any(sign in message for sign in signs):
            return None if way in message else way
    return None
