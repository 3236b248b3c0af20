"""Linear layers, y = W x + b at every position. The gradient of a sample is Σₜ δₜ xₜᵀ over its positions t."""

from typing import Any

from torch import Tensor
from torch.nn import functional as F  # noqa: N812  # its usual name

from pure_batchops.gradients.layer import LayerCall, LayerKind, Options, call_of, in_chunks, wide


def _read(args: tuple[Any, ...], kwargs: dict[str, Any]) -> LayerCall | None:
    call = call_of(F.linear, ("input", "weight", "bias"), args, kwargs)
    has_plain_bias = call.bias is None or call.bias.shape == call.weight.shape[:1]  # torch broadcasts others
    return call if call.weight.dim() == 2 and has_plain_bias else None


def _outputs(x: Tensor, weight: Tensor, options: Options) -> Tensor:  # noqa: ARG001
    return F.linear(x, weight)


def _gradient(x: Tensor, delta: Tensor, like: Tensor, options: Options) -> Tensor:  # noqa: ARG001
    return delta.reshape(-1, delta.shape[-1]).mT @ x.reshape(-1, x.shape[-1])


def _gradients(x: Tensor, delta: Tensor, like: Tensor, options: Options) -> Tensor:  # noqa: ARG001
    x, delta = _positions(x), _positions(delta).mT
    return delta * x if x.shape[1] == 1 else delta @ x  # torch is slow for matrix products that are outer products


def _squared_norms(x: Tensor, delta: Tensor, like: Tensor, options: Options) -> Tensor | None:  # noqa: ARG001
    x, delta = _positions(x), _positions(delta)
    positions, fan_in, fan_out = x.shape[1], x.shape[2], delta.shape[2]
    if positions == 1:
        return wide(x).square().sum((1, 2)) * wide(delta).square().sum((1, 2))  # ‖x‖² ‖δ‖²
    if positions * (fan_in + fan_out) >= fan_in * fan_out:
        return None
    return in_chunks(_of_gram_matrices, positions * (positions + 1), wide(x), wide(delta))


def _of_gram_matrices(x: Tensor, delta: Tensor) -> Tensor:
    """Σₜₛ (xₜ·xₛ)(δₜ·δₛ)."""
    return ((x @ x.mT) * (delta @ delta.mT)).sum((1, 2))


def _positions(tensor: Tensor) -> Tensor:
    """All positions of each sample along one axis, `(n, positions, features)`."""
    return tensor.reshape(len(tensor), -1, tensor.shape[-1])


KIND = LayerKind(_read, _outputs, _gradient, _gradients, _squared_norms, bias_axis=-1)
