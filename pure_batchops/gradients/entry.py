"""One use of a weight, of a bias, or of both, in one call on a batch."""

from typing import NamedTuple

from torch import Tensor

from pure_batchops.gradients.layer import LayerKind, Options


class Entry(NamedTuple):
    """One use of a weight, of a bias, or of both.

    Attributes:
        kind, options: what the call computes from x and the weight.
        x: the input; None where the gradient does not depend on it.
        weight, bias: the tensors; None where there is none, or none that is a parameter.
    """

    kind: LayerKind
    options: Options
    x: Tensor | None
    weight: Tensor | None
    bias: Tensor | None
