"""From the tensors that enter a batch to the leaves of params. Most are leaves; others are made of leaves alone.

A tensor t made of params, such as a product of two of them, a slice or a transpose, has its own gradient for each sample. Its
pullback gives those of the leaves, formed.
"""

from typing import Any

import torch
from torch import Tensor

from pure_batchops import tracing
from pure_batchops.gradients.layer import LayerRecord, weight_gradients
from pure_batchops.gradients.taps import LayerGradients
from pure_batchops.torch_privates import is_wrapped

Records = dict[int, list[LayerRecord]]
Formed = dict[int, Tensor]
Made = dict[int, tuple[Tensor, list[LayerRecord], list[Tensor]]]


def gradients_of_leaves(
    records: list[tuple[Tensor, LayerRecord]],
    formed: list[tuple[Tensor, Tensor]],
    inputs: list[Tensor],
    losses: Tensor,
    held: int,
) -> LayerGradients | None:
    """The gradients of the leaves, from the records and the formed gradients of tensors that are made of them.

    Returns:
        What `LayerGradients` says, all formed if they have at most `held` numbers; None if more must be formed.
    """
    n = len(losses)
    kept, gradients, made = _sorted(records, formed, inputs)
    if made and any(map(is_wrapped, inputs)):
        return tracing.refused("one pass", "a tensor made of params has members")
    behind = _leaves_behind([tensor for tensor, _, _ in made.values()], inputs)
    to_form = [number for number in kept if number in behind or (number in gradients and kept[number])]
    is_small = n * sum(leaf.numel() for leaf in inputs) <= held
    most = sum(inputs[number].numel() for number in to_form) + sum(tensor.numel() for tensor, _, _ in made.values())
    if not is_small and n * most > held:
        return tracing.refused("one pass", f"gradients of tensors made of params have more than {held} numbers")
    if made and not _pull_to_leaves(made, inputs, gradients):
        return tracing.refused("one pass", "vmap cannot map the pullback of a tensor made of params")
    with torch.no_grad():
        for number in kept if is_small else to_form:
            leaf = inputs[number].detach()
            for record in kept[number]:
                _add(gradients, number, weight_gradients(record, leaf))
            if number not in gradients:
                gradients[number] = leaf.new_zeros(n, *leaf.shape)
    by_layer = {number: used for number, used in kept.items() if number not in gradients}
    return LayerGradients(losses, by_layer, gradients, None)


def _sorted(records: Any, formed: Any, inputs: list[Tensor]) -> tuple[Records, Formed, Made]:
    """The records and the formed gradients of each leaf, by its number, and those of each tensor that is made of leaves."""
    numbers = {id(leaf): number for number, leaf in enumerate(inputs)}
    kept: Records = {number: [] for number in range(len(inputs))}
    gradients: Formed = {}
    made: Made = {}
    for tensor, record in records:
        if id(tensor) in numbers:
            kept[numbers[id(tensor)]].append(record)
        else:
            made.setdefault(id(tensor), (tensor, [], []))[1].append(record)
    for tensor, gradient in formed:
        if id(tensor) in numbers:
            _add(gradients, numbers[id(tensor)], gradient)
        else:
            made.setdefault(id(tensor), (tensor, [], []))[2].append(gradient)
    return kept, gradients, made


def _add(gradients: Formed, number: int, part: Tensor) -> None:
    gradients[number] = gradients[number] + part if number in gradients else part


def _leaves_behind(tensors: list[Tensor], inputs: list[Tensor]) -> set[int]:
    """The numbers of the leaves that tensors are made of."""
    if not tensors:
        return set()
    parts = torch.autograd.grad(
        tensors, inputs, [torch.zeros_like(tensor) for tensor in tensors], retain_graph=True, allow_unused=True
    )
    return {number for number, part in enumerate(parts) if part is not None}


def _pull_to_leaves(made: Made, inputs: list[Tensor], gradients: Formed) -> bool:
    """Add the gradients of tensors that are made of params to those of the leaves; False if vmap cannot map the pullback."""
    tensors: list[Tensor] = []
    rows: list[Any] = []
    for tensor, records, parts in made.values():
        with torch.no_grad():
            every = [*parts, *(weight_gradients(record, tensor.detach()) for record in records)]
            tensors.append(tensor)
            rows.append(sum(every[1:], every[0]))
    try:
        pulled = torch.autograd.grad(tensors, inputs, rows, retain_graph=True, allow_unused=True, is_grads_batched=True)
    except RuntimeError:
        return False
    for number, part in enumerate(pulled):
        if part is not None:
            _add(gradients, number, part)
    return True
