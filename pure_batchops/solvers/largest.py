"""The largest eigenvalue, by power iteration."""

from collections.abc import Iterable
from functools import reduce
from itertools import repeat

import torch
from torch import Tensor

from pure_batchops.noise import normal
from pure_batchops.rows import RowFunction
from pure_batchops.solvers.inverse import lengths

POWER_STEPS = 10


def largest(terms: Iterable[RowFunction], like: Tensor) -> Tensor:
    """The largest size of an eigenvalue of any of the maps, by power iteration from one random vector."""
    start = normal(0, (1, like.shape[1]), like)

    def powered(v: Tensor, product: RowFunction) -> Tensor:
        image = product(v)
        return torch.where(image == 0, image, image / lengths(image)[:, None])

    def of_one(product: RowFunction) -> Tensor:
        image = product(reduce(powered, repeat(product, POWER_STEPS), start))
        return lengths(image)[0]

    return reduce(torch.maximum, (of_one(product) for product in terms))
