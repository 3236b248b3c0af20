"""Matrices that are known: an operation that is any matrix, spectra, and the members of an ensemble."""

import pytest
import torch

import pure_batchops as pb

SPECTRA = {
    "apart": torch.linspace(-1, 2, 30, dtype=torch.float64),
    "identity": torch.ones(30, dtype=torch.float64),
    "zero": torch.zeros(30, dtype=torch.float64),
    "repeated": torch.tensor([3.0] * 4 + [1.0] * 20 + [-2.0] * 6, dtype=torch.float64),
    "low rank": torch.tensor([5.0, 4.0, 4.0] + [0.0] * 27, dtype=torch.float64),
    "wide": 10 ** -torch.arange(30.0, dtype=torch.float64),
    "one": torch.tensor([-3.0], dtype=torch.float64),
    "two": torch.tensor([1.0, 1.0], dtype=torch.float64),
}
every_spectrum = pytest.mark.parametrize("spectrum", SPECTRA.values(), ids=SPECTRA)


def at_mean(params, buffers, batch):
    matrix = batch.mean(0)
    return lambda v: {"w": (matrix @ v["w"].to(batch.dtype)).to(v["w"].dtype)}


multiplication = pb.batch_operation(at_mean)


def at_matrix(matrix, dtype=torch.float64):
    """Params, buffers and batch at which `multiplication` is this matrix."""
    return {"w": torch.zeros(len(matrix), dtype=dtype)}, {}, matrix[None]


def symmetric(spectrum, seed=0):
    """A matrix with these eigenvalues and random eigenvectors."""
    generator = torch.Generator().manual_seed(seed)
    size = len(spectrum)
    vectors = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64)).Q
    return vectors * torch.as_tensor(spectrum, dtype=torch.float64) @ vectors.T


def log_cosh(params, buffers, batch):
    """A loss that is quick to compile, also where the compiler unrolls many products."""
    return (batch @ params).cosh().log()


def point_of_log_cosh():
    """Params, buffers and batch."""
    return torch.randn(6, dtype=torch.float64), {}, torch.randn(4, 6, dtype=torch.float64)


def members_of(p, count=3):
    """The states of an ensemble around a problem."""
    return [({k: (1 + 0.2 * i) * leaf for k, leaf in p.params.items()}, p.buffers) for i in range(count)]
