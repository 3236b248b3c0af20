"""What we compute for each sample by itself says so, to whoever follows the calls of a loss."""

from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function

from pure_batchops import tracing


def kept_apart(values: Tensor, *outputs: Tensor) -> Tensor:
    """The values, `(n,)`: value i depends on sample i of the outputs alone, which lies along one axis of theirs."""
    if not tracing.compiling() and has_torch_function((values,)):
        result: Tensor = handle_torch_function(kept_apart, (values,), values, *outputs)
        return result
    return values
