"""An ensemble of large members, one after another: torch.vmap must never cost more than a loop.

Small members gain from vmap: one call of torch serves all. Of large members only arithmetic counts, and tensors of all members
together fall out of the processor's cache; a convolution with weights of its own for each member is slow besides. So the first
of several large members goes alone, and its calls are watched. If they are large or convolve, the others follow one by one,
and otherwise together, by vmap. One by one takes the memory of one member; together, or if members are small, that of all,
which `chunk_size` of torch.vmap bounds.

Whatever vmap shows to the loss on other ways than by arguments, such as a tensor of a closure, has no meaning outside of vmap.
The watch sees it, and the operation goes by vmap as it is.
"""

from collections.abc import Callable
from itertools import compress
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  # its usual name
from torch.overrides import TorchFunctionMode

from pure_batchops import torch_privates, tracing, vmap_privates
from pure_batchops.members import above, is_mapped_up_to, is_member_alone, member_alone, sizes_of, underneath
from pure_batchops.points import Seen, counted, saw_losses, saw_points
from pure_batchops.trees import tree_flatten, tree_unflatten
from pure_batchops.types import Batch, Buffers, Params, Vector

_SMALL = 2**15
"""A member is small if its params and its batch hold no more numbers: then vmap is always cheaper."""

_TOGETHER = 2**19
"""The most numbers in one tensor of all members together."""

_CONVOLUTIONS = {F.conv1d, F.conv2d, F.conv3d, F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d}


class _Watch(TorchFunctionMode):
    """Watches calls: the largest output, whether one convolves, and whether one reads what a vmap outside maps."""

    def __init__(self, innermost: int) -> None:
        super().__init__()
        self.innermost, self.largest, self.convolves, self.is_foreign = innermost, 0, False, False

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        output = func(*args, **kwargs) if kwargs else func(*args)
        self.is_foreign = self.is_foreign or _holds_mapped(self.innermost, (*args, *kwargs.values()) if kwargs else args)
        self.convolves = self.convolves or func in _CONVOLUTIONS
        if type(output) is Tensor:
            self.largest = max(self.largest, output.numel())
        return output


def _holds_mapped(level: int, arguments: Any) -> bool:
    """Whether an argument is, or holds, a tensor that a vmap at this level or farther out maps. Each call passes here."""
    for part in arguments:
        if isinstance(part, Tensor):
            if torch_privates.is_wrapped(part) and is_mapped_up_to(level, part):
                return True
        elif isinstance(part, (list, tuple)) and not isinstance(part, torch.Size) and _holds_mapped(level, part):
            return True
    return False


def large_ensemble(op: Callable[..., Vector], params: Params, buffers: Buffers, batch: Batch, v: Vector) -> Vector | None:
    """The products of an ensemble of large members; None if the operation shall go on under vmap as it is."""
    members = tracing.untraced_members(params)
    if members is None or not members.levels or is_member_alone():
        return None
    if members.total == 1 or sum(leaf.numel() for leaf in _tensors((params, batch))) <= _SMALL:
        return None
    draws = any(map(vmap_privates.may_draw, torch_privates.transforms() or []))
    if draws or tracing.requires_grad(_tensors((buffers, batch, v))):
        return None
    flat, structure = tree_flatten((params, buffers, batch, v))
    mapped = [isinstance(leaf, Tensor) and bool(sizes_of(leaf)) for leaf in flat]
    stacked = [underneath(leaf, members).flatten(0, len(members.levels) - 1) for leaf in compress(flat, mapped)]

    def product(some: list[Tensor]) -> Any:
        rest = iter(some)
        arguments = [next(rest) if varies else leaf for leaf, varies in zip(flat, mapped, strict=True)]
        return tree_flatten(op(*tree_unflatten(arguments, structure)))

    with member_alone():
        found = _products(product, stacked, members.levels[-1], batch)
    if found is None:
        return tracing.refused("ensemble without vmap", "the operation reads something else that vmap maps")
    products, like = found
    return tree_unflatten([above(leaf.unflatten(0, members.sizes), members) for leaf in products], like)


def _tensors(arguments: Any) -> list[Tensor]:
    return [part for part in tree_flatten(arguments)[0] if isinstance(part, Tensor)]


def _products(
    product: Callable[[list[Tensor]], Any], stacked: list[Tensor], innermost: int, batch: Batch
) -> tuple[list[Tensor], Any] | None:
    """The leaves of the products, `(members, …)`, and their structure; None if they depend on what a vmap outside maps."""
    with _Watch(innermost) as watch:
        try:
            (first, like), seen = counted(product, [leaf[0] for leaf in stacked])
        except Exception:
            if watch.is_foreign:
                return None
            raise
    rest, count = [leaf[1:] for leaf in stacked], len(stacked[0])
    if watch.is_foreign:
        return None
    if watch.convolves or count * watch.largest > _TOGETHER:
        tracing.log("ensemble: one by one")
        each = [counted(product, list(one))[0][0] for one in zip(*rest, strict=True)]
        products = [torch.stack(group) for group in zip(first, *each, strict=True)]
    else:
        tracing.log("ensemble: the first alone, the others together")
        others, _ = counted(torch.vmap(lambda some: product(some)[0]), rest)
        products = [torch.cat([one[None], more]) for one, more in zip(first, others, strict=True)]
    _tell_again(seen, batch)
    return None if any(is_mapped_up_to(innermost, leaf) for leaf in products) else (products, like)


def _tell_again(seen: Seen, batch: Batch) -> None:
    """Tell the average around what one member saw, once."""
    for points, _ in seen.points:
        saw_points(points, batch)
    for losses in seen.losses:
        saw_losses(int(losses))
