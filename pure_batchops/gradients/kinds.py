"""The kinds of layers whose gradients need not be formed: one row for each. The package's page says how to add one."""

from typing import Any

from torch.nn import functional as F  # noqa: N812  # its usual name
from torch.nn import grad

from pure_batchops.gradients import convolution, embedding, linear
from pure_batchops.gradients.layer import LayerCall, LayerKind

KINDS: dict[Any, LayerKind] = {
    F.linear: linear.KIND,
    F.conv1d: convolution.kind(F.conv1d, grad.conv1d_weight),
    F.conv2d: convolution.kind(F.conv2d, grad.conv2d_weight),
    F.conv3d: convolution.kind(F.conv3d, grad.conv3d_weight),
    F.embedding: embedding.KIND,
}
"""By the function of torch that the layer calls, as a `TorchFunctionMode` sees it."""


def layer_call(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[LayerKind, LayerCall] | None:
    """The kind of layer that a function of torch is, and its call; None for a function or a call that no kind knows."""
    kind = KINDS.get(function)
    call = None if kind is None else kind.read(args, kwargs)
    return None if kind is None or call is None else (kind, call)
