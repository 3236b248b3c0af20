"""Embeddings whose derivatives are those of a function: the row of padding is a constant, in forward mode too."""

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  # its usual name


def embedding(
    input: Tensor,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,  # noqa: ARG001  # torch's signature
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Tensor:
    """`torch.nn.functional.embedding`. torch's own forgets in forward mode that it takes no gradient of padding.

    Returns:
        The rows of weight that input names.

    Raises:
        ValueError: if max_norm or scale_grad_by_freq is set.
    """
    refuse_changed_weights(max_norm, scale_grad_by_freq=scale_grad_by_freq)
    output = F.embedding(input, weight, padding_idx, sparse=sparse)
    if padding_idx is None:
        return output
    return torch.where((input == padding_idx % len(weight))[..., None], output.detach(), output)


def refuse_changed_weights(max_norm: float | None, *, scale_grad_by_freq: bool) -> None:
    """Refuse the options by which an embedding writes into its weight, or returns what is no gradient of it.

    Raises:
        ValueError: if one of them is set.
    """
    if max_norm is not None:
        msg = (
            f"loss must not write into params, got an embedding with max_norm={max_norm}, which rescales its weight in place; "
            "set max_norm to None"
        )
        raise ValueError(msg)
    if scale_grad_by_freq:
        msg = (
            "loss must have true gradients, got an embedding with scale_grad_by_freq=True, which divides the gradient of a "
            "row by the number of its uses in the batch; set scale_grad_by_freq to False"
        )
        raise ValueError(msg)
