"""The Hessian of a criterion by the outputs, in closed form for the criteria of torch whose options are understood.

With w_i the weight of sample i or of its element in the whole, u ↦ C u is

    squares          2 w u
    logistic         w (q t + 1 − t) σ (1 − σ) u,   q the weight of positive targets
    cross entropy    w m (p ⊙ u − p (p · u)),       m the sum of the targets' probabilities, each times its class weight

Label smoothing moves probability between classes. A label that is ignored has m = 0.
"""

from collections.abc import Callable
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  # its usual name

from pure_batchops import tracing
from pure_batchops.batches import length
from pure_batchops.losses.criterion import elements_belong_to_samples, ignored
from pure_batchops.losses.recognized import IGNORED, options_of, recognized
from pure_batchops.torch_privates import is_hooked
from pure_batchops.types import Criterion, LinearMap, Tree

# The options of each criterion that are understood, with their defaults.
_OPTIONS: dict[Any, dict[str, Any]] = {
    F.mse_loss: {},
    F.binary_cross_entropy_with_logits: {"pos_weight": None},
    F.cross_entropy: {"weight": None, "ignore_index": IGNORED, "label_smoothing": 0.0},
}
_ALL = {"weight", *(name for options in _OPTIONS.values() for name in options)}


def closed_curvature(criterion: Criterion, batch_dim: int) -> Callable[[Tree, Tree], LinearMap | None]:
    """The Hessian of the mean of a criterion over the samples, by the outputs.

    Returns:
        `(outputs, targets) -> (u ↦ C u)`. The map is None where the closed form is not known: of another criterion, of other
        options, or of shapes or dtypes that the criterion has to bring together. It refuses what the criterion refuses.
    """
    function, reduction, elementwise = recognized(criterion)
    is_known = batch_dim == 0 and elementwise is not None and function in _OPTIONS

    def curvature(outputs: Tree, targets: Tree) -> LinearMap | None:
        options = _options(elementwise, function) if is_known else None
        if options is None or not elements_belong_to_samples(function, outputs, targets):
            return None
        n = length("the model's outputs and the targets", (outputs, targets))
        of_one = outputs.shape[2 if function is F.cross_entropy else 1 :]
        scale = 1 / (n * prod(of_one)) if reduction == "mean" else 1 / n
        if not _fit(outputs, targets, options):
            return None
        if function is not F.cross_entropy:
            return _diagonal(outputs, targets, scale, **options)
        counts = _counts(outputs, targets, **options)
        if reduction == "mean" and not targets.is_floating_point():
            counted = targets != IGNORED
            counts = tracing.raise_or_nan(counted.all(), counts, lambda _: ignored(counted))
        return _cross_entropy(outputs, counts * scale)

    return curvature


def _options(elementwise: Any, function: Any) -> dict[str, Any] | None:
    """The options of a criterion that change its curvature; None if one of them is not understood."""
    given: dict[str, Any] = options_of(elementwise)
    if isinstance(elementwise, nn.Module):
        if is_hooked(elementwise):
            return None
        given = {name: getattr(elementwise, name, None) for name in _ALL}
    given = {name: value for name, value in given.items() if value is not None and name != "reduction"}
    return {**_OPTIONS[function], **given} if given.keys() <= _OPTIONS[function].keys() else None


def _fit(outputs: Tensor, targets: Tensor, options: dict[str, Any]) -> bool:
    """Whether outputs, targets and weights are as the closed form takes them; torch has its words, and rules, for others."""
    if not outputs.is_floating_point() or outputs.numel() == 0:
        return False
    if targets.is_floating_point() and (targets.dtype != outputs.dtype or options.get("ignore_index", -1) >= 0):
        return False
    weight, smoothing = options.get("weight"), options.get("label_smoothing", 0.0)
    if weight is not None and not (_is_weight(weight, outputs) and weight.shape == outputs.shape[1:2]):
        return False
    positive = options.get("pos_weight")
    if positive is not None and not (_is_weight(positive, outputs) and _broadcasts(positive, outputs)):
        return False
    return isinstance(smoothing, (int, float)) and 0 <= smoothing <= 1


def _is_weight(weight: Any, outputs: Tensor) -> bool:
    # The caller may differentiate by a weight; a parameter is refused. Either is left to the criterion.
    return isinstance(weight, Tensor) and weight.dtype == outputs.dtype and not weight.requires_grad


def _broadcasts(weight: Tensor, outputs: Tensor) -> bool:
    ends = zip(reversed(weight.shape), reversed(outputs.shape), strict=False)
    return weight.dim() <= outputs.dim() and all(a in (1, b) for a, b in ends)


def _diagonal(outputs: Tensor, targets: Tensor, scale: float, pos_weight: Any = ...) -> LinearMap:
    """The map of squares, or of the logistic loss if there is a weight of positive targets, or None for it."""
    if pos_weight is ...:
        return lambda u: u * (2 * scale)
    positive = targets if pos_weight is None else targets * pos_weight
    diagonal = outputs.sigmoid() * (-outputs).sigmoid() * (positive + 1 - targets) * scale
    return lambda u: (u * diagonal).to(u.dtype)


def _counts(outputs: Tensor, targets: Tensor, weight: Any, ignore_index: int, label_smoothing: float) -> Tensor:
    """How much each position counts: the sum of the probabilities of its classes, each times the weight of the class."""
    wide = _wide(outputs)
    weight = None if weight is None else weight.to(wide)
    even = 1.0 if weight is None else weight.mean()
    if targets.is_floating_point():
        lift = (-1, *[1] * (targets.dim() - 2))
        of_classes = targets.to(wide) if weight is None else targets.to(wide) * weight.reshape(lift)
        return (1 - label_smoothing) * of_classes.sum(1) + label_smoothing * even
    flat = targets.reshape(-1)
    losses = torch.full((), -1.0, dtype=wide, device=outputs.device).expand(len(flat), outputs.shape[1])
    of_labels = F.nll_loss(losses, flat, weight, ignore_index=ignore_index, reduction="none")  # it refuses strange labels
    if label_smoothing == 0 or weight is None:
        return of_labels.reshape(targets.shape)
    smoothed = (1 - label_smoothing) * of_labels + label_smoothing * even * (flat != ignore_index)
    return smoothed.reshape(targets.shape)


def _cross_entropy(outputs: Tensor, counts: Tensor) -> LinearMap:
    """U ↦ counts (p ⊙ u − p (p · u)), in the memory layout of the outputs: those of a language model have the classes last."""
    dim = -1 if outputs.movedim(1, -1).is_contiguous() else 1
    p, counts = outputs.movedim(1, dim).to(_wide(outputs)).softmax(dim), counts.unsqueeze(dim)

    def curve(u: Tensor) -> Tensor:
        product = u.movedim(1, dim) * p
        mean = product.sum(dim, keepdim=True)
        if tracing.is_untraced([p, counts, u]):  # with many classes each copy is large: we write into our own
            product.addcmul_(p, mean, value=-1).mul_(counts)
        else:
            product = (product - p * mean) * counts
        return product.movedim(dim, 1).to(u.dtype)

    return curve


def _wide(outputs: Tensor) -> torch.dtype:
    return torch.promote_types(outputs.dtype, torch.float32)
