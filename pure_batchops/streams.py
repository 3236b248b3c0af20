"""Streams of batches that are read more than once."""

from collections.abc import Iterable, Iterator

from torch.utils.data import RandomSampler

from pure_batchops.types import Batch


def reiterable(name: str, batches: Iterable[Batch]) -> Iterable[Batch]:
    """The batches, if they can be read more than once.

    Returns:
        The batches.

    Raises:
        ValueError: if they are an iterator.
    """
    if isinstance(batches, Iterator):
        msg = f"{name} must be iterable again, as a list or a DataLoader is, got a {type(batches).__name__}"
        raise ValueError(msg)
    return batches


def in_one_order(name: str, batches: Iterable[Batch]) -> Iterable[Batch]:
    """The batches, if they can be read more than once, and come in the same order each time.

    Returns:
        The batches.

    Raises:
        ValueError: if they are an iterator, or a DataLoader that shuffles.
    """
    if isinstance(getattr(batches, "sampler", None), RandomSampler):
        msg = (
            f"{name} must come in one order each time that they are read, got a DataLoader that shuffles; make it "
            "with shuffle=False"
        )
        raise ValueError(msg)
    return reiterable(name, batches)
