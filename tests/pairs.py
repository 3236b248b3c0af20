"""What eigenpairs must be: those of the dense matrix at an end of its spectrum."""

import pytest
import torch
from torch.testing import assert_close

WHICH = ("largest", "smallest", "both")
every_end = pytest.mark.parametrize("which", WHICH)


def ends(ascending, k, which):
    """The end of an ascending spectrum, as eigenpairs orders it."""
    if which == "smallest":
        return ascending[:k]
    top = k if which == "largest" else -(-k // 2)
    return torch.cat([ascending.flip(0)[:top], ascending[: k - top].flip(0)])


def check(matrix, pairs, k, which, **tolerance):
    """Eigenpairs are those of the dense matrix, unit, orthogonal, and their residuals true."""
    values, vectors, residuals = pairs
    assert_close(values, ends(torch.linalg.eigvalsh(matrix), k, which), **tolerance)
    scale = torch.linalg.matrix_norm(matrix, 2) + 1e-300
    true = (vectors @ matrix.T - values[:, None] * vectors).norm(dim=1)
    assert_close(residuals / scale, true / scale, **tolerance)
    assert_close(true / scale, torch.zeros_like(true), **tolerance)
    assert_close(vectors @ vectors.T, torch.eye(k, dtype=vectors.dtype), **tolerance)
