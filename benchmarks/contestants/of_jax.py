"""The perceptrons in JAX, compiled by jit. Hessian products by forward over reverse mode. It has no other models."""

import os
from collections.abc import Callable
from functools import partial
from typing import Any

# One thread, like all contestants. JAX reads this when it is first used.
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")
os.environ.setdefault("NPROC", "1")

import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.cases.problems import Problem
from benchmarks.contestants import Multiplication, NotOffered, Products

Array = Any
Loss = Callable[[Array], Array]


def forward_over_reverse(loss: Loss, params: Array, v: Array) -> Array:
    """The Hessian product of the mean loss, the derivative of the gradient along v."""
    return jax.jvp(jax.grad(lambda p: loss(p).mean()), (params,), (v,))[1]


def reverse_over_reverse(loss: Loss, params: Array, v: Array) -> Array:
    """The Hessian product of the mean loss, the pullback of the gradient."""
    return jax.vjp(jax.grad(lambda p: loss(p).mean()), params)[1](v)[0]


def gauss_newton(loss: Loss, params: Array, v: Array) -> Array:
    """The product with the mean of the outer products of the samples' gradients."""
    losses, along = jax.jvp(loss, (params,), (v,))
    return jax.vjp(loss, params)[1](along / len(losses))[0]


def multiplication(product: Callable[[Loss, Array, Array], Array], problem: Problem, v: Tensor) -> Multiplication:
    """The product of flat params and v, `(D,)` or `(K, D)`, compiled. The call waits for its result.

    Raises:
        NotOffered: if the model is not a perceptron.
    """
    model = problem.model
    if not isinstance(model, nn.Sequential) or not all(isinstance(layer, nn.Linear | nn.ReLU) for layer in model):
        raise NotOffered
    inputs, targets = map(_array, problem.batch)
    params, rows = _array(torch.cat([leaf.flatten() for leaf in problem.params.values()])), _array(v)
    losses = partial(_losses, [tuple(leaf.shape) for leaf in problem.params.values()])

    def one(params: Array, inputs: Array, targets: Array, row: Array) -> Array:
        return product(lambda p: losses(p, inputs, targets), params, row)

    compiled = jax.jit(one if v.ndim == 1 else jax.vmap(one, in_axes=(None, None, None, 0)))
    call = lambda: compiled(params, inputs, targets, rows).block_until_ready()  # noqa: E731
    return Multiplication(call, lambda products: torch.from_numpy(np.array(products)))


def _losses(shapes: list[tuple[int, ...]], params: Array, inputs: Array, targets: Array) -> Array:
    """The cross-entropy of each sample. The parameters of a perceptron are a weight and a bias in turn."""
    ends = np.cumsum([int(np.prod(shape)) for shape in shapes])
    leaves = [leaf.reshape(shape) for leaf, shape in zip(jnp.split(params, ends[:-1]), shapes, strict=True)]
    hidden = inputs
    for i in range(0, len(leaves), 2):
        hidden = (jax.nn.relu(hidden) if i else hidden) @ leaves[i].T + leaves[i + 1]
    return -jnp.take_along_axis(jax.nn.log_softmax(hidden), targets[:, None], axis=1)[:, 0]


def _array(tensor: Tensor) -> Array:
    return jnp.asarray(tensor.numpy())


PRODUCTS: Products = {
    "hessian": partial(multiplication, forward_over_reverse),
    "gauss_newton": partial(multiplication, gauss_newton),
}
