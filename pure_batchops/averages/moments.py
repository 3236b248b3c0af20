"""The mean and the spread of numbers that come in parts. They are accurate however far the mean is from zero."""

from typing import NamedTuple

from torch import Tensor


class Moments(NamedTuple):
    """What is kept of numbers tᵢ with weights wᵢ.

    Attributes:
        weight: W = Σ wᵢ.
        mean: μ = Σ wᵢ tᵢ / W.
        squares: Σ wᵢ (tᵢ − μ)².
    """

    weight: float
    mean: Tensor
    squares: Tensor


def moments(numbers: Tensor) -> Moments:
    """The moments of the rows of a tensor, each of weight one."""
    mean = numbers.mean(0)
    return Moments(len(numbers), mean, (numbers - mean).square().sum(0))


def standard_error(numbers: Moments) -> Tensor:
    """The standard error of the mean of numbers of weight one, from their sample variance."""
    return (numbers.squares / (numbers.weight - 1) / numbers.weight).sqrt()


def merged(one: Moments, other: Moments) -> Moments:
    """The moments of the numbers of both. No term is the difference of large numbers.

    Returns:
        The moments of all the numbers together.

    References:
        Chan, Golub and LeVeque (1979), Updating Formulae and a Pairwise Algorithm for Computing Sample Variances.
    """
    weight = one.weight + other.weight
    share = other.weight / weight if weight else 0.0
    apart = other.mean - one.mean
    return Moments(weight, one.mean + apart * share, one.squares + other.squares + apart.square() * (one.weight * share))
