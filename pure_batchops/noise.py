"""Noise as a pure function of a seed and a place.

torch's generators have state: torch.vmap refuses them, and torch.compile cannot trace them. A seed is a whole number of at
least zero, or a 0-dim int64 tensor of one, so that torch.vmap can give each member of an ensemble noise of its own.
"""

import math
from typing import Any

import torch
from torch import Tensor

_WORD = 2**32 - 1


def uniform(seed: int | Tensor, shape: tuple[int, ...], like: Tensor, *, start: int = 0) -> Tensor:
    """Independent uniform numbers in (0, 1), on the device of `like`: the hashes of the seed and the places from `start` on.

    No intermediate number leaves the range of int64, because compilers disagree about overflow.

    Returns:
        A float64 tensor of that shape.

    References:
        Wellons (2018), Prospecting for Hash Functions.
    """
    places = torch.arange(start, start + math.prod(shape), dtype=torch.int64, device=like.device)
    high, low = (_hashed(places, seed, stream) for stream in (1, 2))
    return ((high * 2**20 + (low >> 12)).double() / 2**52 + 2**-53).reshape(shape)


def normal(seed: int | Tensor, shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Independent standard normal numbers, in the dtype of `like` or, if that is less, single precision."""
    numbers = torch.erfinv(2 * uniform(seed, shape, like) - 1) * math.sqrt(2)
    return numbers.to(torch.promote_types(like.dtype, torch.float32))


def signs(seed: int | Tensor, rows: int, size: int, like: Tensor, *, start: int = 0) -> Tensor:
    """Independent signs, ±1 each with probability ½, of the dtype and device of `like`: bits of the hashes of seed and place.

    Returns:
        Rows `start`, `start + 1`, … of a table without end, `(rows, size)`.
    """
    words = -(-size // 32)
    places = torch.arange(start * words, (start + rows) * words, dtype=torch.int64, device=like.device)
    signs_of_byte = 1 - 2 * (torch.arange(256, device=like.device)[:, None] >> torch.arange(8, device=like.device) & 1)
    bytes_of_word = _hashed(places, seed, 3)[:, None] >> torch.arange(0, 32, 8, device=like.device) & 255
    # The table gives eight signs for each byte. Bit by bit would cost as much as a product.
    return signs_of_byte.to(like.dtype).index_select(0, bytes_of_word.reshape(-1)).reshape(rows, 32 * words)[:, :size]


def _hashed(places: Tensor, seed: int | Tensor, stream: int) -> Tensor:
    """32 bits for each place. The key goes in between two mixings, so that no stream is a shifted copy of another one."""
    low, rest = seed & _WORD, (seed >> 32) + (stream << 30)  # the words of the key seed + stream · 2⁶²
    first, second = _mixed(_mixed(low) ^ rest & _WORD), _mixed(_mixed(rest & _WORD) ^ rest >> 32)
    return _mixed(_mixed(places & _WORD ^ first) ^ (places >> 32) ^ second)


def _mixed(word: Any) -> Any:
    """A bijection of 32-bit words. Each bit of the result depends on all bits of the word."""
    word = (word ^ word >> 16) * 0x21F0AAAD & _WORD
    word = (word ^ word >> 15) * 0x735A2D97 & _WORD
    return word ^ word >> 15
