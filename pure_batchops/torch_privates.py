"""Every private name of torch that the package uses: since when it exists, why we need it, and what we do without it.

Whoever tries a new torch looks here first. `torch.utils._pytree` stands in `trees.py`, which is the only file that imports it.
"""

import sys
from collections.abc import Callable, Iterable
from types import FunctionType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn import functional as F  # noqa: N812  # its usual name
from torch.nn.utils import parametrizations

from pure_batchops import vmap_privates

# The public base classes of all batch norms, instance norms and dropouts do not exist. These are as old as torch 1.5.
# Without them the import fails: list the public classes here instead.
BatchNorm: type[nn.Module] = nn.modules.batchnorm._BatchNorm  # noqa: SLF001
InstanceNorm: type[nn.Module] = nn.modules.instancenorm._InstanceNorm  # noqa: SLF001
Dropout: type[nn.Module] = nn.modules.dropout._DropoutNd  # noqa: SLF001

# `parametrizations._SpectralNorm` exists since torch 1.9. In training mode it writes into its buffers. Without it the import
# fails: remove it here and in models/purity.py, whose check of buffers refuses it in eager code.
SpectralNorm: type[nn.Module] = parametrizations._SpectralNorm  # noqa: SLF001


def transforms() -> list[Any] | None:
    """The active transforms of torch.func, innermost last, without those that are hidden."""
    # `torch._C._functorch.get_interpreter_stack` exists since torch 2.2. Without it the answer is None, "unknown", and every
    # fast path that asks is off.
    stack: Any = getattr(torch._C._functorch, "get_interpreter_stack", None)  # noqa: SLF001
    active = None if stack is None else (stack() or [])
    return active[vmap_privates.hidden() :] if active else active


def may_be_vmapped() -> bool:
    """Whether vmap is active, or may be: where the active transforms are unknown."""
    levels = transforms()
    return levels is None or any(level.key().name == "Vmap" for level in levels)


def unwrapped(tensor: Tensor) -> Tensor:
    """The tensor inside the wrappers of torch.func: the wrapper of vmap does not tell that it requires gradients."""
    # `torch._C._functorch.get_unwrapped` exists since torch 2.0. Without it gradients by vectors under vmap would be lost:
    # `test_gradients_by_vectors` fails.
    functorch: Any = torch._C._functorch  # noqa: SLF001
    while functorch.is_functorch_wrapped_tensor(tensor):
        tensor = functorch.get_unwrapped(tensor)
    return tensor


def is_wrapped(tensor: Tensor) -> bool:
    """Whether a transform of torch.func holds a tensor."""
    # Since torch 2.0, as `unwrapped`. Without them `test_implicit` fails for what a loss closes over.
    return bool(torch._C._functorch.is_functorch_wrapped_tensor(tensor))  # noqa: SLF001


def unwrapped_once(tensor: Tensor) -> Tensor:
    """The tensor one level of torch.func further out."""
    inner: Tensor = torch._C._functorch.get_unwrapped(tensor)  # noqa: SLF001
    return inner


def in_forward_mode() -> bool:
    """Whether a level of forward-mode autograd is open."""
    # `forward_ad._current_level` exists since torch 1.8. Without it the answer is False: a caller who pushes duals through an
    # operation would lose their tangents on the fast paths, and `test_recording` fails.
    return bool(getattr(forward_ad, "_current_level", 0) >= 0)


def version(tensor: Tensor) -> int:
    """How often a tensor was changed in place."""
    # `Tensor._version` is as old as autograd, and has no public twin. Without it writes in place go unnoticed, and products
    # may be wrong: do not replace it by a constant.
    return tensor._version  # noqa: SLF001


def is_hooked(module: nn.Module) -> bool:
    """Whether a hook or a replaced `forward` of the user's runs in the forward pass of a module."""
    # `_forward_hooks` and `_forward_pre_hooks` have no public readers. Without them the import of a model fails loudly.
    return bool(module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module))  # noqa: SLF001


def is_transformed(function: Any) -> bool:
    """Whether a function is the result of a transform of torch.func, known by the private module that made it."""
    # Without it, `op.at` of a vmapped operation would be taken for its own; `test_solvers` fails.
    return str(getattr(function, "__globals__", {}).get("__name__", "")).startswith("torch._functorch")


def attention_with(scaled_dot_product_attention: Callable[..., Any]) -> Callable[..., Any]:
    """`F.multi_head_attention_forward` that calls this function, and does not hand itself to a mode again."""
    # torch's function is as old as torch 1.1, but has no option for its kernel. This copy reads two other globals. The
    # compiler looks globals up by the name of their module, so that there must be one. Without the names, attention fails.
    source, name = F.multi_head_attention_forward, "pure_batchops.torch_attention"
    module = sys.modules[name] = ModuleType(name)
    given = {"__name__": name, "has_torch_function": _never, "scaled_dot_product_attention": scaled_dot_product_attention}
    vars(module).update({**source.__globals__, **given})
    attention = FunctionType(source.__code__, vars(module), source.__name__, source.__defaults__)
    attention.__module__ = name
    return attention


def _never(_: Any) -> bool:
    return False


# What weight norms of both forms call; as old as torch 1.0. Without it the import fails: remove it from kernels/table.py.
weight_norm: Callable[..., Tensor] = torch._weight_norm  # noqa: SLF001

# What the functions of torch.nn.utils.rnn call; as old as torch 1.0. Without them the import fails: remove kernels/packed.py.
pack_padded_sequence: Callable[..., tuple[Tensor, Tensor]] = torch._pack_padded_sequence  # noqa: SLF001
pad_packed_sequence: Callable[..., tuple[Tensor, Tensor]] = torch._pad_packed_sequence  # noqa: SLF001


def show_to_compiled_modes(functions: Iterable[Any]) -> None:
    """Let torch.compile hand calls of these functions to a TorchFunctionMode, as torch does without it."""
    # The compiler hands over only what `torch.overrides.get_overridable_functions` lists. It leaves out hardsigmoid and
    # private names, so a compiled weight norm would be silently wrong. The compiler makes its own copy when it first asks.
    # Without either, `test_kernels` fails.
    if torch.__version__ < "2.6":  # it cannot compile an operation
        return
    listed = torch.overrides.get_overridable_functions()
    listed.setdefault(torch, []).extend(functions)
    compiler: Any = sys.modules.get("torch._dynamo.variables.torch")
    if hasattr(compiler, "get_overridable_functions"):
        compiler.get_overridable_functions().update(functions)


def edge_of(tensor: Tensor) -> Any:
    """What `torch.autograd.grad` takes the gradient at a tensor by: an edge of the graph, which later writes leave alone.

    Public since torch 2.2.

    Returns:
        The edge; before torch 2.2, the tensor itself, which then must not be changed in place.
    """
    edge = getattr(torch.autograd.graph, "get_gradient_edge", None)
    return tensor if edge is None else edge(tensor)


unseen: Callable[[], Any] = torch._C.DisableTorchFunction  # noqa: SLF001
"""A context in which no TorchFunctionMode sees our own calls. It has stood in torch since 1.5. Not under the compiler."""
