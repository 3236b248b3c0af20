"""How many numbers the package holds at once, and the chunks that follow from it."""

from pure_batchops.tracing import compiling

HELD = 2**22
"""Gradients of samples are held while they have at most this many numbers: 16 MiB in float32."""

NUMBERS_AT_ONCE = 2**22
"""Work that is done in chunks takes as much at once as has this many numbers: 16 MiB in float32."""

NUMBERS_BY_VMAP = 2**16
"""Vectors are multiplied together by vmap while they hold at most this many numbers. Beyond it a loop is as fast."""

UNBOUNDED = 2**62
"""Where gradients must be held, however many numbers they have."""

NUMBERS_JOINED = 2**18
"""Gradients with at most this many numbers are joined in one matrix: there the number of calls matters, not the copy."""

COMPILED_CHUNKS = 16
"""The compiler unrolls chunks, so a compiled function takes at most this many of them."""


def fitting(numbers_each: int, numbers: int = NUMBERS_AT_ONCE) -> int:
    """How many things of `numbers_each` numbers fit into `numbers`, at least one."""
    return max(1, numbers // max(1, numbers_each))


def chunk_of(count: int, numbers_each: int, chunk_size: int | None = None) -> int:
    """The chunk size for `count` things: the one given, or as many as fit, and fewer, larger chunks under the compiler."""
    chunk = chunk_size or fitting(numbers_each)
    return max(chunk, -(-count // COMPILED_CHUNKS)) if compiling() else chunk


def spans(count: int, numbers_each: int, chunk_size: int | None = None) -> list[tuple[int, int]]:
    """The chunks `(first, how many)` of `count` things of `numbers_each` numbers."""
    chunk = chunk_of(count, numbers_each, chunk_size)
    return [(first, min(chunk, count - first)) for first in range(0, count, chunk)]
