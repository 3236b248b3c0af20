"""One torch thread in each process, one seed, and the profiles of hypothesis: in CI it draws the same examples each time.

Plain `pytest` starts a process on each core. `pytest -n 0 tests/test_trees.py` runs in one, which suits a single file.
"""

import gc
import os

os.environ["OMP_NUM_THREADS"] = "1"  # for the processes that tests start; set before torch reads it

import pytest
import torch
from hypothesis import HealthCheck, settings

torch.set_num_threads(1)

SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large]
settings.register_profile("dev", max_examples=10, deadline=None, suppress_health_check=SLOW)
settings.register_profile("ci", settings.get_profile("dev"), derandomize=True, print_blob=True)
settings.register_profile("intense", settings.get_profile("dev"), max_examples=200)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "dev"))


def pytest_collection_finish():
    """What is imported by now stays: the collections of garbage that laws ask for need not look at it again and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)
