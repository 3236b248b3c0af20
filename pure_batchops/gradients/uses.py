"""What autograd needs to know of the calls where parameters enter."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pure_batchops.gradients import elements
from pure_batchops.gradients.entry import Entry
from pure_batchops.gradients.layer import LayerKind, Options
from pure_batchops.gradients.tracked import Tracked
from pure_batchops.members import like
from pure_batchops.sample_axis.axis import SampleAxis
from pure_batchops.torch_privates import edge_of, is_wrapped, unwrapped, version

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
        shown: gives a tensor like the output the members of an ensemble that the output has.
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


def followed(entry: Entry, where: SampleAxis | None, output: Tensor, behind: list[Any]) -> Followed:
    """The entry, as autograd sees it after the call."""
    shown = partial(like, shown=output.detach()) if is_wrapped(output) else _itself
    zeros = partial(torch.zeros, output.shape, dtype=output.dtype, device=output.device)
    seen = -1 if entry.x is None else version(unwrapped(entry.x))
    return Followed(*entry, where, zeros, edge_of(unwrapped(output)), unwrapped(output).grad_fn, behind, seen, shown)


def _itself(tensor: Tensor) -> Tensor:
    return tensor


def spread_for_samples(tracked: Tracked, function: Any, args: tuple[Any, ...], output: Tensor) -> SampleAxis | None:
    """The samples along axis 0, if a tensor made of parameters is spread over as many rows; what follows must agree."""
    n = tracked.n
    if function not in _SPREADS or n is None or n == 1 or output.dim() == 0 or len(output) != n:
        return None
    axes = (1,) * (output.dim() - args[0].dim()) + tuple(args[0].shape)
    only_spreads = all(length in (1, after) for length, after in zip(axes, output.shape, strict=True))
    return SampleAxis(0, 1, n, 1) if axes[0] == 1 and only_spreads else None


def spread_entry(weight: Tensor, where: SampleAxis, output: Tensor) -> Followed:
    """The entry of a tensor made of parameters that is spread over the samples."""
    axes = (1,) * (output.dim() - weight.dim()) + tuple(weight.shape)
    entry = Entry(elements.KIND, {"spread": axes[1:], "sign": 1}, None, weight, None)
    return followed(entry, where, output, [])


def node_of(tensor: Tensor) -> Any:
    """Where autograd made a tensor; for a leaf, where its gradient goes."""
    tensor = unwrapped(tensor)
    if tensor.grad_fn is not None:
        return tensor.grad_fn
    with torch.enable_grad():
        node: Any = tensor.view_as(tensor).grad_fn
    return node.next_functions[0][0]
