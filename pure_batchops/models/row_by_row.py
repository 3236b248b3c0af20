"""What is known of chains of torch's modules: whether they keep samples apart.

A kind of module belongs into the list only if it does.
"""

from typing import Any

from torch import nn

from pure_batchops.torch_privates import is_hooked

Kinds = tuple[type[nn.Module], ...]

_LAYERS: Kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_POOLS: Kinds = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)
_NORMS: Kinds = (nn.GroupNorm, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)  # batch norms in evaluation mode
_ACTIVATIONS: Kinds = (
    *(nn.Identity, nn.ReLU, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Softplus, nn.Hardtanh),
    *(nn.ReLU6, nn.Tanh, nn.Sigmoid, nn.LogSigmoid, nn.Softsign, nn.Tanhshrink, nn.Dropout),
)

# Each of these treats the rows of axis 0 independently (a convolution or a pool only if its input has a batch axis).
_ROW_BY_ROW: Kinds = (*_LAYERS, nn.Embedding, *_POOLS, *_NORMS, *_ACTIVATIONS)


def is_row_by_row(model: Any) -> bool:
    """Whether a model is a chain of torch's modules that treat the rows of axis 0, the samples, independently."""
    return all(_treats_rows_independently(module) and not is_hooked(module) for module in _chain(model))


def _chain(model: Any) -> list[Any]:
    """The modules of a chain, one after another. A model that is no chain is one module."""
    if type(model) is nn.Sequential and not is_hooked(model):
        return [part for module in model for part in _chain(module)]
    return [model]


def _treats_rows_independently(module: Any) -> bool:
    if type(module) is nn.Flatten:
        return module.start_dim > 0
    if type(module) is nn.LayerNorm:
        return len(module.normalized_shape) == 1  # a norm over several axes may include the axis of the samples
    return type(module) in _ROW_BY_ROW
