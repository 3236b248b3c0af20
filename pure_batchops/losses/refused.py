"""Criteria that say something else of a batch than of its samples: they are refused."""

from torch import nn
from torch.nn import functional as F  # noqa: N812  # its usual name

from pure_batchops.losses.recognized import IGNORED, options_of, recognized
from pure_batchops.types import Criterion


def refuse_batch_weights(criterion: Criterion) -> None:
    """Refuse a criterion whose mean over a batch is not the mean of its values for single samples.

    Raises:
        ValueError: if it has weights, ignores a label other than -100 in a mean, or has parameters.
    """
    options, tensors = options_of(criterion), criterion if isinstance(criterion, nn.Module) else nn.Module()
    weight = options.get("weight", dict(tensors.named_buffers()).get("weight"))
    reduction = options.get("reduction", "mean")
    is_binary = recognized(criterion).function in (F.binary_cross_entropy, F.binary_cross_entropy_with_logits)
    if weight is not None and (reduction == "mean" or (is_binary and reduction != "none")):
        way = "" if is_binary else "use reduction='sum', which gives each sample its weighted loss, or "
        msg = (
            f"criterion must not have weights with reduction={reduction!r}: alone in its batch a sample loses its weight; "
            f"{way}weigh in a criterion of your own, (output, target) -> one number"
        )
        raise ValueError(msg)
    ignored = options.get("ignore_index", IGNORED)
    if ignored != IGNORED and reduction == "mean":
        msg = (
            f"criterion must not have ignore_index={ignored} with reduction='mean': alone in its batch an ignored sample "
            "is 0/0; use reduction='sum', or mask in a criterion of your own, (output, target) -> one number"
        )
        raise ValueError(msg)
    learned = [name for name, tensor in tensors.named_parameters() if tensor.requires_grad]
    if learned:
        msg = f"criterion must not have parameters of its own, got {', '.join(learned)}; put them into the model"
        raise ValueError(msg)
