"""Derivatives of what ranks have together, by plain autograd: every rank gets the whole gradient, also a second time.

What is the same on all ranks has a gradient on each; their sum is its gradient. A sum over the ranks has the same gradient on
all ranks; each term has it, too. So each of the two functions here is in the backward pass of the other.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from pure_batchops import torch_privates, tracing
from pure_batchops.trees import Path, named_leaves, rebuilt
from pure_batchops.types import Tree

Recorded = dict[Path, Tensor]
"""Leaves that the caller's autograd records, by their path."""


class _Same(torch.autograd.Function):
    """Tensors that are the same on all ranks."""

    @staticmethod
    def forward(context: Any, group: Any, *tensors: Tensor) -> tuple[Tensor, ...]:
        context.group = group
        return tuple(tensor.view_as(tensor) for tensor in tensors)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Any, ...]:
        flat = torch.cat([gradient.reshape(-1).to(gradients[0].device, torch.float64) for gradient in gradients])
        parts = sum_over_ranks(flat, context.group).split([gradient.numel() for gradient in gradients])
        return None, *(part.reshape(like.shape).to(like) for part, like in zip(parts, gradients, strict=True))


class _Sum(torch.autograd.Function):
    """The sum over the ranks of a tensor that each rank has."""

    @staticmethod
    def forward(context: Any, group: Any, own: Tensor) -> Tensor:
        context.group = group
        total = own.clone()
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Any, ...]:
        return None, *_Same.apply(context.group, gradient)  # type: ignore[no-untyped-call]


def sum_over_ranks(own: Tensor, group: Any) -> Tensor:
    """The sum of a tensor of each rank, the same on all ranks, also for autograd."""
    total: Tensor = _Sum.apply(group, own)  # type: ignore[no-untyped-call]
    return total


def same_on_ranks(tree: Tree, group: Any) -> tuple[Tree, Recorded]:
    """A tree that is the same on all ranks, also for autograd.

    Returns:
        The tree, and those of its leaves that the caller's autograd records.
    """
    named = named_leaves(tree)
    watched = sorted(path for path, leaf in named.items() if isinstance(leaf, Tensor) and tracing.requires_grad(leaf))
    watched = [path for path in watched if named[path].is_floating_point()]
    if not watched:
        return tree, {}
    same = _Same.apply(group, *(named[path] for path in watched))  # type: ignore[no-untyped-call]
    recorded = dict(zip(watched, same, strict=True))
    return rebuilt(tree, [recorded.get(path, leaf) for path, leaf in named.items()]), recorded


def joined(own: Tensor, recorded: Recorded) -> Tensor:
    """The tensor, as if it depended on what is recorded: a rank without batches takes part in the backward pass, too."""
    for leaf in list(recorded.values())[:1]:
        return own + torch.where(torch.zeros((), dtype=torch.bool, device=own.device), leaf.sum().to(own), 0)
    return own


def refuse_other_leaves(tensors: list[Tensor], recorded: Recorded) -> None:
    """Refuse tensors whose gradients belong to anything but what is recorded: ranks could not sum them."""
    own = {leaf.grad_fn for leaf in recorded.values()}
    nodes = {tensor.grad_fn for tensor in tensors if tensor.grad_fn is not None} - own
    seen = nodes | own
    others = any(tensor.requires_grad and tensor.grad_fn is None for tensor in tensors)
    while nodes and not others:
        node = nodes.pop()
        others = hasattr(node, "variable")
        new = {following for following, _ in node.next_functions if following is not None} - seen
        seen |= new
        nodes |= new
    if others:
        msg = (
            "a product over ranks must be differentiated by params, buffers or v, got another tensor that requires gradients, "
            "in the batches or in the loss; put it into buffers, or detach it"
        )
        raise ValueError(msg)


def refuse_transforms() -> None:
    """Refuse what does not see other ranks: transforms of torch.func, and forward mode."""
    if torch_privates.transforms() or torch_privates.in_forward_mode():
        msg = (
            "a product over ranks must be taken outside of transforms of torch.func and of forward mode, got one inside; "
            "differentiate it by torch.autograd, and put vmap around the operation inside the average"
        )
        raise ValueError(msg)
