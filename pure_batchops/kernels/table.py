"""Which function of torch is replaced by which.

The keys are the functions as a TorchFunctionMode sees them: of a function written in Python, itself; of one written in C++,
the builtin, under whatever name it is called. Each replacement has the signature of its key, and calls it where arguments
are not covered.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  # its usual name

from pure_batchops import torch_privates
from pure_batchops.kernels import activations, attention, cells, distances, linear_algebra, losses, margins, norms, packed
from pure_batchops.kernels.dropout import DROPOUTS
from pure_batchops.kernels.embedding import embedding
from pure_batchops.kernels.embedding_bag import embedding_bag
from pure_batchops.kernels.recurrent import recurrent
from pure_batchops.kernels.weight_norm import weight_norm

PLAIN: dict[Any, Callable[..., Any]] = {
    F.layer_norm: norms.layer_norm,
    torch.layer_norm: norms.layer_norm,
    torch.native_layer_norm: norms.native_layer_norm,
    **dict.fromkeys((torch.ops.aten.layer_norm, torch.ops.aten.layer_norm.default), norms.layer_norm),
    **dict.fromkeys((torch.ops.aten.native_layer_norm, torch.ops.aten.native_layer_norm.default), norms.native_layer_norm),
    F.batch_norm: norms.batch_norm,
    torch.batch_norm: norms.torch_batch_norm,
    F.instance_norm: norms.instance_norm,
    torch.instance_norm: norms.torch_instance_norm,
    torch_privates.weight_norm: weight_norm,
    torch.lstm: recurrent(torch.lstm, cells.lstm_step),
    torch.gru: recurrent(torch.gru, cells.gru_step),
    torch.rnn_tanh: recurrent(torch.rnn_tanh, cells.tanh_step),
    torch.rnn_relu: recurrent(torch.rnn_relu, cells.relu_step),
    torch.lstm_cell: cells.lstm_cell,
    torch.gru_cell: cells.plain_cell(cells.gru_step),
    torch.rnn_tanh_cell: cells.plain_cell(cells.tanh_step),
    torch.rnn_relu_cell: cells.plain_cell(cells.relu_step),
    torch_privates.pack_padded_sequence: packed.pack_padded_sequence,
    torch_privates.pad_packed_sequence: packed.pad_packed_sequence,
    F.scaled_dot_product_attention: attention.scaled_dot_product_attention,
    F.multi_head_attention_forward: torch_privates.attention_with(attention.scaled_dot_product_attention),
    Tensor.unflatten: torch.unflatten,  # the compiler of torch 2.13 cannot trace the method inside a mode
    **DROPOUTS,
    F.hardsigmoid: activations.hardsigmoid,
    torch.prelu: activations.prelu,  # F.prelu is the same object
    torch.Tensor.prelu: activations.prelu,
    F.glu: activations.glu,
    F.rrelu: activations.rrelu,
    torch.cdist: distances.cdist,
    torch.pdist: distances.pdist,  # F.pdist is the same object
    F.embedding: embedding,
    F.embedding_bag: embedding_bag,
    F.mse_loss: losses.mse_loss,
    F.huber_loss: losses.huber_loss,
    F.smooth_l1_loss: losses.smooth_l1_loss,
    F.gaussian_nll_loss: losses.gaussian_nll_loss,
    F.hinge_embedding_loss: margins.hinge_embedding_loss,
    F.multi_margin_loss: margins.multi_margin_loss,
    F.multilabel_margin_loss: margins.multilabel_margin_loss,
    torch.linalg.solve: linear_algebra.solve,
    torch.linalg.lu_solve: linear_algebra.lu_solve,
    **dict.fromkeys((torch.lu_solve, torch.Tensor.lu_solve), linear_algebra.torch_lu_solve),
    **dict.fromkeys((torch.linalg.slogdet, torch.slogdet, torch.Tensor.slogdet), linear_algebra.slogdet),
    **dict.fromkeys((torch.logdet, torch.Tensor.logdet), linear_algebra.logdet),
    **dict.fromkeys((torch.linalg.det, torch.det, torch.Tensor.det), linear_algebra.det),
    **dict.fromkeys((torch.cholesky_inverse, torch.Tensor.cholesky_inverse), linear_algebra.cholesky_inverse),
    **dict.fromkeys((torch.cholesky_solve, torch.Tensor.cholesky_solve), linear_algebra.cholesky_solve),
    torch.linalg.householder_product: linear_algebra.householder_product,
}

torch_privates.show_to_compiled_modes(PLAIN)
