"""The inverse at one point."""

from collections.abc import Iterable

from pure_batchops.operations.derived import at_point
from pure_batchops.rows import RowFunction, width
from pure_batchops.types import Batch, Buffers, Operation, Params


def inverse_at(inverse: Operation, params: Params, buffers: Buffers, batches: Iterable[Batch]) -> RowFunction:
    """The inverse at one point, as a function of rows.

    Returns:
        `(K, D) -> (K, D)`, v ↦ M⁻¹ v for each row v.

    Raises:
        ValueError: if params have several dtypes or devices.
    """
    width(params)  # refuses params of several dtypes or devices
    return at_point(inverse, params, buffers, batches)
