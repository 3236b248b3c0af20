"""The mean of the outer products of the gradients: pyDVL's Gauss-Newton matrix, the field's empirical Fisher."""

from functools import partial

from pure_batchops import checks
from pure_batchops.budget import HELD
from pure_batchops.gradients.routes import gradients_of_samples
from pure_batchops.operations.multiplication import Multiplication, OnRows, OnTrees
from pure_batchops.operations.operation import operation_of
from pure_batchops.points import saw_points
from pure_batchops.types import Batch, Buffers, LinearMap, Operation, Params, SampleLosses, Tree


def gauss_newton(loss: SampleLosses, *, held: int = HELD, chunk_size: int | None = None) -> Operation:
    """The mean of gradient outer products, m(batch) = 1/n Σᵢ ∇ℓᵢ ∇ℓᵢᵀ = JᵀJ/n, J the Jacobian of the n losses.

    The name is pyDVL's; the field calls this matrix the empirical Fisher. `generalized_gauss_newton` is the matrix
    that textbooks call Gauss-Newton. J is held while it has at most `held` numbers; a larger one is kept layer by layer, as
    inputs and gradients of outputs, or never formed.

    Args:
        loss: `(params, buffers, batch) -> (n,)`.
        held: the most numbers of gradients of samples to hold, n × D or those outside of known layers; 0 to take products
            from the losses of the whole batch alone, which a loss that mixes samples needs under vmap and torch.compile
            (there its product is NaN otherwise). The product does not depend on it.
        chunk_size: how many vectors are multiplied at once, see `batch_operation`. By default as many as hold 2²² numbers
            where gradients are held or kept layer by layer, else 2¹⁶.

    Returns:
        `op(params, buffers, batch, v) -> product`, linear, symmetric, positive semi-definite, of rank ≤ n.

    Raises:
        TypeError: if loss is no function, or held or chunk_size no whole number.
        ValueError: if held is negative or chunk_size not positive. The operation raises it for a loss that returns no
            `(n,)`, and for a v or a batch that does not fit.

    Examples:
        Of ℓᵢ = xᵢ w the gradients are xᵢ:

        >>> import torch
        >>> loss = lambda params, buffers, x: params["w"] * x
        >>> gauss_newton(loss)({"w": torch.tensor(3.0)}, {}, torch.tensor([1.0, 2.0]), torch.tensor([1.0]))
        tensor([2.5000])
    """
    checks.loss(loss)
    held = checks.whole("held", held, least=0)

    def multiplication(params: Params, buffers: Buffers, batch: Batch) -> Multiplication:
        losses, push, pull, _, _, on_rows, _, numbers_at_once = gradients_of_samples(loss, params, buffers, batch, held)
        saw_points(len(losses))
        if on_rows is not None:
            return OnRows(partial(_product, *on_rows, len(losses)), numbers_at_once)
        return OnTrees(partial(_product, push, pull, len(losses)), numbers_at_once)

    return operation_of(multiplication, chunk_size)


def _product(push: LinearMap, pull: LinearMap, n: int, v: Tree) -> Tree:
    return pull(push(v) / n)  # v → Jv → JᵀJv / n
