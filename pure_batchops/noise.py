"""Noise as a pure function of a seed and a place.

torch's generators have state: under vmap they are refused, and torch.compile cannot trace them.
"""

import math
from typing import Any

import torch
from torch import Tensor

_WORD = 2**32 - 1


def uniform(seed: int, shape: tuple[int, ...], like: Tensor, *, start: int = 0) -> Tensor:
    """Independent uniform numbers in (0, 1), on the device of `like`: the hashes of seed and place, in a row from `start`.

    No intermediate number leaves the range of int64, whose overflow compilers do not agree upon.

    Returns:
        A float64 tensor of that shape.

    References:
        Wellons (2018), Prospecting for Hash Functions.
    """
    places = torch.arange(start, start + math.prod(shape), dtype=torch.int64, device=like.device)
    high, low = (_hashed(places, seed + (word << 62)) for word in (1, 2))
    return ((high * 2**20 + (low >> 12)).double() / 2**52 + 2**-53).reshape(shape)


def normal(seed: int, shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Independent standard normal numbers, in the dtype of `like` or, if that is less, single precision."""
    numbers = torch.erfinv(2 * uniform(seed, shape, like) - 1) * math.sqrt(2)
    return numbers.to(torch.promote_types(like.dtype, torch.float32))


def signs(seed: int, rows: int, size: int, like: Tensor, *, start: int = 0) -> Tensor:
    """Independent signs, ±1 each with probability ½, of the dtype and device of `like`: bits of the hashes of seed and place.

    Returns:
        Rows `start`, `start + 1`, … of a table without end, `(rows, size)`.
    """
    words = -(-size // 32)
    places = torch.arange(start * words, (start + rows) * words, dtype=torch.int64, device=like.device)
    spelled = 1 - 2 * (torch.arange(256, device=like.device)[:, None] >> torch.arange(8, device=like.device) & 1)
    letters = _hashed(places, seed + (3 << 62))[:, None] >> torch.arange(0, 32, 8, device=like.device) & 255
    # Eight signs for each byte from a table: bit by bit would cost as much as a product.
    return spelled.to(like.dtype).index_select(0, letters.reshape(-1)).reshape(rows, 32 * words)[:, :size]


def _hashed(places: Tensor, key: int) -> Tensor:
    """32 bits for each place: the key goes in between two mixings, so that no stream is another's shifted."""
    first, second = _mixed(_mixed(key & _WORD) ^ (key >> 32) & _WORD), _mixed(_mixed(key >> 32 & _WORD) ^ key >> 64)
    return _mixed(_mixed(places & _WORD ^ first) ^ (places >> 32) ^ second)


def _mixed(word: Any) -> Any:
    """A bijection of 32-bit words of which each bit depends on all bits."""
    word = (word ^ word >> 16) * 0x21F0AAAD & _WORD
    word = (word ^ word >> 15) * 0x735A2D97 & _WORD
    return word ^ word >> 15
