"""Functions that work element by element, with broadcasting: samples stay where they are."""

from typing import Any

from torch import Tensor

from pure_batchops.sample_axis.axis import Given, SampleAxis, aligned, tensors_in

NAMES = (
    *("abs", "absolute", "acos", "acosh", "add", "addcdiv", "addcmul", "asin", "asinh", "atan", "atan2", "atanh"),
    *("bitwise_and", "bitwise_not", "bitwise_or", "bitwise_xor", "ceil", "celu", "clamp", "clamp_max", "clamp_min", "clip"),
    *("copysign", "cos", "cosh", "deg2rad", "digamma", "div", "divide", "elu", "eq", "erf", "erfc", "erfinv", "exp", "exp2"),
    *("expm1", "fix", "float_power", "floor", "floor_divide", "fmax", "fmin", "fmod", "frac", "ge", "gelu", "greater"),
    *("greater_equal", "gt", "hardshrink", "hardsigmoid", "hardswish", "hardtanh", "heaviside", "hypot", "i0", "isclose"),
    *(
        "isfinite",
        "isinf",
        "isnan",
        "ldexp",
        "le",
        "leaky_relu",
        "lerp",
        "less",
        "less_equal",
        "lgamma",
        "log",
        "log10",
        "log1p",
    ),
    *(
        "log2",
        "logaddexp",
        "logaddexp2",
        "logical_and",
        "logical_not",
        "logical_or",
        "logical_xor",
        "logit",
        "logsigmoid",
        "lt",
    ),
    *(
        "masked_fill",
        "maximum",
        "minimum",
        "mish",
        "mul",
        "multiply",
        "nan_to_num",
        "ne",
        "neg",
        "negative",
        "not_equal",
        "pow",
    ),
    *("polygamma", "positive", "rad2deg", "reciprocal", "relu", "relu6", "remainder", "round", "rsqrt", "rsub", "selu", "sgn"),
    *("sigmoid", "sign", "silu", "sin", "sinc", "sinh", "softplus", "softshrink", "softsign", "sqrt", "square", "sub"),
    *(
        "subtract",
        "tan",
        "tanh",
        "tanhshrink",
        "threshold",
        "true_divide",
        "trunc",
        "where",
        "xlogy",
        "zeros_like",
        "ones_like",
    ),
    *("full_like", "expit", "log_ndtr", "ndtr", "entr", "clone", "contiguous", "detach", "to", "type_as", "float", "double"),
    *("half", "bfloat16", "long", "int", "bool", "type", "requires_grad", "alias", "xlog1py", "gammaln", "psi"),
    *("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout"),  # refused if they draw
)
"""Also with an underscore behind them, and as methods."""

OPERATORS = (
    *("__add__", "__radd__", "__iadd__", "__sub__", "__rsub__", "__isub__", "__mul__", "__rmul__", "__imul__", "__truediv__"),
    *(
        "__rtruediv__",
        "__itruediv__",
        "__div__",
        "__rdiv__",
        "__idiv__",
        "__floordiv__",
        "__rfloordiv__",
        "__mod__",
        "__rmod__",
    ),
    *(
        "__pow__",
        "__rpow__",
        "__ipow__",
        "__neg__",
        "__pos__",
        "__abs__",
        "__invert__",
        "__and__",
        "__or__",
        "__xor__",
        "__eq__",
    ),
    *("__ne__", "__lt__", "__le__", "__gt__", "__ge__", "__rand__", "__ror__", "__rxor__"),
)


def elementwise(given: Given, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> SampleAxis | None:
    """Where the samples lie in the output."""
    return aligned(given, tensors_in((*args, *kwargs.values())), output) if isinstance(output, Tensor) else None


def losses_of_elements(given: Given, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> SampleAxis | None:
    """Where the samples lie in a loss that is not reduced."""
    return elementwise(given, args, kwargs, output) if kwargs.get("reduction") == "none" else None
