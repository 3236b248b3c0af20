"""What a row of the zoo is."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from torch import nn

EVERY_LAW = "every law"
NAN = "the product is NaN, as no number can be read there"


class Built(NamedTuple):
    """A model as its author wrote it, how it is judged, and a batch.

    Either a criterion judges its output, or a loss of one's own judges the model. A loss of one's own has a twin, `values`,
    which calls the model.
    """

    model: nn.Module
    batch: Any
    criterion: Any = None  # (output, target) → number
    batch_dim: int = 0
    parts: list[Any] | None = None  # the batch as batches of unequal lengths, if it cannot be cut
    forward: Any = None  # a pure forward that is handed over in place of the model
    loss: Any = None  # (params, buffers, batch) → (n,)
    values: Any = None  # (model, batch) → (n,)
    plain: nn.Module | None = None  # the model in plain operations, where torch's own derivatives are wrong or missing
    restrict_to: Any = None
    pick: Callable[[Any], Any] = lambda output: output  # the tensor of the output that the criterion reads
    wrap: Callable[[Any], Any] = lambda tensor: tensor  # an output that holds this tensor


class Row(NamedTuple):
    """How to build a model, and what is special about it. Nothing is built before a test calls build."""

    build: Callable[[], Built]
    refused: Mapping[str, str] = {}  # a law, or EVERY_LAW → the message of the refusal, or NAN
    without: tuple[str, ...] = ()  # laws that have no meaning here
    mixes: bool = False  # the loss of a sample depends on the other samples
    tolerance: Mapping[str, float] = {}
