"""What is known of each tensor while a loss runs on a batch: where its samples lie, or that it is made of parameters alone."""

from collections.abc import Iterable
from typing import Any, NamedTuple
from weakref import ref

from torch import Tensor

from pure_batchops.sample_axis.axis import SampleAxis
from pure_batchops.torch_privates import transforms
from pure_batchops.tracing import is_recorded

MADE_OF_PARAMS = "made of params"
CONSTANT = "constant"
MIXED = "mixed"
Place = SampleAxis | str
"""Where samples lie; or MADE_OF_PARAMS: the tensor depends on parameters, and on no sample; or CONSTANT: on neither; or MIXED:
it carries a gradient, and nothing else is known."""


def depth() -> int:
    """How many transforms of torch.func are active."""
    return len(transforms() or [])


class Tracked(NamedTuple):
    """Places of tensors, and what speaks against the proof that samples stay apart.

    Attributes:
        places: by the id of a tensor, a weak reference to it and its place. A tensor that is missing carries no gradient.
        n: the number of samples, or None if the batch does not say.
        mixed: why gradients may mix samples, beyond the places: a tensor with a place was changed in place, say.
        read: why values may mix samples, on ways that carry no gradient.
        depth: how many transforms are active. Calls inside further ones, which the loss takes itself, are not followed.
    """

    places: dict[int, tuple[Any, Place]]
    n: int | None
    mixed: list[str]
    read: list[str]
    depth: int

    def place(self, tensor: Any) -> Place | None:
        """What is known of a tensor. Without a place, one that carries a gradient is mixed."""
        found = self.places.get(id(tensor))
        if found is not None and found[0]() is tensor:
            return found[1]
        return MIXED if isinstance(tensor, Tensor) and is_recorded(tensor) else None

    def samples(self, tensor: Any) -> SampleAxis | None:
        """Where the samples lie in a tensor."""
        place = self.place(tensor)
        return place if isinstance(place, SampleAxis) else None

    def may_hold_samples(self, tensor: Any) -> bool:
        """Whether a tensor has a place with samples, or with nothing known."""
        return self.place(tensor) not in (None, CONSTANT, MADE_OF_PARAMS)

    def put(self, tensors: Iterable[Tensor], place: Place | None) -> None:
        """Say what is known of tensors; None takes it back."""
        for tensor in tensors:
            if place is None:
                self.places.pop(id(tensor), None)
            else:
                self.places[id(tensor)] = ref(tensor), place
