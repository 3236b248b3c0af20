"""Where parameters enter the computation of a batch: one entry for each parameter (or tensor made of parameters) in a call."""

from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor

from pure_batchops.gradients import elements, matrices
from pure_batchops.gradients.entry import Entry
from pure_batchops.gradients.kinds import layer_call
from pure_batchops.gradients.norm_layers import NORMS, of_norm
from pure_batchops.sample_axis.axis import SampleAxis, tensors_in
from pure_batchops.sample_axis.elementwise import OPERATORS, elementwise
from pure_batchops.sample_axis.rules import RULES


def entries(
    function: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    output: Any,
    where: SampleAxis,
    is_source: Callable[[Any], bool],
) -> list[Entry] | None:
    """The entries of a call. `where` are the samples in its output; `is_source` tells which tensors are made of parameters.

    Returns:
        One entry or more; None for a call in which they enter in no known way.
    """
    sources = [part for part in tensors_in((*args, *kwargs.values())) if is_source(part)]
    if not isinstance(output, Tensor):
        return None
    found = layer_call(function, args, kwargs)
    if found is not None:
        kind, call = found
        weight, bias = (part if is_source(part) else None for part in (call.weight, call.bias))
        seen = [Entry(kind, call.options, call.x, weight, bias)]
    elif function in matrices.PRODUCTS or function in matrices.SHIFTED:
        seen = _of_product(function, args, kwargs, is_source)
    elif function in NORMS:
        return of_norm(function, args, kwargs, output, where, is_source)
    elif RULES.get(function) is elementwise and not kwargs.keys() & {"out", "dtype"}:
        once = {id(source): source for source in sources}
        return _all(_of_elements(function, args, kwargs, source, output, where) for source in once.values())
    else:
        return None
    uses = [part for entry in seen for part in (entry.weight, entry.bias) if part is not None]
    return seen if len(uses) == len(sources) else None  # each source is one of them, once


def _all(found: Iterable[Entry | None]) -> list[Entry] | None:
    every = list(found)
    return None if any(entry is None for entry in every) else [entry for entry in every if entry is not None]


def _of_product(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], is_source: Callable[[Any], bool]) -> list[Entry]:
    shift, *factors = args if function in matrices.SHIFTED else (None, *args)
    if kwargs or len(factors) != 2:
        return []
    x, weight = factors
    if is_source(x) or (is_source(shift) and shift.dim() != 1):
        return []
    kind = matrices.KIND if weight.dim() == 2 else matrices.OF_VECTOR
    if weight.dim() > 2:
        return []
    return [Entry(kind, {}, x, weight if is_source(weight) else None, shift if is_source(shift) else None)]


def _of_elements(
    function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], weight: Tensor, output: Tensor, where: SampleAxis
) -> Entry | None:
    axes = (1,) * (output.dim() - weight.dim()) + tuple(weight.shape)
    if axes[where.axis] != 1:  # each sample has its own part of the weight
        return None
    options = {"spread": axes[: where.axis] + axes[where.axis + 1 :], "sign": 1}
    others = [part for part in args if part is not weight]
    is_plain = len(args) == 2 and len(others) == 1 and not kwargs
    if is_plain and function in elements.ADDS:
        return Entry(elements.KIND, options, None, weight, None)
    if is_plain and function in elements.SUBTRACTS:
        return Entry(elements.KIND, {**options, "sign": 1 if args[0] is weight else -1}, None, weight, None)
    if is_in_place(function, kwargs):
        return None
    x = others[0] if is_plain and function in elements.MULTIPLIES else elements.slope(function, args, kwargs, weight, output)
    return Entry(elements.KIND, options, _spread_over(x, output, where), weight, None)


def _spread_over(x: Any, output: Tensor, where: SampleAxis) -> Tensor:
    """A factor with all axes of the output, and all samples."""
    if not isinstance(x, Tensor):
        x = output.new_full((), x)
    x = x.detach().reshape((1,) * (output.dim() - x.dim()) + tuple(x.shape))
    return x.expand(*(where.length if axis == where.axis else -1 for axis in range(output.dim())))


def is_in_place(function: Any, kwargs: dict[str, Any]) -> bool:
    """Whether a call writes into its first argument, or into `out`."""
    name = getattr(function, "__name__", "")
    is_method = name.endswith("_") and not name.endswith("__")
    return is_method or name in _WRITES or kwargs.get("inplace", False) or kwargs.get("out") is not None


_WRITES = frozenset({"__setitem__", *(name for name in OPERATORS if name.startswith("__i") and name != "__invert__")})
