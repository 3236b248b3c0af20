"""A weight that tells whether it was used."""

from typing import Any

import torch
from torch import Tensor


class IdentityWithFlag(torch.autograd.Function):
    """Identity on the weight. `flag` receives the gradient 1 whenever the weight is used, even if the weight's own is zero."""

    generate_vmap_rule = True

    @staticmethod
    def forward(weight: Tensor, flag: Tensor) -> Tensor:  # noqa: ARG004
        return weight.view_as(weight)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def jvp(ctx: Any, weight: Tensor, flag: Tensor) -> Tensor:  # noqa: ARG004
        return weight.view_as(weight)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ARG004
        return gradient, gradient.new_ones(())
