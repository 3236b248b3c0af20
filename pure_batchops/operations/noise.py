"""Uniform noise as a pure function of a seed and a place.

torch's generators have state: under vmap they are refused, and torch.compile cannot trace them.
"""

import math

import torch
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15
_MIXERS = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))


def uniform(seed: int, shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Independent uniform numbers in (0, 1), on the device of `like`: SplitMix64 in counter mode.

    Returns:
        A float64 tensor of that shape.

    References:
        Steele, Lea and Flood (2014), Fast Splittable Pseudorandom Number Generators.
    """
    places = torch.arange(1, math.prod(shape) + 1, dtype=torch.int64, device=like.device)
    bits = _mixed(_mixed(torch.full_like(places, _signed(seed))) + places * _signed(_GOLDEN))
    return ((_shifted(bits, 12) + 0.5) / 2**52).reshape(shape).double()


def _mixed(bits: Tensor) -> Tensor:
    for shift, factor in _MIXERS:
        bits = (bits ^ _shifted(bits, shift)) * _signed(factor)
    return bits ^ _shifted(bits, 31)


def _shifted(bits: Tensor, by: int) -> Tensor:
    """The logical shift to the right: torch's own keeps the sign."""
    return (bits >> by) & (2 ** (64 - by) - 1)


def _signed(number: int) -> int:
    """The number modulo 2⁶⁴, as torch's int64 holds it."""
    return (number + 2**63) % 2**64 - 2**63
