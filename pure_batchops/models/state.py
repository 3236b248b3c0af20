"""The state of a module as plain tensors, `(params, buffers)`, and of an ensemble as one."""

import fnmatch
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pure_batchops.trees import named, named_leaves, rebuilt, same_leaves
from pure_batchops.types import Buffers, Params, Selection, Tree

State = tuple[dict[str, Tensor], dict[str, Tensor]]


def functional_state(model: nn.Module, restrict_to: Selection = None) -> State:
    """The parameters to differentiate, and everything else that the model holds.

    Args:
        model: any module. It is not changed.
        restrict_to: which parameters to differentiate: a name, a shell pattern such as `"layer4.*"`, several of
            them, or a predicate on `(name, tensor)`. By default all with `requires_grad=True`; one that is picked
            is differentiated whatever its `requires_grad`. A tied parameter answers to each of its names.

    Returns:
        `(params, buffers)`, dicts from names to detached tensors that share storage with the model, in the model's
        order; buffers are the real buffers and the parameters that were not picked.

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


def selected(selection: Selection) -> Callable[[Mapping[str, Tensor]], list[str]]:
    """The names that a selection picks, as a function of the tensors; patterns are read here, where nothing is traced.

    Returns:
        `names(tensors)`, in the order of tensors, which raises a ValueError for a name or pattern that matches nothing.

    Raises:
        TypeError: if the selection is no name, pattern, several of them, or predicate.
    """
    if callable(selection):
        return lambda tensors: [name for name, tensor in tensors.items() if selection(name, tensor)]
    texts = [selection] if isinstance(selection, str) else selection
    if not isinstance(texts, Iterable) or isinstance(texts, (bytes, Tensor)):
        msg = f"parameters are picked by names, shell patterns or a predicate, got {type(selection).__name__}"
        raise TypeError(msg)
    patterns = [(_text(text), re.compile(fnmatch.translate(text))) for text in texts]

    def names(tensors: Mapping[str, Tensor]) -> list[str]:
        picked: set[str] = set()
        for text, pattern in patterns:
            matches = {text} if text in tensors else {name for name in tensors if pattern.match(name)}
            if not matches:
                msg = f"no parameter matches {text!r}; there are {', '.join(tensors)}"
                raise ValueError(msg)
            picked |= matches
        return [name for name in tensors if name in picked]

    return names


def _text(text: Any) -> str:
    if not isinstance(text, str):
        msg = f"a name or pattern of parameters must be a string, got {text!r}"
        raise TypeError(msg)
    return text


def stack_states(states: Iterable[tuple[Params, Buffers]]) -> tuple[Params, Buffers]:
    """The states of an ensemble as one, with a leading axis for the members, ready for `torch.vmap`.

    Args:
        states: `(params, buffers)` of each member, all of the same names and shapes.

    Returns:
        `(params, buffers)`, each leaf the stack of the members' leaves; new tensors.

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


def _checked_state(state: Any) -> tuple[Params, Buffers]:
    if not isinstance(state, (tuple, list)) or len(state) != 2:
        msg = f"states must be an iterable of pairs (params, buffers), got an item of {type(state).__name__}"
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
