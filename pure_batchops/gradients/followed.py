"""Each call of torch inside a loss is followed: where its samples lie, what is made of parameters, and where those enter."""

from typing import Any

import torch
from torch import Tensor

from pure_batchops.gradients.call import Call
from pure_batchops.gradients.entries import entries, is_in_place
from pure_batchops.gradients.kinds import KINDS
from pure_batchops.gradients.tracked import CONSTANT, MADE_OF_PARAMS, MIXED, Place, Tracked, depth
from pure_batchops.gradients.uses import Followed, followed, node_of, spread_entry, spread_for_samples
from pure_batchops.losses.apart import kept_apart
from pure_batchops.sample_axis.axis import SampleAxis, tensors_in
from pure_batchops.sample_axis.rules import RULES
from pure_batchops.torch_privates import unwrapped
from pure_batchops.tracing import is_recorded

_SAY_NOTHING = frozenset(
    {"__get__", "__len__", "size", "dim", "numel", "nelement", "stride", "is_contiguous", "is_floating_point", "is_complex"}
    | {"get_device", "type", "element_size", "storage_offset", "is_inference", "promote_types", "result_type", "is_tensor"}
    | {"data_ptr", "is_signed", "is_same_size", "register_hook", "is_conj", "is_neg"}
)
"""Functions that return no tensor, and read no number of one."""


def follow(
    tracked: Tracked, uses: list[Followed], reasons: list[str], function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """The output of a call. An entry is added to `uses`, or a reason against it to `reasons`."""
    if depth() != tracked.depth:  # a parameter that is used there comes to light as a leaf behind the losses
        return function(*args, **kwargs)
    writes, given = is_in_place(function, kwargs), tensors_in((*args, *kwargs.values()))
    behind = _behind(tracked, given) if writes else []  # a write makes other nodes
    output = function(*args, **kwargs)
    results = [output] if isinstance(output, Tensor) else tensors_in(output) if isinstance(output, (tuple, list)) else []
    carries = torch.is_grad_enabled() and any(is_recorded(part) for part in results)
    call = Call(function, args, kwargs, given, output, results, carries, writes)
    if function is kept_apart:
        tracked.put(results, _of_kept_apart(tracked, call))
    elif results:
        _place(tracked, uses, reasons, call, behind)
    elif not (isinstance(output, torch.Size) or call.name in _SAY_NOTHING) and any(map(tracked.may_hold_samples, given)):
        tracked.read.append(f"{call.name} reads numbers of samples")
    return output


def _place(tracked: Tracked, uses: list[Followed], reasons: list[str], call: Call, behind: list[Any]) -> None:
    """Say what is known of the results of a call, and how parameters enter in it."""
    where = _where(tracked, call)
    is_made = call.carries and where is None and all(_holds_no_samples(tracked, part) for part in call.given)
    if is_made and not (call.function in KINDS and _guess(tracked, call) is not None):
        where = spread_for_samples(tracked, call.function, call.args, call.results[0])
        if where is None:
            tracked.put(call.results, MADE_OF_PARAMS)
            return
        weight = next(part for part in call.given if tracked.place(part) == MADE_OF_PARAMS)
        uses.append(spread_entry(weight, where, call.results[0]))
    elif call.carries and any(tracked.place(part) == MADE_OF_PARAMS for part in call.given):
        entered = where or _guess(tracked, call)
        where = where or (entered if is_made else None)
        _enter(tracked, uses, reasons, call, entered, behind)
    _put(tracked, call, where)


def _where(tracked: Tracked, call: Call) -> SampleAxis | None:
    """Where the samples lie in the output, by the rule of the function."""
    rule = RULES.get(call.function)
    places = [tracked.place(part) for part in call.given]
    is_known = MIXED not in places and any(isinstance(place, SampleAxis) for place in places)
    return rule(tracked.samples, call.args, call.kwargs, call.output) if rule is not None and is_known else None


def _holds_no_samples(tracked: Tracked, part: Tensor) -> bool:
    return tracked.place(part) in (None, CONSTANT, MADE_OF_PARAMS)


def _guess(tracked: Tracked, call: Call) -> SampleAxis | None:
    """The samples along axis 0 of the output of a layer. If this is wrong, no proof follows, and rows do not scale."""
    x, output = call.args[0] if call.args else None, call.output
    if not isinstance(output, Tensor) or not isinstance(x, Tensor) or output.dim() == 0 or x.dim() == 0:
        return None
    n = tracked.n or len(output)
    is_known = tracked.place(x) in (CONSTANT, MADE_OF_PARAMS)
    return SampleAxis(0, 1, n, 1) if len(x) == len(output) == n and not is_known else None


def _put(tracked: Tracked, call: Call, where: SampleAxis | None) -> None:
    """Say where the samples lie in the results."""
    place: Place | None = where
    if where is None and call.carries:
        place = MIXED
    elif where is None and any(tracked.may_hold_samples(part) for part in call.given):
        tracked.read.append(f"{call.name} may mix samples")
    elif where is None and all(tracked.place(part) is not None for part in call.given):
        place = CONSTANT
    if call.writes and any(tracked.place(part) != place for part in [*call.given[:1], *call.results]):
        (tracked.mixed if call.carries else tracked.read).append("a tensor with samples was changed in place")
    tracked.put(call.results, place)


def _enter(
    tracked: Tracked, uses: list[Followed], reasons: list[str], call: Call, where: SampleAxis | None, behind: list[Any]
) -> None:
    def is_source(part: Any) -> bool:
        return isinstance(part, Tensor) and tracked.place(part) == MADE_OF_PARAMS

    found = None if where is None else entries(call.function, call.args, call.kwargs, call.output, where, is_source)
    if call.writes and type(unwrapped(call.results[0]).grad_fn).__name__ not in ("AddBackward0", "SubBackward0"):
        found = None
    if found is None:
        reasons.append(f"{call.name} uses a parameter, not as the weight of a known layer")
        return
    behind = behind or _behind(tracked, call.given)
    uses.extend(followed(entry, where, call.results[0], behind) for entry in found)


def _behind(tracked: Tracked, given: list[Tensor]) -> list[Any]:
    """The nodes that made the arguments which are not made of parameters alone."""
    return [node_of(part) for part in given if is_recorded(part) and tracked.place(part) != MADE_OF_PARAMS]


def _of_kept_apart(tracked: Tracked, call: Call) -> Place:
    """Where the samples lie in values that we computed for each sample by itself."""
    values, *outputs = call.args
    places = [tracked.samples(part) for part in outputs if is_recorded(part)]
    n = len(values)
    are_whole = all(place is not None and place[1:] == (1, n, 1) for place in places)
    return SampleAxis(0, 1, n, 1) if are_whole else MIXED
