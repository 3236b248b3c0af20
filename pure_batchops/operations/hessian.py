"""The Hessian of the mean loss."""

from functools import partial

from pure_batchops import checks, tracing
from pure_batchops.derivatives.hessian_products import MODES, hessian_of
from pure_batchops.losses.checked import mean_loss
from pure_batchops.operations.operation import tree_operation
from pure_batchops.types import Batch, Buffers, LinearMap, Operation, Params, SampleLosses


def hessian(loss: SampleLosses, *, mode: str = "reverse_over_reverse", chunk_size: int | None = None) -> Operation:
    """The Hessian of the mean loss, m(batch) = ∇²(1/n Σᵢ ℓᵢ): a mean over the n samples of the batch.

    Args:
        loss: `(params, buffers, batch) -> (n,)`, or a function that returns a 0-dim tensor, which is taken as it is.
        mode: `"reverse_over_reverse"`, the pullback of the gradient; `"forward_over_reverse"`, the derivative of the
            gradient along v (under torch.compile it compiles as reverse over reverse); `"reverse_over_forward"`, the
            gradient of the slope ∇ℓ·v, a slope taken by reverse mode too, as torch's forward mode is silently wrong when it is
            differentiated (layer norm, det, solve); `"finite_difference"`, (g(θ + εv) − g(θ − εv)) / 2ε with g the gradient
            and ε = ∛(machine epsilon) · (1 + ‖θ‖) / ‖v‖, which needs first derivatives only and is exact to about ε².
        chunk_size: how many vectors are multiplied at once, see `batch_operation`.

    Returns:
        `op(params, buffers, batch, v) -> product`, linear and symmetric.

    Raises:
        TypeError: if loss is no function, or chunk_size no whole number.
        ValueError: if mode is none of the four, or chunk_size not positive. The operation raises it for a v or a batch that
            does not fit.

    Examples:
        The Hessian of ½ mean(xᵢ²) w² is mean(xᵢ²):

        >>> import torch
        >>> loss = lambda params, buffers, x: 0.5 * (params["w"] * x) ** 2
        >>> hessian(loss)({"w": torch.tensor(3.0)}, {}, torch.tensor([1.0, 2.0]), torch.tensor([1.0]))
        tensor([2.5000])

    References:
        Pearlmutter (1994), Fast Exact Multiplication by the Hessian.
    """
    checks.loss(loss)
    checks.option("mode", mode, tuple(MODES))
    mean = mean_loss(loss)

    def at(params: Params, buffers: Buffers, batch: Batch) -> LinearMap:
        # Forward mode's zero tensors have no storage: inductor's code for them reads from nowhere and dies.
        way = hessian_of if mode == "forward_over_reverse" and tracing.compiling() else MODES[mode]
        return way(partial(mean, buffers=buffers, batch=batch), params)

    return tree_operation(at, chunk_size)
