"""One call of a function of torch inside a loss."""

from typing import Any, NamedTuple

from torch import Tensor


class Call(NamedTuple):
    """One call of a function of torch.

    Attributes:
        function, args, kwargs: the call.
        given: the tensors among its arguments.
        output: what it returned, and `results`, the tensors in that.
        carries: whether a result carries a gradient.
        writes: whether the call wrote into an argument.
    """

    function: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    given: list[Tensor]
    output: Any
    results: list[Tensor]
    carries: bool
    writes: bool

    @property
    def name(self) -> str:
        """Of the function."""
        return str(getattr(self.function, "__name__", self.function))
