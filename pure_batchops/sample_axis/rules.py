"""The table of rules, by function. Torch shows a function as a method, as a function and as an operator: each has a row."""

from collections.abc import Iterator
from typing import Any

import torch
from torch.nn import functional as F  # noqa: N812  # its usual name

from pure_batchops.sample_axis import elementwise, layers, pieces, products, reductions, shapes
from pure_batchops.sample_axis.axis import Rule

_SPACES: tuple[Any, ...] = (torch, torch.Tensor, F, torch.special, torch.linalg)

_BY_NAME: dict[str, Rule] = {
    **dict.fromkeys(elementwise.NAMES, elementwise.elementwise),
    **dict.fromkeys(elementwise.OPERATORS, elementwise.elementwise),
    **dict.fromkeys(shapes.REGROUPED, shapes.grouped),
    **shapes.RULES,
    **pieces.RULES,
    **dict.fromkeys(reductions.REDUCED, reductions.reduced),
    **dict.fromkeys(reductions.ALONG, reductions.along()),
    **dict.fromkeys(("matmul", "mm", "bmm", "mv", "dot", "__matmul__"), products.matrix_product),
    **dict.fromkeys(("addmm", "addmv", "baddbmm"), products.added_product),
    "einsum": products.summed_products,
}

_OWN: dict[Any, Rule] = {
    F.softmax: reductions.along(),
    F.log_softmax: reductions.along(),
    F.glu: reductions.along(default=-1),
    torch.sort: reductions.along(default=-1),
    torch.Tensor.sort: reductions.along(default=-1),
    **dict.fromkeys((torch.norm, torch.Tensor.norm, torch.linalg.norm, torch.linalg.vector_norm), reductions.normed),
    F.normalize: reductions.along(2, 1),
    F.linear: products.linear,
    **dict.fromkeys((F.conv1d, F.conv2d, F.conv3d), layers.convolution),
    **dict.fromkeys((F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d), layers.convolution),
    **dict.fromkeys((F.max_pool1d, F.avg_pool1d, F.adaptive_avg_pool1d, F.adaptive_max_pool1d, F.lp_pool1d), layers.images(1)),
    **dict.fromkeys((F.max_pool2d, F.avg_pool2d, F.adaptive_avg_pool2d, F.adaptive_max_pool2d, F.lp_pool2d), layers.images(2)),
    **dict.fromkeys((F.max_pool3d, F.avg_pool3d, F.adaptive_avg_pool3d, F.adaptive_max_pool3d), layers.images(3)),
    **dict.fromkeys((F.pixel_shuffle, F.pixel_unshuffle), layers.images(3)),
    **dict.fromkeys((F.interpolate, F.unfold, F.fold, F.group_norm, F.instance_norm), layers.rows_of_images),
    **dict.fromkeys((F.layer_norm, torch.layer_norm), layers.layer_norm),
    getattr(F, "rms_norm", F.layer_norm): layers.layer_norm,  # since torch 2.4
    F.batch_norm: layers.batch_norm,
    F.embedding: layers.embedding,
    F.scaled_dot_product_attention: layers.attention,
    **dict.fromkeys((F.cross_entropy, F.nll_loss), layers.cross_entropy),
    **dict.fromkeys((F.mse_loss, F.huber_loss, F.smooth_l1_loss, F.l1_loss), elementwise.losses_of_elements),
    **dict.fromkeys((F.binary_cross_entropy, F.binary_cross_entropy_with_logits), elementwise.losses_of_elements),
    F.poisson_nll_loss: elementwise.losses_of_elements,
    F.kl_div: elementwise.losses_of_elements,
    **{descriptor.__get__: rule for descriptor, rule in shapes.GETTERS.items()},  # type: ignore[attr-defined]
}


def _rows() -> Iterator[tuple[Any, Rule]]:
    for name, rule in _BY_NAME.items():
        for space in _SPACES:
            for form in (name,) if name.startswith("__") else (name, f"{name}_"):
                if callable(getattr(space, form, None)):
                    yield getattr(space, form), rule


RULES: dict[Any, Rule] = {**dict(_rows()), **_OWN}
"""By the function of torch, as a TorchFunctionMode sees it."""
