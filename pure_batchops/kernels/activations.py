"""Activations in plain operations."""

from torch import Tensor
from torch.nn import functional as F  # noqa: N812  # its usual name


def hardsigmoid(input: Tensor, inplace: bool = False) -> Tensor:
    """`torch.nn.functional.hardsigmoid`. torch's own has no second derivative."""
    output = F.hardtanh(input + 3, 0.0, 6.0) / 6
    return input.copy_(output) if inplace else output
