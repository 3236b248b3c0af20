"""Errors of torch, with the setting that removes them."""

from collections.abc import Callable
from typing import Any

from pure_batchops import tracing

_FUSED = ("scaled_dot_product", "flash_attention", "efficient_attention", "encoder_layer_fwd", "multi_head_attention")
_ADVICE = (
    "The fused attention kernels have no second derivatives. Run your forward inside `with "
    "torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):` (before torch 2.3, `with "
    "torch.backends.cuda.sdp_kernel(enable_flash=False, enable_mem_efficient=False):`), and for an "
    "nn.TransformerEncoderLayer call torch.backends.mha.set_fastpath_enabled(False)."
)


def explained(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function; an error of torch about fused attention is followed by the way out."""

    def call(*arguments: Any) -> Any:
        tracing.refuse_inference_mode()
        try:
            return function(*arguments)
        except RuntimeError as error:
            if not any(name in str(error) for name in _FUSED) or _ADVICE in str(error):
                raise
            msg = f"{error}\n{_ADVICE}"
            raise RuntimeError(msg) from error

    return call
