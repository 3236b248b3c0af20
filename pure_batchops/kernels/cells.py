"""One step of a recurrent network, in plain operations.

Each product with a weight is a call of `linear`, so that whoever intercepts layers sees it.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import linear

State = tuple[Tensor, ...]


class Weights(NamedTuple):
    """The weights of one layer in one direction, in torch's order."""

    w_ih: Tensor
    w_hh: Tensor
    b_ih: Tensor | None = None
    b_hh: Tensor | None = None
    projection: Tensor | None = None


Cell = Callable[[Tensor, State, Weights], State]
"""From the input's part of a step, the state before it and the weights to the state after it, whose first is the output."""


def input_part(x: Tensor, weights: Weights) -> Tensor:
    """What the inputs, of one step or of all at once, add to the gates."""
    return linear(x, weights.w_ih, weights.b_ih)


def lstm_step(part: Tensor, state: State, weights: Weights) -> State:
    """One step of an LSTM; the state is what it puts out and what it keeps."""
    write, keep, new, read = (part + _state_part(state[0], weights)).chunk(4, -1)
    kept = torch.sigmoid(keep) * state[1] + torch.sigmoid(write) * torch.tanh(new)
    output = torch.sigmoid(read) * torch.tanh(kept)
    return (output if weights.projection is None else linear(output, weights.projection)), kept


def gru_step(part: Tensor, state: State, weights: Weights) -> State:
    """One step of a GRU."""
    reset, update, new = part.chunk(3, -1)
    reset_state, update_state, new_state = _state_part(state[0], weights).chunk(3, -1)
    candidate = torch.tanh(new + torch.sigmoid(reset + reset_state) * new_state)
    return (candidate + torch.sigmoid(update + update_state) * (state[0] - candidate),)


def tanh_step(part: Tensor, state: State, weights: Weights) -> State:
    """One step of Elman's network."""
    return (torch.tanh(part + _state_part(state[0], weights)),)


def relu_step(part: Tensor, state: State, weights: Weights) -> State:
    """One step of Elman's network with ReLU."""
    return (torch.relu(part + _state_part(state[0], weights)),)


def _state_part(output: Tensor, weights: Weights) -> Tensor:
    return linear(output, weights.w_hh, weights.b_hh)


def lstm_cell(
    input: Tensor,
    hx: Sequence[Tensor],
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
) -> State:
    """`torch.lstm_cell`."""
    weights = Weights(w_ih, w_hh, b_ih, b_hh)
    return lstm_step(input_part(input, weights), tuple(hx), weights)


def plain_cell(step: Cell) -> Callable[..., Tensor]:
    """A function with the signature of `torch.gru_cell`, `torch.rnn_tanh_cell` and `torch.rnn_relu_cell`."""

    def cell(
        input: Tensor,
        hx: Tensor,
        w_ih: Tensor,
        w_hh: Tensor,
        b_ih: Tensor | None = None,
        b_hh: Tensor | None = None,
    ) -> Tensor:
        weights = Weights(w_ih, w_hh, b_ih, b_hh)
        return step(input_part(input, weights), (hx,), weights)[0]

    return cell
