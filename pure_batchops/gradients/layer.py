"""What the package must know about a kind of layer, and what it computes from that.

Per sample, the gradient of a layer's weight is much larger than the layer's input and the gradient at its output. This pair
is enough for J v, Jᵀ u and the squared norms, so `LayerRecord` keeps the pair instead of the gradient.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.func import vjp

from pure_batchops.budget import fitting

Options = dict[str, Any]


class LayerCall(NamedTuple):
    """One call of a layer, as its kind reads it.

    Attributes:
        x: the input.
        weight: the weight. The output is linear in it, apart from the bias.
        bias: the bias, or None.
        options: whatever else `LayerKind.outputs` needs, by name. It must be the same for all samples.
        with_weight: `w -> output`: the same call with another weight.
        has_rows: False if the layer mixes the rows of axis 0 of its input, because it takes that axis for something else.
    """

    x: Tensor
    weight: Tensor
    bias: Tensor | None
    options: Options
    with_weight: Callable[[Tensor], Tensor]
    has_rows: bool = True


class LayerKind(NamedTuple):
    """A kind of layer. Only `read` and `outputs` are needed; the rest is faster where it is given.

    `x` is `(n, *input)`, where `input` is the shape that the function saw for one sample, with its batch axis (of length one,
    as a rule). `δ`, the gradient at the output, is `(n, *output)`. `like` is the weight: only its shape and dtype are read.

    Attributes:
        read: `(args, kwargs) -> LayerCall`, or None if this call is not one that the kind knows.
        outputs: `(x, weight, options) -> (n, *output)` without the bias, linear in the weight.
        gradient: `(x, δ, like, options) -> Σᵢ ∇ℓᵢ`, like the weight. By default the transpose of `outputs`.
        gradients: `(x, δ, like, options) -> all ∇ℓᵢ`, `(n, *weight)`. By default `gradient` under vmap.
        squared_norms: `(x, δ, like, options) -> all ‖∇ℓᵢ‖²`, `(n,)`, without forming them, in at least single precision; or
            None where forming them is cheaper. By default a chunk of gradients is formed at a time.
        bias_axis: the axis of the output along which the bias lies.
    """

    read: Callable[[tuple[Any, ...], dict[str, Any]], LayerCall | None]
    outputs: Callable[[Tensor, Tensor, Options], Tensor]
    gradient: Callable[[Tensor, Tensor, Tensor, Options], Tensor] | None = None
    gradients: Callable[[Tensor, Tensor, Tensor, Options], Tensor] | None = None
    squared_norms: Callable[[Tensor, Tensor, Tensor, Options], Tensor | None] | None = None
    bias_axis: int = 1


class LayerRecord(NamedTuple):
    """One call of a layer by all samples: its inputs and the gradients at its outputs, `(n, …)` each."""

    kind: LayerKind
    options: Options
    x: Tensor
    delta: Tensor


def call_of(
    function: Callable[..., Any],
    names: tuple[str, ...],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    x: str = "input",
    weight: str = "weight",
    bias: str = "bias",
) -> LayerCall:
    """Read a call of a function whose arguments have these names, wherever they stand."""
    values = {**dict(zip(names, args, strict=False)), **kwargs}
    options = {name: value for name, value in values.items() if name not in (x, weight, bias)}
    return LayerCall(values[x], values[weight], values.get(bias), options, partial(_call_again, function, values, weight))


def _call_again(function: Callable[..., Tensor], values: dict[str, Any], name: str, weight: Tensor) -> Tensor:
    return function(**{**values, name: weight})


def push_through_layer(record: LayerRecord, v: Tensor) -> Tensor:
    """(J v)ᵢ = ⟨δᵢ, output of xᵢ with the weight v⟩, `(n,)`."""
    return (record.delta * record.kind.outputs(record.x, v, record.options)).flatten(1).sum(1)


def pull_through_layer(record: LayerRecord, u: Tensor, like: Tensor) -> Tensor:
    """Jᵀ u = Σᵢ uᵢ ∇ℓᵢ, like the weight."""
    scale = u.reshape(-1, *[1] * (record.delta.dim() - 1)).to(record.delta.dtype)
    return _gradient(record, record.x, record.delta * scale, like)


def _gradient(record: LayerRecord, x: Tensor, delta: Tensor, like: Tensor) -> Tensor:
    kind, options = record.kind, record.options
    if kind.gradient is not None:
        return kind.gradient(x, delta, like, options)
    _, transpose = vjp(lambda weight: kind.outputs(x, weight, options), torch.zeros_like(like))
    return transpose(delta)[0]


def weight_gradients(record: LayerRecord, like: Tensor) -> Tensor:
    """The gradient of the weight for each sample, `(n, *weight)`."""
    if record.kind.gradients is not None:
        return record.kind.gradients(record.x, record.delta, like, record.options)
    return torch.vmap(lambda x, delta: _gradient(record, x[None], delta[None], like))(record.x, record.delta)


def bias_gradients(record: LayerRecord, like: Tensor) -> Tensor:
    """The gradient of the bias for each sample, `(n, *bias)`."""
    axis, delta = record.kind.bias_axis, record.delta
    if delta.numel() == len(delta) * len(like):  # at a single position there is nothing to sum
        return delta.reshape(len(delta), len(like))
    return delta.movedim(axis + 1 if axis >= 0 else axis, -1).reshape(len(delta), -1, len(like)).sum(1)


def squared_norms(records: list[LayerRecord], like: Tensor) -> Tensor:
    """‖∇ℓᵢ‖² of a weight that all these calls share, `(n,)`, in at least single precision."""
    (kind, options, x, delta), *more = records
    norms = None if kind.squared_norms is None or more else kind.squared_norms(x, delta, like, options)
    if norms is not None:
        return norms

    def of_one(*pairs: Tensor) -> Tensor:
        inputs, deltas = pairs[: len(records)], pairs[len(records) :]
        parts = [_gradient(record, x[None], d[None], like) for record, x, d in zip(records, inputs, deltas, strict=True)]
        return wide(sum(parts[1:], parts[0])).square().sum()

    pairs = [record.x for record in records] + [record.delta for record in records]
    return in_chunks(torch.vmap(of_one), like.numel(), *pairs)


def in_chunks(function: Callable[..., Tensor], numbers: int, *tensors: Tensor) -> Tensor:
    """The function of tensors `(n, …)`, for as many samples at a time as fit if each takes so many numbers."""
    chunk = fitting(numbers)
    return torch.cat([function(*parts) for parts in zip(*(tensor.split(chunk) for tensor in tensors), strict=True)])


def wide(tensor: Tensor) -> Tensor:
    """The tensor in at least single precision: squares of half-precision numbers overflow."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
