"""Layers whose output is linear in a weight: the gradients of single samples, kept as inputs and gradients of outputs.

Of a linear layer the gradient of a sample is Σₜ δₜ xₜᵀ over its positions t, x the input and δ the gradient at the output. The
pair is much smaller than the gradient, and all that a product needs: J v, Jᵀ u and the squared norms.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  # its usual name
from torch.nn import grad

from pure_batchops.budget import fitting

_OF_CONVOLUTION = ("stride", "padding", "dilation", "groups")
_OF_EMBEDDING = ("padding_idx", "max_norm", "norm_type", "scale_grad_by_freq", "sparse")


class Layer(NamedTuple):
    """What a function of torch does with its weight, on a batch of inputs.

    Attributes:
        outputs: `(x, weight) -> output`, linear in the weight.
        gradient: `(x, δ, like) -> the gradient of the weight`, a tensor like the weight.
    """

    outputs: Callable[[Tensor, Tensor], Tensor]
    gradient: Callable[[Tensor, Tensor, Tensor], Tensor]


class Use(NamedTuple):
    """One call of a layer by all samples: its inputs and the gradients at its outputs, `(n, …)` each."""

    layer: Layer
    x: Tensor
    delta: Tensor


def is_of_one_image(function: Any, args: tuple[Any, ...]) -> bool:
    """Whether a call is a convolution of an image without an axis for a batch: its first axis, the channels, meet."""
    return function in _CONVOLUTIONS and len(args) >= 2 and args[0].dim() < args[1].dim()


def layer_of(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Layer, Tensor, Tensor] | None:
    """The layer that a call of a function of torch is, its input and its weight; None for a function unknown here."""
    if function is F.linear and len(args) >= 2 and args[1].dim() == 2:
        return _LINEAR, args[0], args[1]
    if function in _CONVOLUTIONS and len(args) >= 2 and args[0].dim() == args[1].dim():  # a batch of images
        axes, gradient = _CONVOLUTIONS[function]
        options = dict(zip(_OF_CONVOLUTION, args[3:], strict=False))
        options.update({name: option for name, option in kwargs.items() if name in _OF_CONVOLUTION})
        if isinstance(options.get("padding"), str):
            return None
        return _convolution(function, axes, gradient, options), args[0], args[1]
    if function is F.embedding and len(args) >= 2:
        options = {**dict(zip(_OF_EMBEDDING, args[2:], strict=False)), **kwargs}
        if options.get("max_norm") is None and not options.get("scale_grad_by_freq") and not options.get("sparse"):
            return _embedding(options.get("padding_idx")), args[0], args[1]
    return None


def pushed(use: Use, v: Tensor) -> Tensor:
    """(J v)ᵢ = ⟨δᵢ, output of xᵢ with v for a weight⟩, `(n,)`."""
    return (use.delta * use.layer.outputs(use.x, v)).flatten(1).sum(1)


def pulled(use: Use, u: Tensor, like: Tensor) -> Tensor:
    """Jᵀ u = Σᵢ uᵢ ∇ℓᵢ, like the weight."""
    scale = u.reshape(-1, *[1] * (use.delta.dim() - 1)).to(use.delta.dtype)
    return use.layer.gradient(use.x, use.delta * scale, like)


def weight_gradients(use: Use, like: Tensor) -> Tensor:
    """The gradients of the weight, one of each sample, `(n, …)`."""
    layer, x, delta = use
    if layer is _LINEAR:
        x, delta = x.reshape(len(x), -1, x.shape[-1]), delta.reshape(len(delta), -1, delta.shape[-1]).mT
        return delta * x if x.shape[1] == 1 else delta @ x  # torch takes outer products slowly for matrix products
    return torch.vmap(lambda x, delta: layer.gradient(x[None], delta[None], like))(x, delta)


def bias_gradients(use: Use, like: Tensor) -> Tensor:
    """The gradients of the bias, which is added to the last axis of a linear layer's outputs, of others to the second."""
    delta = use.delta if use.layer is _LINEAR else use.delta.movedim(1, -1)
    return delta.reshape(len(delta), -1, len(like)).sum(1)


def squared_norms(uses: list[Use], like: Tensor) -> Tensor:
    """‖∇ℓᵢ‖² of the weight that all these uses share, `(n,)`, in at least single precision."""
    (layer, x, delta), *more = uses
    if layer is _LINEAR and not more:
        x, delta = wide(x.reshape(len(x), -1, x.shape[-1])), wide(delta.reshape(len(x), -1, delta.shape[-1]))
        positions, fan_in, fan_out = x.shape[1], x.shape[2], delta.shape[2]
        if positions == 1:
            return x.square().sum((1, 2)) * delta.square().sum((1, 2))  # ‖x‖² ‖δ‖²
        if positions * (fan_in + fan_out) < fan_in * fan_out:
            return _by_chunks(_of_gram_matrices, positions * (positions + 1), x, delta)

    def of_one(*pairs: Tensor) -> Tensor:
        inputs, deltas = pairs[: len(uses)], pairs[len(uses) :]
        parts = [use.layer.gradient(x[None], d[None], like) for use, x, d in zip(uses, inputs, deltas, strict=True)]
        return wide(sum(parts[1:], parts[0])).square().sum()

    return _by_chunks(torch.vmap(of_one), like.numel(), *(use.x for use in uses), *(use.delta for use in uses))


def _of_gram_matrices(x: Tensor, delta: Tensor) -> Tensor:
    """Σₜₛ (xₜ·xₛ)(δₜ·δₛ)."""
    return ((x @ x.mT) * (delta @ delta.mT)).sum((1, 2))


def _by_chunks(function: Callable[..., Tensor], numbers: int, *tensors: Tensor) -> Tensor:
    chunk = fitting(numbers)
    return torch.cat([function(*parts) for parts in zip(*(tensor.split(chunk) for tensor in tensors), strict=True)])


def wide(tensor: Tensor) -> Tensor:
    """In at least single precision: squares of half-precision numbers overflow."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _rows(tensor: Tensor) -> Tensor:
    return tensor.reshape(-1, tensor.shape[-1])


_LINEAR = Layer(F.linear, lambda x, delta, _: _rows(delta).mT @ _rows(x))


def _convolution(function: Any, axes: int, gradient: Any, options: dict[str, Any]) -> Layer:
    def images(tensor: Tensor) -> Tensor:
        return tensor.reshape(-1, *tensor.shape[-1 - axes :])

    return Layer(
        lambda x, weight: function(images(x), weight, **options).unflatten(0, x.shape[: -1 - axes]),
        lambda x, delta, like: gradient(images(x), like.shape, images(delta), **options),
    )


_CONVOLUTIONS: dict[Any, tuple[int, Any]] = {
    F.conv1d: (1, grad.conv1d_weight),
    F.conv2d: (2, grad.conv2d_weight),
    F.conv3d: (3, grad.conv3d_weight),
}


def _embedding(padding: int | None) -> Layer:
    def seen(x: Tensor, rows: Tensor, count: int) -> Tensor:
        """The rows, but for those of padding, of which torch takes no gradient."""
        return rows if padding is None else torch.where((x == padding % count)[..., None], 0, rows)

    def outputs(x: Tensor, weight: Tensor) -> Tensor:
        return seen(x, F.embedding(x, weight), len(weight))

    def gradient(x: Tensor, delta: Tensor, like: Tensor) -> Tensor:
        rows = _rows(seen(x, delta, len(like)))
        return rows.new_zeros(like.shape).index_add(0, x.reshape(-1), rows)

    return Layer(outputs, gradient)
