"""The mean of the outer products of gradients: the empirical Fisher, which pyDVL calls Gauss-Newton."""

from functools import partial

from pure_batchops import checks
from pure_batchops.budget import HELD
from pure_batchops.gradients.routes import gradients_of_samples
from pure_batchops.operations.multiplication import Multiplication, OnRows, OnTrees
from pure_batchops.operations.operation import operation_of
from pure_batchops.points import saw_points
from pure_batchops.types import Batch, Buffers, LinearMap, Operation, Params, SampleLosses, Tree


def gauss_newton(loss: SampleLosses, *, held: int = HELD, chunk_size: int | None = None) -> Operation:
    """The empirical Fisher, the mean of gradient outer products, m(batch) = 1/n Σᵢ ∇ℓᵢ ∇ℓᵢᵀ = JᵀJ/n.

    J is the Jacobian of the n losses. The name is pyDVL's; the field calls this matrix the empirical Fisher. Textbooks mean
    another matrix by Gauss-Newton: `generalized_gauss_newton`. J is held while it has at most `held` numbers. A larger J is
    kept by layer, as inputs of layers and gradients at their outputs, or it is never formed.

    Args:
        loss: `(params, buffers, batch) -> (n,)`.
        held: the most numbers of gradients of samples to hold: all n × D of them, or those outside of known layers. With 0
            the product comes from the losses of the whole batch. A loss that mixes samples needs this under vmap and
            torch.compile; otherwise its product there is NaN. The product does not depend on it.
        chunk_size: how many vectors are multiplied at once, see `batch_operation`. By default they have at most 2²² numbers
            if gradients are held or kept by layer, and 2¹⁶ otherwise.

    Returns:
        `op(params, buffers, batch, v) -> product`, linear, symmetric, positive semi-definite, of rank ≤ n.

    Raises:
        TypeError: if loss is no function, or held or chunk_size no whole number.
        ValueError: if held is negative or chunk_size not positive. The operation raises it for a loss that returns no
            `(n,)`, and for a v or a batch that does not fit.

    Examples:
        The gradient of ℓᵢ = xᵢ w is xᵢ:

        >>> import torch
        >>> loss = lambda params, buffers, x: params["w"] * x
        >>> gauss_newton(loss)({"w": torch.tensor(3.0)}, {}, torch.tensor([1.0, 2.0]), torch.tensor([1.0]))
        tensor([2.5000])
    """
    checks.loss(loss)
    held = checks.whole("held", held, least=0)

    def multiplication(params: Params, buffers: Buffers, batch: Batch) -> Multiplication:
        losses, push, pull, _, _, on_rows, _, numbers_at_once = gradients_of_samples(loss, params, buffers, batch, held)
        saw_points(len(losses), batch)
        if on_rows is not None:
            return OnRows(partial(_product, *on_rows, len(losses)), numbers_at_once)
        return OnTrees(partial(_product, push, pull, len(losses)), numbers_at_once)

    return operation_of(multiplication, chunk_size)


def _product(push: LinearMap, pull: LinearMap, n: int, v: Tree) -> Tree:
    return pull(push(v) / n)  # v → Jv → JᵀJv / n
