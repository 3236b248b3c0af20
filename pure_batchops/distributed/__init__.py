"""Averages and products over several processes, on torch.distributed. Import it with `import pure_batchops.distributed`.

    op ─distributed.averaged──────────▶ mean_op(params, buffers, batches, v) ─▶ product      each rank its own batches
    op ─distributed.resumable─────────▶ the same, each rank with a state in a file
    op ─distributed.sharded_vectors───▶ an op, each rank some of the K vectors

All ranks call them together, with the same params, buffers and v, and all get the same product.
"""

from pure_batchops.distributed.averages import averaged, resumable
from pure_batchops.distributed.vectors import sharded_vectors

__all__ = ["averaged", "resumable", "sharded_vectors"]
