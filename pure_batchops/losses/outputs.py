"""What a model returns must be tensors with the axis of the samples; if it is not, its parts are named."""

from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor

from pure_batchops.batches import has_samples
from pure_batchops.trees import leaves
from pure_batchops.types import Tree


def checked_outputs(outputs: Tree, batch_dim: int) -> Tree:
    """The outputs, if every part of them has an entry for each sample.

    Returns:
        The outputs.

    Raises:
        ValueError: if a part has no axis of samples, or is no tensor.
    """
    if all(has_samples(leaf, batch_dim) for leaf in leaves(outputs)):
        return outputs
    parts = _parts(outputs)
    first = next((name for name, part in parts.items() if has_samples(part, batch_dim)), None)
    got = ", ".join(f"{name} {_seen(part)}" for name, part in parts.items()) or _seen(outputs)
    way = ""
    if first is not None:
        item = f".{first}" if hasattr(outputs, first) else f"[{first!r}]"
        way = f"; with forward = pure_batchops.pure_forward(model), give lambda p, b, x: forward(p, b, x){item} for the model"
    msg = f"model must return an output for each sample along axis {batch_dim}, got an output without that axis: {got}{way}"
    raise ValueError(msg)


def _parts(outputs: Any) -> dict[str, Any]:
    """The named parts of a dict, named tuple or dataclass; of anything else none."""
    if isinstance(outputs, dict):
        return dict(outputs)
    if isinstance(outputs, tuple) and hasattr(outputs, "_asdict"):
        return dict(outputs._asdict())
    return {field.name: getattr(outputs, field.name) for field in fields(outputs)} if is_dataclass(outputs) else {}


def _seen(part: Any) -> str:
    return str(tuple(part.shape)) if isinstance(part, Tensor) else type(part).__name__
