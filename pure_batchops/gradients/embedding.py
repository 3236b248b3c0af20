"""Embeddings that neither rescale their rows nor count how often each is read."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  # its usual name

from pure_batchops.gradients.layer import LayerCall, LayerKind, Options, call_of

_NAMES = ("input", "weight", "padding_idx", "max_norm", "norm_type", "scale_grad_by_freq", "sparse")


def _read(args: tuple[Any, ...], kwargs: dict[str, Any]) -> LayerCall | None:
    call = call_of(F.embedding, _NAMES, args, kwargs)
    options = call.options
    if options.get("max_norm") is not None or options.get("scale_grad_by_freq") or options.get("sparse"):
        return None
    return call._replace(options={"padding_idx": options.get("padding_idx")})


def _outputs(x: Tensor, weight: Tensor, options: Options) -> Tensor:
    return _without_padding(x, F.embedding(x, weight), len(weight), options)


def _gradient(x: Tensor, delta: Tensor, like: Tensor, options: Options) -> Tensor:
    rows = _without_padding(x, delta, len(like), options).reshape(-1, delta.shape[-1])
    return rows.new_zeros(like.shape).index_add(0, x.reshape(-1), rows)


def _without_padding(x: Tensor, rows: Tensor, count: int, options: Options) -> Tensor:
    """The rows, with zeros for padding: torch takes no gradient of it."""
    padding = options["padding_idx"]
    return rows if padding is None else torch.where((x == padding % count)[..., None], 0, rows)


KIND = LayerKind(_read, _outputs, _gradient)
