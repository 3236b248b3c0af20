"""Which of torch's criteria a criterion is."""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  # its usual name

# These raise size errors under two nested vmaps, the outer over both arguments and the inner over one (torch 2.1 to 2.13).
FUSED = (F.mse_loss, F.huber_loss, F.smooth_l1_loss)
BY_ELEMENT = (*FUSED, F.l1_loss, F.binary_cross_entropy, F.binary_cross_entropy_with_logits)
BY_CLASS = (F.cross_entropy, F.nll_loss)
IGNORED = -100  # the label that torch ignores by default
_FUNCTIONS: dict[type[nn.Module], Callable[..., Tensor]] = {
    nn.MSELoss: F.mse_loss,
    nn.HuberLoss: F.huber_loss,
    nn.SmoothL1Loss: F.smooth_l1_loss,
    nn.L1Loss: F.l1_loss,
    nn.BCELoss: F.binary_cross_entropy,
    nn.BCEWithLogitsLoss: F.binary_cross_entropy_with_logits,
    nn.CrossEntropyLoss: F.cross_entropy,
    nn.NLLLoss: F.nll_loss,
}


class Recognized(NamedTuple):
    """What is known of a criterion.

    Attributes:
        function: the function of torch that it calls, or the criterion itself.
        reduction: `"mean"`, `"sum"` or `"none"`.
        elementwise: the criterion without its reduction, or None if the function or its options are unknown.
    """

    function: Any
    reduction: str
    elementwise: Callable[[Tensor, Tensor], Tensor] | None


def recognized(criterion: Any) -> Recognized:
    """What is known of a criterion."""
    options = options_of(criterion)
    function = criterion.func if isinstance(criterion, partial) else _FUNCTIONS.get(type(criterion), criterion)
    reduction = options.get("reduction", "mean")
    unknown = function not in BY_ELEMENT + BY_CLASS or reduction not in {"mean", "sum"}
    if unknown or getattr(criterion, "args", None) or {"size_average", "reduce"} & set(options):
        return Recognized(function, reduction, None)
    if not isinstance(criterion, nn.Module):
        return Recognized(function, reduction, partial(criterion, reduction="none"))
    unreduced: Any = copy.copy(criterion)
    unreduced.reduction = "none"
    return Recognized(function, reduction, unreduced)


def options_of(criterion: Any) -> dict[str, Any]:
    """The options of a criterion: the attributes of a module, or the keywords of a partial."""
    if isinstance(criterion, nn.Module):
        return vars(criterion)
    return criterion.keywords if isinstance(criterion, partial) else {}
