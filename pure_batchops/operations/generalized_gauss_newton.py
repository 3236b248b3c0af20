"""The generalized Gauss-Newton matrix, and the form Jᵀ C J that it has in common with the Fisher."""

from collections.abc import Callable
from functools import partial

from torch import Tensor, nn

from pure_batchops import checks
from pure_batchops.batches import length, pair
from pure_batchops.derivatives.hessian_products import hessian_of
from pure_batchops.derivatives.jacobian import jacobian, product_along
from pure_batchops.kernels.mode import plain_calls
from pure_batchops.losses.criterion import output_losses
from pure_batchops.losses.curvature import closed_curvature
from pure_batchops.losses.evaluated import evaluated
from pure_batchops.losses.outputs import checked_outputs
from pure_batchops.models.forward import pure_forward
from pure_batchops.operations.multiplication import Multiplication, OnTrees
from pure_batchops.operations.operation import operation_of
from pure_batchops.points import saw_points
from pure_batchops.types import Batch, Buffers, Criterion, Forward, LinearMap, Operation, Params, Tree


def generalized_gauss_newton(
    model: nn.Module | Forward, criterion: Criterion, *, batch_dim: int = 0, chunk_size: int | None = None
) -> Operation:
    """The generalized Gauss-Newton matrix, m(batch) = 1/n Σᵢ Jᵢᵀ (∇²criterion)ᵢ Jᵢ, a mean over the n samples.

    Jᵢ is the Jacobian of the model's output for sample i. ∇²criterion is the Hessian of the criterion with respect to that
    output. The matrix is the Hessian of the mean loss without the curvature of the model. It is the Fisher if the criterion
    is the negative log-likelihood of an exponential family in its natural parameters, such as cross entropy of logits.

    A single product computes J v in the forward pass, by forward mode, and verifies it by the pass of reverse mode that gives
    the product. Where forward mode has a gap or is wrong, reverse mode serves. `at` records J instead, for many. The curvature
    of cross entropy, squares and the logistic loss has a closed form; any other criterion is differentiated twice.

    Args:
        model: as for `sample_losses`.
        criterion: as for `sample_losses`.
        batch_dim: the axis of the samples in inputs, outputs and targets.
        chunk_size: how many vectors are multiplied at once, see `batch_operation`.

    Returns:
        `op(params, buffers, batch, v) -> product`, linear, symmetric; positive semi-definite if the criterion is convex
        in the output.

    Raises:
        TypeError: if model is neither a module nor a function, or criterion is no function.
        ValueError: as for `sample_losses`. The operation raises it for a v or a batch that does not fit.

    Examples:
        The Hessian of the criterion (output − y)² is 2, so m is the mean of 2 xᵢ²:

        >>> import torch
        >>> def line(params, buffers, x):
        ...     return params["w"] * x
        >>> op = generalized_gauss_newton(line, torch.nn.MSELoss())
        >>> op({"w": torch.tensor(3.0)}, {}, (torch.tensor([1.0, 2.0]), torch.zeros(2)), torch.tensor([1.0]))
        tensor([5.])

    References:
        Schraudolph (2002), Fast Curvature Matrix-Vector Products for Second-Order Gradient Descent.
        Martens (2020), New Insights and Perspectives on the Natural Gradient Method.
    """
    axis = checks.axis("batch_dim", batch_dim)
    criteria, closed = output_losses(criterion, axis), closed_curvature(criterion, axis)

    def mean(outputs: Tree, targets: Tree) -> Tensor:
        with plain_calls(outputs, targets):
            return criteria(outputs, targets).mean()

    def curvature(outputs: Tree, targets: Tree) -> LinearMap:
        # Samples are apart: the Hessian has one block for each.
        return closed(outputs, targets) or hessian_of(partial(mean, targets=targets), outputs)

    return curvature_of_outputs(model, curvature, batch_dim=axis, chunk_size=chunk_size)


def curvature_of_outputs(
    model: nn.Module | Forward,
    curvature: Callable[[Tree, Tree], LinearMap],
    *,
    batch_dim: int,
    chunk_size: int | None,
) -> Operation:
    """m(batch) = Jᵀ C J, J the Jacobian of all outputs, `curvature(outputs, targets)` the map u ↦ C u with the factor 1/n."""
    forward = pure_forward(model)

    def predicted(params: Params, *, buffers: Buffers, inputs: Tree) -> Tree:
        return checked_outputs(evaluated(forward, params, buffers, inputs), batch_dim)

    def curved(inputs: Tree, targets: Tree, outputs: Tree) -> LinearMap:
        n = length("the model's outputs and inputs", (outputs, inputs), batch_dim)
        saw_points(n, (inputs, targets))
        return curvature(outputs, targets)

    def multiplication(params: Params, buffers: Buffers, batch: Batch) -> Multiplication:
        inputs, targets = pair(batch, batch_dim)
        outputs, push, pull = jacobian(partial(predicted, buffers=buffers, inputs=inputs), params)
        curve = curved(inputs, targets, outputs)

        def product(v: Tree) -> Tree:
            return pull(curve(push(v)))  # v → Jv → CJv → JᵀCJv

        return OnTrees(product)

    def single_product(params: Params, buffers: Buffers, batch: Batch, v: Tree) -> Tree | None:
        inputs, targets = pair(batch, batch_dim)
        return product_along(partial(predicted, buffers=buffers, inputs=inputs), params, v, partial(curved, inputs, targets))

    return operation_of(multiplication, chunk_size, single_product)
