"""Activations in plain operations."""

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  # its usual name


def hardsigmoid(input: Tensor, inplace: bool = False) -> Tensor:
    """`torch.nn.functional.hardsigmoid`. torch's own has no second derivative."""
    output = F.hardtanh(input + 3, 0.0, 6.0) / 6
    return input.copy_(output) if inplace else output


def prelu(input: Tensor, weight: Tensor) -> Tensor:
    """`torch.prelu`. torch's own is silently wrong under two nested vmaps, where only one of the arguments is batched."""
    channels = input.shape[1] if input.dim() > 1 else 1
    if weight.numel() not in {1, channels} or weight.dim() > 1 or input.dtype != weight.dtype:
        return torch.prelu(input, weight)
    slope = weight.reshape(()) if weight.numel() == 1 else weight.reshape(-1, *[1] * (input.dim() - 2))
    return torch.where(input > 0, input, slope * input)


def glu(input: Tensor, dim: int = -1) -> Tensor:
    """`torch.nn.functional.glu`. torch's own has no derivative of its forward mode."""
    if input.dim() == 0 or input.shape[dim] % 2:
        return F.glu(input, dim)
    values, gates = input.chunk(2, dim)
    return values * torch.sigmoid(gates)


def rrelu(
    input: Tensor, lower: float = 1.0 / 8, upper: float = 1.0 / 3, training: bool = False, inplace: bool = False
) -> Tensor:
    """`torch.nn.functional.rrelu`. torch's own has no rule for vmap."""
    if training:
        return F.rrelu(input, lower, upper, training, inplace)
    return F.leaky_relu(input, (lower + upper) / 2, inplace)
