"""The state of a module as plain tensors, `(params, buffers)`, and of an ensemble as one."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from pure_batchops.models.selection import selected
from pure_batchops.trees import leaves, map_leaves, named, named_leaves, rebuilt, same_leaves
from pure_batchops.types import Buffers, Params, Selection, Tree

State = tuple[dict[str, Tensor], dict[str, Tensor]]


def functional_state(model: nn.Module, restrict_to: Selection = None) -> State:
    """The parameters to differentiate, and everything else that the model holds.

    Args:
        model: any module. It is not changed.
        restrict_to: which parameters to differentiate: a name, a shell pattern such as `"layer4.*"`, several of
            them, or a predicate on `(name, tensor)`. By default all with `requires_grad=True`. A parameter that is
            picked is differentiated whatever its `requires_grad`. A tied parameter can be picked by each of its names.

    Returns:
        `(params, buffers)`, dicts from names to detached tensors that share storage with the model, in the model's
        order. Buffers are the real buffers and the parameters that were not picked.

    Raises:
        TypeError: if model is no module, or restrict_to is none of the above.
        ValueError: if a name or pattern matches nothing, or nothing is left to differentiate.

    Examples:
        >>> model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Linear(2, 1))
        >>> params, buffers = functional_state(model, restrict_to="1.*")
        >>> list(params), list(buffers)
        (['1.weight', '1.bias'], ['0.weight', '0.bias'])
    """
    if not isinstance(model, nn.Module):
        msg = f"model must be a torch.nn.Module, got {type(model).__name__}"
        raise TypeError(msg)
    parameters = dict(model.named_parameters())
    if restrict_to is None:
        picked = {name for name, tensor in parameters.items() if tensor.requires_grad}
    else:
        first_names = {id(tensor): name for name, tensor in parameters.items()}
        every_name = dict(model.named_parameters(remove_duplicate=False))
        picked = {first_names[id(every_name[name])] for name in selected(restrict_to)(every_name)}
    if not picked:
        msg = (
            f"no parameter is left to differentiate (restrict_to={restrict_to!r}); the model has "
            f"{', '.join(parameters) or 'no parameters'}; those with requires_grad=False must be picked by restrict_to"
        )
        raise ValueError(msg)
    params = {name: tensor.detach() for name, tensor in parameters.items() if name in picked}
    frozen = {name: tensor.detach() for name, tensor in parameters.items() if name not in picked}
    return params, {**frozen, **{name: tensor.detach() for name, tensor in model.named_buffers()}}


def stack_states(states: Iterable[tuple[Params, Buffers]]) -> tuple[Params, Buffers]:
    """The states of an ensemble as one state with a leading axis for the members, ready for `torch.vmap`.

    Args:
        states: `(params, buffers)` of each member. All have the same names and shapes.

    Returns:
        `(params, buffers)`. Each leaf is a new tensor, the stack of the members' leaves.

    Raises:
        ValueError: if there is no member, or members differ in names or shapes.

    Examples:
        >>> params, _ = stack_states([({"w": torch.zeros(2)}, {}), ({"w": torch.ones(2)}, {})])
        >>> params["w"]
        tensor([[0., 0.],
                [1., 1.]])
    """
    members = [_checked_state(state) for state in states]
    if not members:
        msg = "states must hold at least one (params, buffers), got none"
        raise ValueError(msg)
    params, buffers = zip(*members, strict=True)
    return _stack("params", list(params)), _stack("buffers", list(buffers))


def unstack_states(state: tuple[Params, Buffers]) -> list[tuple[Params, Buffers]]:
    """The states of the members of an ensemble, the inverse of `stack_states`.

    Args:
        state: `(params, buffers)` with a leading axis for the members on every leaf.

    Returns:
        `(params, buffers)` of each member. Its tensors are views of the stacked ones: nothing is copied.

    Raises:
        ValueError: if state is no pair, holds no tensor, or its leaves have leading axes of different lengths.

    Examples:
        >>> stacked = stack_states([({"w": torch.zeros(2)}, {}), ({"w": torch.ones(2)}, {})])
        >>> [params["w"] for params, buffers in unstack_states(stacked)]
        [tensor([0., 0.]), tensor([1., 1.])]
    """
    params, buffers = _checked_state(state, "state must be a pair (params, buffers)")
    lengths = {
        f"{named(path)} of {what}": leaf.shape[0] if isinstance(leaf, Tensor) and leaf.dim() else None
        for what, tree in (("params", params), ("buffers", buffers))
        for path, leaf in named_leaves(tree).items()
    }
    members = next(iter(lengths.values()), None)
    if not members or set(lengths.values()) != {members}:
        seen = ", ".join(f"{length or 'none'} at {where}" for where, length in lengths.items()) or "no tensor"
        msg = f"state must have a leading axis of one length on every leaf, one entry for each member, got {seen}"
        raise ValueError(msg)
    return [(_member(params, i), _member(buffers, i)) for i in range(members)]


def _member(tree: Tree, i: int) -> Tree:
    return map_leaves(lambda leaf: leaf[i], tree) if leaves(tree) else tree


def _checked_state(state: Any, rule: str = "states must be an iterable of pairs (params, buffers)") -> tuple[Params, Buffers]:
    if not isinstance(state, (tuple, list)) or len(state) != 2:
        msg = f"{rule}, got {type(state).__name__}"
        raise ValueError(msg)
    return state[0], state[1]


def _stack(what: str, trees: list[Tree]) -> Tree:
    expected = named_leaves(trees[0])
    rows = [same_leaves(f"{what} of member {i}", expected, tree) for i, tree in enumerate(trees)]
    for path, *column in zip(expected, *rows, strict=True):
        for i, leaf in enumerate(column):
            if leaf.shape != column[0].shape or leaf.dtype != column[0].dtype:
                msg = (
                    f"{what} of all members must agree at {named(path)}: member 0 has {tuple(column[0].shape)} "
                    f"{column[0].dtype}, member {i} has {tuple(leaf.shape)} {leaf.dtype}"
                )
                raise ValueError(msg)
    stacked = [torch.stack([leaf.detach() for leaf in column]) for column in zip(*rows, strict=True)]
    return rebuilt(trees[0], stacked)
