"""Scales and shifts of norms: y = x̂ w + b, with x̂ the same norm without them."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  # its usual name

from pure_batchops.gradients import elements
from pure_batchops.gradients.entry import Entry
from pure_batchops.sample_axis.axis import SampleAxis

_OVER_LAST_AXES = ("input", "normalized_shape", "weight", "bias", "eps", "cudnn_enable")
NORMS: dict[Any, tuple[str, ...]] = {
    getattr(F, "rms_norm", F.layer_norm): ("input", "normalized_shape", "weight", "eps"),  # since torch 2.4
    F.layer_norm: _OVER_LAST_AXES,
    torch.layer_norm: _OVER_LAST_AXES,
    F.group_norm: ("input", "num_groups", "weight", "bias", "eps"),
    F.batch_norm: ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps"),
}
"""The names of the arguments, by function."""


def of_norm(
    function: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    output: Tensor,
    where: SampleAxis,
    is_source: Callable[[Any], bool],
) -> list[Entry] | None:
    """The entries of a norm's scale and shift; None if parameters enter elsewhere, or statistics are those of the batch."""
    values = {**dict(zip(NORMS[function], args, strict=False)), **kwargs}
    affine = {name: values.pop(name, None) for name in ("weight", "bias")}
    if values.get("training") or any(is_source(value) for value in values.values()):
        return None
    over_channels = "normalized_shape" not in values
    found = []
    for name, part in affine.items():
        if not is_source(part):
            continue
        lead = 1 if over_channels else output.dim() - part.dim()
        axes = (1,) * lead + tuple(part.shape) + (1,) * (output.dim() - lead - part.dim())
        if axes[where.axis] != 1:
            return None
        options = {"spread": axes[: where.axis] + axes[where.axis + 1 :], "sign": 1}
        found.append(Entry(elements.KIND, options, _normed(function, values) if name == "weight" else None, part, None))
    return found


def _normed(function: Any, values: dict[str, Any]) -> Tensor:
    with torch.no_grad():
        result: Tensor = function(**values)
    return result
