"""The Hessian of the mean loss."""

from functools import partial

from torch import Tensor

from pure_batchops import checks, tracing
from pure_batchops.derivatives.finite_difference import finite_difference
from pure_batchops.derivatives.hessian_products import MODES, hessian_of
from pure_batchops.losses.checked import mean_loss
from pure_batchops.operations.operation import tree_operation
from pure_batchops.types import Batch, Buffers, LinearMap, Operation, Params, SampleLosses


def hessian(
    loss: SampleLosses,
    *,
    mode: str = "reverse_over_reverse",
    step: float | Tensor | None = None,
    chunk_size: int | None = None,
) -> Operation:
    """The Hessian of the mean loss, m(batch) = ∇²(1/n Σᵢ ℓᵢ): a mean over the n samples of the batch.

    Args:
        loss: `(params, buffers, batch) -> (n,)`, or a function that returns a 0-dim tensor, which is taken as it is.
        mode: `"reverse_over_reverse"`, the pullback of the gradient; `"forward_over_reverse"`, the derivative of the
            gradient along v (under torch.compile it compiles as reverse over reverse); `"reverse_over_forward"`, the
            gradient of the slope ∇ℓ·v, a slope taken by reverse mode too, as torch's forward mode is silently wrong when it is
            differentiated (layer norm, det, solve); `"finite_difference"`, (g(θ + δv̂) − g(θ − δv̂)) ‖v‖ / 2δ with g the
            gradient and v̂ = v / ‖v‖, which needs first derivatives only. It takes four gradients for each v: the product is
            computed again with δ/2. It is refused if the two differ by more than 0.08 % in double or 4 % in single precision,
            because δ crosses a kink (ReLU, max pooling), where the difference is off by the jump of the gradient over 2δ.
            Parts that the loss detaches move too: with such parts take another mode.
            Of K vectors those are NaN that would be refused alone.
        step: of a finite difference, δ / (1 + ‖θ‖): how far the params move along v, whatever the length of v. By default
            1.5e-8 in double precision, for products exact to about 1e-8, and 0.005 in single, exact to about 1e-4. There,
            networks with kinks need double precision.
        chunk_size: how many vectors are multiplied at once, see `batch_operation`.

    Returns:
        `op(params, buffers, batch, v) -> product`, linear and symmetric.

    Raises:
        TypeError: if loss is no function, step no number, or chunk_size no whole number.
        ValueError: if mode is none of the four, step or chunk_size is not positive, or step is given to another mode. The
            operation raises it for a v or a batch that does not fit, for a step that rounding drowns, and for a finite
            difference that depends on its step.

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
    step = None if step is None else checks.positive("step", step)
    if step is not None and mode != "finite_difference":
        msg = f"step must be None for mode={mode!r}, got {step!r}; only mode='finite_difference' takes a step"
        raise ValueError(msg)
    mean, differences = mean_loss(loss), partial(finite_difference, step=step)

    def at(params: Params, buffers: Buffers, batch: Batch) -> LinearMap:
        # Forward mode's zero tensors have no storage: inductor's code for them reads from nowhere and dies.
        way = hessian_of if mode == "forward_over_reverse" and tracing.compiling() else MODES[mode]
        way = differences if mode == "finite_difference" else way
        return way(partial(mean, buffers=buffers, batch=batch), params)

    return tree_operation(at, chunk_size)
