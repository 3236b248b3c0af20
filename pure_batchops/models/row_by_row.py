"""Models that are known to take each sample by itself."""

from typing import Any

from torch import nn

from pure_batchops.torch_privates import is_hooked

# Of each: rows of the first axis do not meet; of a convolution, where it is of a batch of images.
_ROW_BY_ROW: tuple[type[nn.Module], ...] = (
    *(nn.Linear, nn.Identity, nn.Embedding, nn.GroupNorm),
    *(nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d),
    *(nn.ReLU, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Softplus, nn.Hardtanh, nn.ReLU6),
    *(nn.Tanh, nn.Sigmoid, nn.LogSigmoid, nn.Softsign, nn.Tanhshrink, nn.Dropout),
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d),  # in eval mode, as any other is refused
)


def is_row_by_row(model: Any) -> bool:
    """Whether a model is a chain of torch's modules that keep the rows of the first axis apart."""
    if type(model) is nn.Sequential and not is_hooked(model):
        return all(map(is_row_by_row, model))
    if type(model) is nn.Flatten:
        return model.start_dim > 0 and not is_hooked(model)
    if type(model) is nn.LayerNorm:
        return len(model.normalized_shape) == 1 and not is_hooked(model)  # several axes may be all, the samples' among them
    return type(model) in _ROW_BY_ROW and not is_hooked(model)


def is_right_in_forward_mode(model: Any) -> bool:
    """Whether a model is such a chain without an embedding, which in forward mode forgets its padding."""
    return is_row_by_row(model) and not any(isinstance(part, nn.Embedding) for part in model.modules())
