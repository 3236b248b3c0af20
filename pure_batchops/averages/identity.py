"""What an unfinished average belongs to. An operation is known by what it does: by its product with the first batch."""

import math
from pathlib import Path
from typing import Any

from pure_batchops import fingerprints
from pure_batchops.averages.sampled import are_close, largest, rounding, sampled
from pure_batchops.averages.saved import refuse
from pure_batchops.averages.stream import Weight
from pure_batchops.types import Buffers, Params, Tree, Vector

WEIGHT_ROUNDING = 1e-9


def marks_of(params: Params, buffers: Buffers, v: Vector, name: str | None, weight: Weight | None) -> dict[str, str]:
    """The fingerprints of what an average is computed of, the name of its operation, and where its weights come from."""
    return {
        "params": fingerprints.of_tree(params),
        "buffers": fingerprints.of_tree(buffers, ordered=False),
        "v": fingerprints.of_tree(v, ordered=False),
        "operation": repr(name),
        "weights": "named" if name is not None else "seen" if weight is None else "given",
    }


def first_of(product: Tree, weight: float) -> dict[str, Any]:
    """What stands for the product with the first batch: a sample of its numbers, its rounding, and the weight."""
    return {"sample": sampled(product), "rounding": rounding(product), "weight": float(weight)}


def check_same_operation(path: Path, saved: dict[str, Any], now: dict[str, Any]) -> None:
    """The operation has the product that it had with the first batch, up to rounding."""
    atol = saved["rounding"] * largest(saved["sample"])
    if not are_close(saved["sample"], now["sample"], rtol=0.0, atol=atol):
        refuse(path, "another operation, which has another product with the first batch")


def check_same_weight(path: Path, saved: float, now: float) -> None:
    """The batches that were done have the weight that they had."""
    if not math.isclose(saved, now, rel_tol=WEIGHT_ROUNDING):
        refuse(path, f"other weights, in which the batches that were done weigh {now:g} instead of {saved:g}")
