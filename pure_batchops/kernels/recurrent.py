"""Recurrent networks as loops over steps in plain operations.

torch's fused ones have no rule for vmap over their weights, and fail if only some of their weights are batched.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pure_batchops.kernels.cells import Cell, State, Weights, input_part


class Options(NamedTuple):
    """What torch's recurrent functions take after their weights."""

    has_biases: bool
    num_layers: int
    dropout: float
    train: bool
    bidirectional: bool
    batch_first: bool = False


def recurrent(torchs: Callable[..., Any], cell: Cell) -> Callable[..., Any]:
    """A function with both signatures of `torch.lstm`, `torch.gru`, `torch.rnn_tanh` and `torch.rnn_relu`.

    Args:
        torchs: torch's own, for dropout between layers, and for arguments that it refuses.
        cell: one step.

    Returns:
        The function of `(input, hx, params, …)`, or of `(data, batch_sizes, hx, params, …)` for packed sequences.
    """
    return partial(_recurrent, torchs, cell)


def _recurrent(torchs: Callable[..., Any], cell: Cell, *args: Any, **kwargs: Any) -> Any:
    packed = "batch_sizes" in kwargs or (len(args) > 3 and not isinstance(args[3], bool))
    names = ("data", "batch_sizes", "hx", "params") if packed else ("input", "hx", "params")
    given = {**dict(zip((*names, *Options._fields), args, strict=False)), **kwargs}
    x, hx, params = given.pop("data" if packed else "input"), given.pop("hx"), given.pop("params")
    sizes = [int(size) for size in given.pop("batch_sizes")] if packed else None
    options = Options(**given)
    steps = x.split(sizes) if sizes is not None else x.unbind(1 if options.batch_first else 0)
    state = (hx,) if isinstance(hx, Tensor) else tuple(hx)
    drops = options.dropout and options.train and options.num_layers > 1
    if drops or len(steps) == 0 or any(part.shape[1] != len(steps[0]) for part in state):
        return torchs(*args, **kwargs)
    outputs, last = _layers(cell, steps, state, params, options)
    joined = torch.cat(outputs) if packed else torch.stack(outputs, 1 if options.batch_first else 0)
    return joined, *last


def _layers(
    cell: Cell, steps: Sequence[Tensor], state: State, params: Sequence[Tensor], options: Options
) -> tuple[list[Tensor], State]:
    """All layers, in all directions: what the last layer puts out at each step, and the last states of all."""
    directions = (_forward, _backward) if options.bidirectional else (_forward,)
    last: list[State] = []
    outputs = list(steps)
    all_weights = _weights_of_runs(params, options.num_layers * len(directions), has_biases=options.has_biases)
    for _ in range(options.num_layers):
        sides: list[list[Tensor]] = []
        for direction in directions:
            run = len(last)
            weights, first = all_weights[run], tuple(part[run] for part in state)
            parts = input_part(torch.cat(outputs), weights).split([len(step) for step in steps])
            side_outputs, end = direction(cell, parts, first, weights)
            sides.append(side_outputs)
            last.append(end)
        outputs = [torch.cat(both, -1) for both in zip(*sides, strict=True)]
    return outputs, tuple(torch.stack(ends) for ends in zip(*last, strict=True))


def _weights_of_runs(params: Sequence[Tensor], runs: int, *, has_biases: bool) -> list[Weights]:
    """The weights of each layer in each direction."""
    number = len(params) // runs
    chunks = [params[run * number : (run + 1) * number] for run in range(runs)]
    if has_biases:
        return [Weights(*chunk) for chunk in chunks]
    return [Weights(chunk[0], chunk[1], projection=chunk[2] if len(chunk) > 2 else None) for chunk in chunks]


def _forward(cell: Cell, parts: Sequence[Tensor], state: State, weights: Weights) -> tuple[list[Tensor], State]:
    """From the first step to the last. Sequences that have ended drop out; the longest stand first."""
    outputs: list[Tensor] = []
    ended: list[State] = []
    for part in parts:
        if len(part) < len(state[0]):
            ended.append(tuple(rows[len(part) :] for rows in state))
            state = tuple(rows[: len(part)] for rows in state)
        state = cell(part, state, weights)
        outputs.append(state[0])
    return outputs, tuple(torch.cat(rows) for rows in zip(state, *reversed(ended), strict=True))


def _backward(cell: Cell, parts: Sequence[Tensor], state: State, weights: Weights) -> tuple[list[Tensor], State]:
    """From the last step to the first. Sequences join in where they end."""
    outputs: list[Tensor] = []
    now = tuple(rows[:0] for rows in state)
    for part in reversed(parts):
        if len(part) > len(now[0]):
            now = tuple(torch.cat([rows, first[len(rows) : len(part)]]) for rows, first in zip(now, state, strict=True))
        now = cell(part, now, weights)
        outputs.append(now[0])
    return outputs[::-1], now
