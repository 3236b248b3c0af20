"""The main job, `python -m pure_batchops`."""
