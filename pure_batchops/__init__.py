"""Curvature products for PyTorch as pure functions.

    nn.Module ─functional_state─▶ (params, buffers)              plain dicts of tensors
    nn.Module ─sample_losses────▶ loss(params, buffers, batch) ─▶ (n,)
    loss ─gradient, sample_gradients, gradient_norms, …─▶ gradients(params, buffers, batch)
    v, eigenvectors ─flatten, unflatten─▶ trees like params ↔ flat rows
    loss ─hessian, gauss_newton, …─▶ op(params, buffers, batch, v) ─▶ product, in the form of v
    model, criterion ─generalized_gauss_newton, monte_carlo_fisher─▶ op(params, buffers, batch, v)
    op ─averaged, resumable──▶ mean_op(params, buffers, batches, v) ─▶ product
    op ─damped, block_diagonal──▶ an op again
    op ─conjugate_gradient, lissa, nystroem, direct──▶ the op that multiplies by the inverse
    inverse, loss ─influence──▶ influences(params, buffers, train_batches, test_batch) ─▶ (n_test, n_train)
    inverse, loss ─self_influence──▶ influences(params, buffers, train_batches) ─▶ (n_train,)
    op ─averaged_with_error──▶ average(params, buffers, batches, v) ─▶ (product, standard error)
    op ─trace, diagonal, frobenius_norm──▶ estimate(params, buffers, batch) ─▶ (value, standard error)
    op ─eigenpairs──▶ pairs(params, buffers, batch) ─▶ (values, vectors, residuals)
    op ─spectral_density──▶ density(params, buffers, batch) ─▶ (grid, density, standard error)

Everything that multiplies has the signature `(params, buffers, batch, v) -> product`; everything else is a function from
functions to functions. `m(batch)` is always a mean over the samples of the batch.
"""

from importlib.metadata import PackageNotFoundError, version

from pure_batchops.averages.averaged import averaged
from pure_batchops.averages.folds import chunk_average, point_average, weighted_average
from pure_batchops.averages.resumable import resumable
from pure_batchops.averages.state import AverageState, average_merge, average_result, average_start, average_step
from pure_batchops.averages.with_error import averaged_with_error
from pure_batchops.batches import n_points
from pure_batchops.estimators.diagonal import diagonal
from pure_batchops.estimators.eigenpairs import Eigenpairs, eigenpairs
from pure_batchops.estimators.frobenius_norm import frobenius_norm
from pure_batchops.estimators.linear_operator import linear_operator
from pure_batchops.estimators.spectral_density import SpectralDensity, spectral_density
from pure_batchops.estimators.trace import trace
from pure_batchops.gradients.mean import gradient, value_and_gradient
from pure_batchops.gradients.norms import gradient_norms
from pure_batchops.gradients.sample import sample_gradients
from pure_batchops.influences.influence import influence
from pure_batchops.influences.perturbation_influence import perturbation_influence
from pure_batchops.influences.self_influence import self_influence
from pure_batchops.losses.sample_losses import sample_losses
from pure_batchops.models.forward import pure_forward
from pure_batchops.models.state import functional_state, stack_states, unstack_states
from pure_batchops.operations.block_diagonal import block_diagonal
from pure_batchops.operations.damped import damped
from pure_batchops.operations.dense import dense
from pure_batchops.operations.gauss_newton import gauss_newton
from pure_batchops.operations.generalized_gauss_newton import generalized_gauss_newton
from pure_batchops.operations.hessian import hessian
from pure_batchops.operations.inverse_harmonic_mean import inverse_harmonic_mean
from pure_batchops.operations.monte_carlo_fisher import monte_carlo_fisher
from pure_batchops.operations.operation import batch_operation
from pure_batchops.solvers.conjugate_gradient import conjugate_gradient
from pure_batchops.solvers.conjugate_gradient_solution import Solution, conjugate_gradient_solution
from pure_batchops.solvers.direct import direct
from pure_batchops.solvers.lissa import lissa
from pure_batchops.solvers.nystroem import nystroem
from pure_batchops.traits import declared
from pure_batchops.tree_functions import tree_axpy, tree_inner_product, tree_norm, tree_random
from pure_batchops.types import Estimate, Likelihood, Operation, SampleLosses
from pure_batchops.vectors import flatten, unflatten

__all__ = [  # noqa: RUF022  # in the order in which data flows
    "functional_state",
    "stack_states",
    "unstack_states",
    "flatten",
    "unflatten",
    "sample_losses",
    "declared",
    "gradient",
    "value_and_gradient",
    "sample_gradients",
    "gradient_norms",
    "hessian",
    "gauss_newton",
    "inverse_harmonic_mean",
    "generalized_gauss_newton",
    "monte_carlo_fisher",
    "Likelihood",
    "batch_operation",
    "damped",
    "block_diagonal",
    "dense",
    "weighted_average",
    "chunk_average",
    "point_average",
    "n_points",
    "averaged",
    "conjugate_gradient",
    "conjugate_gradient_solution",
    "Solution",
    "lissa",
    "nystroem",
    "direct",
    "AverageState",
    "average_start",
    "average_step",
    "average_merge",
    "average_result",
    "pure_forward",
    "resumable",
    "influence",
    "self_influence",
    "perturbation_influence",
    "averaged_with_error",
    "trace",
    "diagonal",
    "frobenius_norm",
    "eigenpairs",
    "Eigenpairs",
    "spectral_density",
    "SpectralDensity",
    "linear_operator",
    "tree_axpy",
    "tree_inner_product",
    "tree_norm",
    "tree_random",
    "Estimate",
    "Operation",
    "SampleLosses",
]

try:
    __version__ = version("pure_batchops")
except PackageNotFoundError:  # the package is imported from a folder and not installed
    __version__ = "0+unknown"
