"""What some versions of torch cannot do. Each mark has its one definition here."""

import pytest
import torch

compiles = pytest.mark.skipif(
    torch.__version__ < "2.6", reason="torch.compile traces the functions of a TorchFunctionMode from torch 2.6 on"
)
float16 = pytest.param(
    torch.float16,
    marks=pytest.mark.skipif(torch.__version__ < "2.3", reason="torch has no float16 matrix product on CPU before 2.3"),
)
TELLS = hasattr(torch._C._functorch, "get_interpreter_stack")
"""Whether torch says which transforms are active. Before that, plain autograd is never used."""
