"""Layers: convolutions, pools, norms, embeddings, attention and losses."""

from functools import partial
from typing import Any

from torch import Tensor

from pure_batchops.sample_axis.axis import Given, Rule, SampleAxis, aligned, argument, tensors_in


def convolution(given: Given, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> SampleAxis | None:  # noqa: ARG001
    """Where the samples lie in a convolution of a batch of images, whose weight and bias hold none."""
    x, weight, bias = (argument(args, kwargs, i, name) for i, name in enumerate(("input", "weight", "bias")))
    where = given(x)
    is_batch = where is not None and where.axis == 0 and x.dim() == weight.dim()
    return where if is_batch and given(weight) is None and given(bias) is None else None


def images(count: int) -> Rule:
    """The rule of functions of images along the last `count` axes, each image and channel for itself."""
    return partial(_images, count=count)


def _images(given: Given, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any, count: int) -> SampleAxis | None:  # noqa: ARG001
    x = argument(args, kwargs, 0, "input")
    where = given(x)
    return where if where is not None and where.axis < x.dim() - count else None


def rows_of_images(given: Given, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> SampleAxis | None:  # noqa: ARG001
    """Where the samples lie in a function that works on each entry of axis 0 by itself."""
    where = given(argument(args, kwargs, 0, "input"))
    return where if where is not None and where.axis == 0 else None


def layer_norm(given: Given, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> SampleAxis | None:  # noqa: ARG001
    """Where the samples lie after a norm over the last axes."""
    x, shape = argument(args, kwargs, 0, "input"), argument(args, kwargs, 1, "normalized_shape")
    where = given(x)
    others = tensors_in((*args[1:], *(value for name, value in kwargs.items() if name != "input")))
    if where is None or any(given(other) is not None for other in others) or isinstance(shape, Tensor):
        return None
    count = 1 if isinstance(shape, int) else x.dim() if shape is None else len(shape)
    return where if where.axis < x.dim() - count else None


def batch_norm(given: Given, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> SampleAxis | None:  # noqa: ARG001
    """Where the samples lie after `F.batch_norm` with running statistics."""
    x, training = argument(args, kwargs, 0, "input"), argument(args, kwargs, 5, "training")
    where = given(x)
    others = tensors_in((*args[1:], *(value for name, value in kwargs.items() if name != "input")))
    if where is None or training or any(given(other) is not None for other in others):
        return None
    return where if where.axis != 1 else None


def embedding(given: Given, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> SampleAxis | None:  # noqa: ARG001
    """Where the samples lie in the rows that are looked up."""
    index, weight = argument(args, kwargs, 0, "input"), argument(args, kwargs, 1, "weight")
    rescales = argument(args, kwargs, 3, "max_norm") is not None or argument(args, kwargs, 5, "scale_grad_by_freq")
    return None if rescales or given(weight) is not None else given(index)


def attention(given: Given, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> SampleAxis | None:
    """Where the samples lie after `scaled_dot_product_attention`, whose stacks are independent."""
    some = tensors_in((*args, *kwargs.values()))
    where = aligned(given, some, output) if isinstance(output, Tensor) else None
    return where if where is not None and where.axis < output.dim() - 2 else None


def cross_entropy(given: Given, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> SampleAxis | None:
    """Where the samples lie in a loss by class that is not reduced. The classes are axis 1, or 0 if there is no other."""
    x, target = argument(args, kwargs, 0, "input"), argument(args, kwargs, 1, "target")
    where, of_target = given(x), given(target)
    weight = argument(args, kwargs, 2, "weight")
    if where is None or kwargs.get("reduction") != "none" or x.dim() < 2 or where.axis == 1 or given(weight) is not None:
        return None
    axis = where.axis - (where.axis > 1)
    same_axes = isinstance(target, Tensor) and target.dim() == x.dim()  # probabilities
    if of_target is not None and of_target != (where if same_axes else where._replace(axis=axis)):
        return None
    return where._replace(axis=axis) if output.shape[axis] == where.length else None
