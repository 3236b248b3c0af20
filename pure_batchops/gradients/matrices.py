"""Matrix products with a parameter on the right, y = x W, also with a shift, and with a vector, y = x·w."""

from typing import Any

import torch
from torch import Tensor

from pure_batchops.gradients import linear
from pure_batchops.gradients.layer import LayerCall, LayerKind, Options

PRODUCTS = frozenset({torch.matmul, torch.mm, torch.mv, Tensor.matmul, Tensor.__matmul__, Tensor.mm, Tensor.mv})
SHIFTED = frozenset({torch.addmm, Tensor.addmm})


def _never(args: tuple[Any, ...], kwargs: dict[str, Any]) -> LayerCall | None:  # noqa: ARG001
    return None  # which argument is the parameter, only the caller knows


def _outputs(x: Tensor, weight: Tensor, options: Options) -> Tensor:  # noqa: ARG001
    return x @ weight


def _gradient(x: Tensor, delta: Tensor, like: Tensor, options: Options) -> Tensor:  # noqa: ARG001
    return x.reshape(-1, x.shape[-1]).mT @ delta.reshape(-1, delta.shape[-1])


def _gradients(x: Tensor, delta: Tensor, like: Tensor, options: Options) -> Tensor:
    of_transpose = linear.KIND.gradients
    assert of_transpose is not None
    return of_transpose(delta, x, like, options)  # Σₜ xₜ δₜᵀ


def _of_vector(x: Tensor, weight: Tensor, options: Options) -> Tensor:  # noqa: ARG001
    return x @ weight


def _gradient_of_vector(x: Tensor, delta: Tensor, like: Tensor, options: Options) -> Tensor:  # noqa: ARG001
    return (x * delta[..., None]).reshape(-1, len(like)).sum(0)


def _gradients_of_vector(x: Tensor, delta: Tensor, like: Tensor, options: Options) -> Tensor:  # noqa: ARG001
    return (x * delta[..., None]).reshape(len(x), -1, len(like)).sum(1)


KIND = LayerKind(_never, _outputs, _gradient, _gradients, linear.KIND.squared_norms, bias_axis=-1)
OF_VECTOR = LayerKind(_never, _of_vector, _gradient_of_vector, _gradients_of_vector)
