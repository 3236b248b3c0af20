"""Each call of torch inside a loss is followed: where its samples lie, what is made of parameters, and where those enter."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pure_batchops.gradients import elements
from pure_batchops.gradients.entries import entries, is_in_place
from pure_batchops.gradients.entry import Entry
from pure_batchops.gradients.kinds import KINDS
from pure_batchops.gradients.layer import LayerKind, Options
from pure_batchops.gradients.tracked import CONSTANT, MADE_OF_PARAMS, MIXED, Place, Tracked
from pure_batchops.losses.apart import kept_apart
from pure_batchops.members import like
from pure_batchops.sample_axis.axis import SampleAxis, tensors_in
from pure_batchops.sample_axis.rules import RULES
from pure_batchops.torch_privates import edge_of, unwrapped, version
from pure_batchops.tracing import is_recorded

_SAY_NOTHING = frozenset(
    {"__get__", "__len__", "size", "dim", "numel", "nelement", "stride", "is_contiguous", "is_floating_point", "is_complex"}
    | {"get_device", "type", "element_size", "storage_offset", "is_inference", "promote_types", "result_type", "is_tensor"}
    | {"data_ptr", "is_signed", "is_same_size", "register_hook", "is_conj", "is_neg"}
)
"""Functions that return no tensor, and read no number of one."""

_SPREADS = frozenset({Tensor.expand, Tensor.expand_as, Tensor.repeat, torch.broadcast_to, Tensor.broadcast_to})


class Followed(NamedTuple):
    """An entry, and what autograd needs to know of its call.

    Attributes:
        kind, options, x, weight, bias: as in `Entry`.
        where: where the samples lie in x and in the output.
        zeros: makes zeros like the output.
        edge: what the gradient at the output is asked for by.
        node: where autograd made the output. `behind` are the nodes that made the other arguments.
        version: of x.
    """

    kind: LayerKind
    options: Options
    x: Tensor | None
    weight: Tensor | None
    bias: Tensor | None
    where: SampleAxis | None
    zeros: Callable[[], Tensor]
    edge: Any
    node: Any
    behind: list[Any]
    version: int
    shown: Callable[[Tensor], Tensor]


def follow(
    tracked: Tracked, calls: list[Followed], reasons: list[str], function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """The output of a call. An entry is added to `calls`, or a reason against it to `reasons`."""
    writes = is_in_place(function, kwargs)
    given = tensors_in((*args, *kwargs.values()))
    behind = [node_of(part) for part in given if is_recorded(part) and writes]  # a write makes other nodes
    output = function(*args, **kwargs)
    results = [output] if isinstance(output, Tensor) else tensors_in(output) if isinstance(output, (tuple, list)) else []
    if not results:
        says = isinstance(output, torch.Size) or getattr(function, "__name__", "") in _SAY_NOTHING
        if not says and any(tracked.may_hold_samples(part) for part in given):
            tracked.read.append(f"{getattr(function, '__name__', function)} reads numbers of samples")
        return output
    if function is kept_apart:
        tracked.put(results, _of_kept_apart(tracked, args, results[0]))
        return output
    carries = torch.is_grad_enabled() and any(is_recorded(part) for part in results)
    sources = [part for part in given if tracked.place(part) == MADE_OF_PARAMS] if carries else []
    where = _where(tracked, function, args, kwargs, output, given)
    is_made = carries and where is None and _is_made_of_params(tracked, given)
    if is_made and not (function in KINDS and _guess(tracked, args, output) is not None):
        where = _spread_for_samples(tracked, function, args, results[0])
        if where is None:
            tracked.put(results, MADE_OF_PARAMS)
            return output
        calls.append(_spread_entry(sources[0], where, results[0]))
    elif sources:
        behind = behind or [node_of(part) for part in given if is_recorded(part) and tracked.place(part) != MADE_OF_PARAMS]
        place = where or _guess(tracked, args, output)
        where = where or (place if is_made else None)
        _enter(tracked, calls, reasons, function, args, kwargs, results[0], place, behind, writes)
    _put(tracked, function, given, results, where, carries, writes)
    return output


def _where(tracked: Tracked, function: Any, args: Any, kwargs: Any, output: Any, given: list[Tensor]) -> SampleAxis | None:
    """Where the samples lie in the output, by the rule of the function."""
    rule = RULES.get(function)
    if rule is None or all(tracked.samples(part) is None for part in given):
        return None
    if any(tracked.place(part) == MIXED for part in given):
        return None
    return rule(tracked.samples, args, kwargs, output)


def _is_made_of_params(tracked: Tracked, given: list[Tensor]) -> bool:
    """Whether no argument holds samples, and each that carries a gradient is made of parameters."""
    return all(tracked.place(part) in (None, CONSTANT, MADE_OF_PARAMS) for part in given)


def _guess(tracked: Tracked, args: tuple[Any, ...], output: Any) -> SampleAxis | None:
    """The samples along axis 0 of the output of a layer. If this is wrong, no proof follows, and rows do not scale."""
    x = args[0] if args else None
    if not isinstance(output, Tensor) or not isinstance(x, Tensor) or output.dim() == 0 or x.dim() == 0:
        return None
    n = tracked.n or len(output)
    is_known = tracked.place(x) in (CONSTANT, MADE_OF_PARAMS)
    return SampleAxis(0, 1, n, 1) if len(x) == len(output) == n and not is_known else None


def _put(
    tracked: Tracked,
    function: Any,
    given: list[Tensor],
    results: list[Tensor],
    where: SampleAxis | None,
    carries: bool,
    writes: bool,
) -> None:
    """Say where the samples lie in the results."""
    place: Place | None = where
    if where is None and carries:
        place = MIXED
    elif where is None and any(tracked.may_hold_samples(part) for part in given):
        tracked.read.append(f"{getattr(function, '__name__', function)} may mix samples")
    elif where is None and all(tracked.place(part) is not None for part in given):
        place = CONSTANT
    if writes and any(tracked.place(part) != place for part in [*given[:1], *results]):
        (tracked.mixed if carries else tracked.read).append("a tensor with samples was changed in place")
    tracked.put(results, place)


def _enter(
    tracked: Tracked,
    calls: list[Followed],
    reasons: list[str],
    function: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    output: Tensor,
    where: SampleAxis | None,
    behind: list[Any],
    writes: bool,
) -> None:
    def is_source(part: Any) -> bool:
        return isinstance(part, Tensor) and tracked.place(part) == MADE_OF_PARAMS

    found = None if where is None else entries(function, args, kwargs, output, where, is_source)
    if writes and type(unwrapped(output).grad_fn).__name__ not in ("AddBackward0", "SubBackward0"):
        found = None
    if found is None:
        reasons.append(f"{getattr(function, '__name__', function)} uses a parameter, not as the weight of a known layer")
        return
    calls.extend(_followed(entry, where, output, behind) for entry in found)


def _followed(entry: Entry, where: SampleAxis | None, output: Tensor, behind: list[Any]) -> Followed:
    shown = partial(like, shown=output.detach())
    zeros = partial(torch.zeros, output.shape, dtype=output.dtype, device=output.device)
    seen = -1 if entry.x is None else version(unwrapped(entry.x))
    return Followed(*entry, where, zeros, edge_of(unwrapped(output)), unwrapped(output).grad_fn, behind, seen, shown)


def _spread_for_samples(tracked: Tracked, function: Any, args: tuple[Any, ...], output: Tensor) -> SampleAxis | None:
    """The samples along axis 0, if a tensor made of parameters is spread over as many rows; what follows must agree with it."""
    n = tracked.n
    if function not in _SPREADS or n is None or n == 1 or output.dim() == 0 or len(output) != n:
        return None
    axes = (1,) * (output.dim() - args[0].dim()) + tuple(args[0].shape)
    only_spreads = all(length in (1, after) for length, after in zip(axes, output.shape, strict=True))
    return SampleAxis(0, 1, n, 1) if axes[0] == 1 and only_spreads else None


def _spread_entry(weight: Tensor, where: SampleAxis, output: Tensor) -> Followed:
    axes = (1,) * (output.dim() - weight.dim()) + tuple(weight.shape)
    entry = Entry(elements.KIND, {"spread": axes[1:], "sign": 1}, None, weight, None)
    return _followed(entry, where, output, [])


def _of_kept_apart(tracked: Tracked, args: tuple[Any, ...], values: Tensor) -> Place:
    """Where the samples lie in values that we computed for each sample by itself."""
    outputs = [part for part in args[1:] if is_recorded(part)]
    places = [tracked.samples(part) for part in outputs]
    n = len(values)
    are_whole = all(place is not None and place[1:] == (1, n, 1) for place in places)
    return SampleAxis(0, 1, n, 1) if are_whole else MIXED


def node_of(tensor: Tensor) -> Any:
    """Where autograd made a tensor; for a leaf, where its gradient goes."""
    tensor = unwrapped(tensor)
    if tensor.grad_fn is not None:
        return tensor.grad_fn
    with torch.enable_grad():
        node: Any = tensor.view_as(tensor).grad_fn
    return node.next_functions[0][0]
