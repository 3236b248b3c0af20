"""The Hessian of the mean loss."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.func import grad, jacrev, jvp, vjp

from pure_batchops import checks
from pure_batchops.batches import sample_axis
from pure_batchops.derivatives.plain_autograd import alone_or, recorded_pull, recording
from pure_batchops.losses.sample_losses import mean_loss
from pure_batchops.operations.operation import batch_operation
from pure_batchops.trees import leaves, map_leaves, rebuilt
from pure_batchops.types import Batch, Buffers, LinearMap, Operation, Params, SampleLosses, Tree

Gradient = Callable[[Params], Tree]


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

        >>> loss = lambda params, buffers, x: 0.5 * (params["w"] * x) ** 2
        >>> hessian(loss)({"w": torch.tensor(3.0)}, {}, torch.tensor([1.0, 2.0]), torch.tensor([1.0]))
        tensor([2.5000])

    References:
        Pearlmutter (1994), Fast Exact Multiplication by the Hessian.
    """
    checks.loss(loss)
    checks.option("mode", mode, tuple(_MODES))
    mean = mean_loss(loss)

    def at(params: Params, buffers: Buffers, batch: Batch) -> LinearMap:
        # Forward mode's zero tensors have no storage: inductor's code for them reads from nowhere and dies.
        way = hessian_of if mode == "forward_over_reverse" and checks.compiling() else _MODES[mode]
        return way(partial(mean, buffers=buffers, batch=batch), params)

    return batch_operation(at, chunk_size=chunk_size, batch_dim=sample_axis(loss))


def hessian_of(function: Callable[[Params], Tensor], params: Params) -> LinearMap:
    """V ↦ ∇²f(params) v, reverse over reverse."""
    found = recording(function, params)
    if found is None:
        return _transformed(function, params)
    with torch.enable_grad():
        gradient = recorded_pull([found.value], found.inputs, [torch.ones_like(found.value)], record=True)
    return alone_or(
        lambda v: rebuilt(params, recorded_pull(gradient, found.inputs, leaves(v))), partial(_transformed, function, params)
    )


def _transformed(function: Callable[[Params], Tensor], params: Params) -> LinearMap:
    _, pullback = vjp(grad(function), params)
    return lambda v: pullback(v)[0]


def _forward_over_reverse(function: Callable[[Params], Tensor], params: Params) -> LinearMap:
    gradient = jacrev(function)  # jvp(grad(…)) fails on mse_loss: "ZeroTensors are immutable"
    return lambda v: jvp(gradient, (params,), (v,))[1]


def _reverse_over_forward(function: Callable[[Params], Tensor], params: Params) -> LinearMap:
    def slope(p: Params, v: Tree) -> Any:  # ∇ℓ(θ)·v
        return sum((g * d).sum() for g, d in zip(leaves(grad(function)(p)), leaves(v), strict=True))

    return lambda v: grad(slope)(params, v)


def _finite_difference(function: Callable[[Params], Tensor], params: Params) -> LinearMap:
    gradient = grad(function)
    precision = max(torch.finfo(leaf.dtype).eps for leaf in leaves(params))
    reach = precision ** (1 / 3) * (1 + _norm(params))

    def product(v: Tree) -> Tree:
        size = _norm(v)
        step = reach / torch.where(size > 0, size, 1)
        ahead, behind = (
            gradient(map_leaves(lambda p, d, sign=sign: p + (sign * step).to(p.dtype) * d, params, v)) for sign in (1, -1)
        )
        return map_leaves(lambda a, b: ((a - b) / (2 * step)).to(a.dtype), ahead, behind)

    return product


def _norm(tree: Tree) -> Tensor:
    """The Euclidean norm of a tree, in double precision: squares of half precision overflow."""
    first = leaves(tree)[0]
    squares = torch.stack([leaf.double().square().sum().to(first.device) for leaf in leaves(tree)])
    return squares.sum().sqrt()


_MODES = {
    "reverse_over_reverse": hessian_of,
    "forward_over_reverse": _forward_over_reverse,
    "reverse_over_forward": _reverse_over_forward,
    "finite_difference": _finite_difference,
}
