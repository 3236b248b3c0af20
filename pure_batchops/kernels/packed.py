"""Packed sequences in plain operations. torch's own read the memory of their sizes, which transforms of torch.func hide."""

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  # its usual name

from pure_batchops import torch_privates


def pack_padded_sequence(input: Tensor, lengths: Tensor, batch_first: bool) -> tuple[Tensor, Tensor]:
    """What `torch.nn.utils.rnn.pack_padded_sequence` calls: the entries of all steps, and how many each step has."""
    counts = [int(length) for length in lengths]
    x = input.transpose(0, 1) if batch_first else input
    if counts != sorted(counts, reverse=True) or len(counts) != x.shape[1] or not 0 < counts[-1] <= counts[0] <= len(x):
        return torch_privates.pack_padded_sequence(input, lengths, batch_first)
    sizes = [sum(count > step for count in counts) for step in range(counts[0])]
    data = torch.cat([entries[:size] for entries, size in zip(x[: len(sizes)], sizes, strict=True)])
    return data, torch.tensor(sizes)


def pad_packed_sequence(
    data: Tensor, batch_sizes: Tensor, batch_first: bool, padding_value: float, total_length: int
) -> tuple[Tensor, Tensor]:
    """What `torch.nn.utils.rnn.pad_packed_sequence` calls: the entries as one tensor, and the length of each sequence."""
    sizes = [int(size) for size in batch_sizes]
    after = (0, 0) * (data.dim() - 1)
    steps = [F.pad(step, (*after, 0, sizes[0] - len(step)), value=padding_value) for step in data.split(sizes)]
    steps += [torch.full_like(steps[0], padding_value)] * (total_length - len(sizes))
    lengths = [sum(size > sequence for size in sizes) for sequence in range(sizes[0])]
    return torch.stack(steps, 1 if batch_first else 0), torch.tensor(lengths)
