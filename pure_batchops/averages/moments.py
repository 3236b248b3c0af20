"""The mean and the spread of numbers that come in parts: a monoid that is stable however far the mean is from zero."""

from typing import NamedTuple

from torch import Tensor


class Moments(NamedTuple):
    """What is kept of the numbers tᵢ with weights wᵢ.

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


def standard_error(found: Moments) -> Tensor:
    """The standard error of a mean of numbers that have weight one, from their sample variance."""
    return (found.squares / (found.weight - 1) / found.weight).sqrt()


def merged(one: Moments, other: Moments) -> Moments:
    """The moments of both: no term is the difference of large ones.

    Returns:
        Moments, as if all numbers had come at once.

    References:
        Chan, Golub and LeVeque (1979), Updating Formulae and a Pairwise Algorithm for Computing Sample Variances.
    """
    weight = one.weight + other.weight
    share = other.weight / weight if weight else 0.0
    apart = other.mean - one.mean
    return Moments(weight, one.mean + apart * share, one.squares + other.squares + apart.square() * (one.weight * share))
