"""Which function of torch is replaced by which.

The keys are the functions as a TorchFunctionMode sees them: of a function written in Python, itself; of one written in C++,
the builtin, under whatever name it is called. Each replacement has the signature of its key, and calls it where arguments
are not covered.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F  # noqa: N812  # its usual name

from pure_batchops import torch_privates
from pure_batchops.kernels import activations, attention, cells, norms, weight_norm
from pure_batchops.kernels.recurrent import recurrent

PLAIN: dict[Any, Callable[..., Any]] = {
    F.layer_norm: norms.layer_norm,
    torch.layer_norm: norms.layer_norm,
    torch.native_layer_norm: norms.native_layer_norm,
    F.batch_norm: norms.batch_norm,
    torch.batch_norm: norms.torch_batch_norm,
    F.instance_norm: norms.instance_norm,
    torch.instance_norm: norms.torch_instance_norm,
    torch_privates.weight_norm: weight_norm.weight_norm,
    torch.lstm: recurrent(torch.lstm, cells.lstm_step),
    torch.gru: recurrent(torch.gru, cells.gru_step),
    torch.rnn_tanh: recurrent(torch.rnn_tanh, cells.tanh_step),
    torch.rnn_relu: recurrent(torch.rnn_relu, cells.relu_step),
    torch.lstm_cell: cells.lstm_cell,
    torch.gru_cell: cells.plain_cell(cells.gru_step),
    torch.rnn_tanh_cell: cells.plain_cell(cells.tanh_step),
    torch.rnn_relu_cell: cells.plain_cell(cells.relu_step),
    F.scaled_dot_product_attention: attention.scaled_dot_product_attention,
    F.hardsigmoid: activations.hardsigmoid,
}
