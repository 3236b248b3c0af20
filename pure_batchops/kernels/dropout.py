"""Dropout, which is refused in training mode: it draws random numbers, so that two passes see two functions."""

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.nn import functional as F  # noqa: N812  # its usual name


def _pure(function: Callable[..., Tensor], trains: bool) -> Callable[..., Tensor]:
    """The dropout `function`, which is in training mode by default or not; it raises a ValueError if it is."""

    def dropout(input: Tensor, p: float = 0.5, training: bool = trains, inplace: bool = False) -> Tensor:
        if training and p > 0:
            msg = (
                f"loss must be a pure function, got a dropout with p={p} in training mode, which draws random numbers; call "
                "model.eval(), or pass training=self.training to the function"
            )
            raise ValueError(msg)
        return function(input, p, training, inplace)

    return dropout


DROPOUTS: dict[Any, Callable[..., Tensor]] = {
    **{function: _pure(function, trains=True) for function in (F.dropout, F.dropout1d, F.dropout2d, F.dropout3d)},
    **{function: _pure(function, trains=False) for function in (F.alpha_dropout, F.feature_alpha_dropout)},
}
"""For each function of dropout, the same that is refused in training mode."""
