"""Dropout, which is refused: it draws random numbers, so that two passes see two functions."""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

from torch.nn import functional as F  # noqa: N812  # its usual name


def _refused_in_training(function: Callable[..., Any], signature: inspect.Signature, *args: Any, **kwargs: Any) -> Any:
    call = signature.bind(*args, **kwargs)
    call.apply_defaults()
    if call.arguments["training"] and call.arguments["p"] > 0:
        msg = (
            f"loss must be a pure function, got a dropout with p={call.arguments['p']} in training mode, which draws random "
            "numbers; call model.eval(), or pass training=self.training to the function"
        )
        raise ValueError(msg)
    return function(*args, **kwargs)


_DROPOUTS = (F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, F.feature_alpha_dropout)
DROPOUTS: dict[Any, Callable[..., Any]] = {
    function: partial(_refused_in_training, function, inspect.signature(function)) for function in _DROPOUTS
}
"""For each function of dropout, the same that raises a ValueError in training mode."""
