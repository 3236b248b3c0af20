"""The mean of the outer products of the gradients: pyDVL's Gauss-Newton matrix, the field's empirical Fisher."""

from functools import partial

from pure_batchops import checks
from pure_batchops.losses import each_loss
from pure_batchops.operations.batch_operation import batch_operation
from pure_batchops.operations.jacobian import jacobian
from pure_batchops.types import Batch, Buffers, LinearMap, Operation, Params, SampleLosses, Tree


def gauss_newton(loss: SampleLosses, *, chunk_size: int | None = None) -> Operation:
    """The mean of gradient outer products, m(batch) = 1/n Σᵢ ∇ℓᵢ ∇ℓᵢᵀ = JᵀJ/n, J the Jacobian of the n losses.

    The name is pyDVL's; the field calls this matrix the empirical Fisher. `generalized_gauss_newton` is the matrix
    that textbooks call Gauss-Newton. Gradients of single samples are never held: J v and Jᵀu are one pass each.

    Args:
        loss: `(params, buffers, batch) -> (n,)`.
        chunk_size: how many vectors are multiplied at once, see `batch_operation`.

    Returns:
        `op(params, buffers, batch, v) -> product`, linear, symmetric, positive semi-definite, of rank ≤ n.

    Raises:
        TypeError: if loss is no function.
        ValueError: if chunk_size is not positive. The operation raises it for a loss that returns no `(n,)`, and for a v
            or a batch that does not fit.

    Examples:
        Of ℓᵢ = xᵢ w the gradients are xᵢ:

        >>> import torch
        >>> loss = lambda params, buffers, x: params["w"] * x
        >>> gauss_newton(loss)({"w": torch.tensor(3.0)}, {}, torch.tensor([1.0, 2.0]), torch.tensor([1.0]))
        tensor([2.5000])
    """
    checks.function("loss", loss)
    losses = each_loss(loss)

    def at(params: Params, buffers: Buffers, batch: Batch) -> LinearMap:
        values, push, pull = jacobian(partial(losses, buffers=buffers, batch=batch), params)

        def product(v: Tree) -> Tree:
            return pull(push(v) / len(values))  # v → Jv → JᵀJv / n

        return product

    return batch_operation(at, chunk_size=chunk_size)
