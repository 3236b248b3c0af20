"""The setting under which contestants find second derivatives of models with attention. We need none."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def plain_attention() -> Generator[None, None, None]:
    """A context in which attention uses plain matrix products: the fused kernels have no second derivative."""
    attention: Any = getattr(torch.nn, "attention", None)  # torch 2.3
    if attention:
        plain = attention.sdpa_kernel(attention.SDPBackend.MATH)
    else:
        plain = torch.backends.cuda.sdp_kernel(enable_flash=False, enable_mem_efficient=False)
    fast_path = getattr(torch.backends, "mha", None)
    switch = getattr(fast_path, "set_fastpath_enabled", lambda value: None)  # noqa: ARG005
    before = getattr(fast_path, "get_fastpath_enabled", lambda: True)()
    switch(value=False)
    try:
        with plain:
            yield
    finally:
        switch(value=before)
