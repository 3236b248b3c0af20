"""The laws of a loss as a pure function of params, buffers and batch, and of nothing else."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.func import vjp

from pure_batchops.models.purity import random_states
from pure_batchops.testing.agreement import agree
from pure_batchops.testing.case import LossCase, copied, members, stacked, stacked_state, states
from pure_batchops.testing.purity import result_of_untouched
from pure_batchops.testing.samples import losses
from pure_batchops.trees import leaves
from pure_batchops.types import Buffers, Params, Tree


def repeatable(case: LossCase) -> bool:
    """The loss must give the same numbers each time, and must neither draw random numbers nor seed a generator."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(case.seed + 1)
        states = random_states()
        values = losses(case)
        if not all(map(torch.equal, states, random_states())):
            msg = "got another state of torch's random number generator after the call"
            raise AssertionError(msg)
    agree(losses(case), values, case.tolerance, "the second time")
    return True


def untouched(case: LossCase) -> bool:
    """The loss must leave its arguments alone, values and versions."""
    given = {"params": case.params, "buffers": case.buffers, "batch": case.batch}
    result_of_untouched(case.loss, {name: copied(argument) for name, argument in given.items()})
    return True


def depends(case: LossCase) -> bool:
    """The loss must depend on params: its gradient must not be zero at params and everywhere near them."""
    for member in members(case):
        if any(leaf.any() for leaf in leaves(_gradient(case, member, case.buffers))):
            return True
    msg = "got a gradient of zero at params and near them; does the loss read other tensors, such as those of a module?"
    raise AssertionError(msg)


def closed(case: LossCase) -> bool:
    """The loss must read no tensor that requires gradients but its arguments, as it does when it calls a module directly."""
    with torch.enable_grad():
        values = losses(case)
    if values.requires_grad:
        shapes = ", ".join(str(tuple(leaf.shape)) for leaf in _leaves_of_graph(values.grad_fn))
        msg = (
            f"got losses that depend on other tensors that require gradients, of the shapes {shapes}; take them from params "
            "or buffers, or detach them"
        )
        raise AssertionError(msg)
    return True


def ensemble(case: LossCase) -> bool:
    """The loss and its gradient under torch.vmap over an ensemble of params and buffers must be the loop over its members."""
    each = states(case)
    params, buffers, along = stacked_state(case)
    expected = stacked([losses(case._replace(params=member, buffers=own)) for member, own in each])
    mapped = torch.vmap(case.loss, in_dims=(0, along, None))(*map(copied, (params, buffers, case.batch)))
    agree(mapped, expected, case.tolerance, "in the losses")
    expected = stacked([_gradient(case, member, own) for member, own in each])
    mapped = torch.vmap(partial(_gradient, case), in_dims=(0, along))(params, buffers)
    agree(mapped, expected, case.tolerance, "in the gradients")
    return True


def _gradient(case: LossCase, params: Params, buffers: Buffers) -> Tree:
    """The gradient of the sum of the losses with unequal weights."""
    values, pull = vjp(lambda p: case.loss(p, copied(buffers), copied(case.batch)), copied(params))
    weights = torch.arange(1.0, 1.0 + len(values), device=values.device) / len(values)
    return pull(weights.to(values.dtype))[0]


def _leaves_of_graph(node: Any) -> Iterator[Tensor]:
    """The tensors that require gradients at the ends of an autograd graph."""
    nodes, seen = [node], set()
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            yield node.variable
        nodes += [parent for parent, _ in node.next_functions]
