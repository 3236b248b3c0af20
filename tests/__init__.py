"""The laws of pure_batchops."""
