"""The one wrapper around every operation: the forms of v, K vectors at a time, and errors that say what to do."""

from collections.abc import Callable
from typing import Any, cast

import torch

from pure_batchops import checks
from pure_batchops.trees import (
    Form,
    leaves,
    map_leaves,
    parameter_leaves,
    rebuilt,
    same_leaves,
    vector_form,
)
from pure_batchops.types import Batch, Buffers, LinearMap, Operation, Params, Tree, Vector

NUMBERS_AT_ONCE = 2**16
"""Vectors are multiplied together while they hold fewer numbers than this; larger ones are faster one by one."""


def batch_operation(at: Callable[[Params, Buffers, Batch], LinearMap], *, chunk_size: int | None = None) -> Operation:
    """The operation m(batch) · v of a function that gives the linear map v ↦ m(batch) · v on trees.

    Args:
        at: `at(params, buffers, batch)` does all the work that does not depend on v and returns a pure, linear
            `tree -> tree` from trees with the structure of params to the same.
        chunk_size: how many vectors are multiplied at once by `torch.vmap`, 1 for a loop. By default as many as hold
            2¹⁶ numbers, at least one. The product does not depend on it.

    Returns:
        `op(params, buffers, batch, v) -> product`, the product in the form of v: a tree with the leaves of params, with
        a leading axis K for K vectors, or flat, `(D,)` or `(K, D)`. Keys of v may come in any order. It has
        `op.at(params, buffers, batch) -> (v -> product)`.

    Raises:
        TypeError: if at is no function. The operation raises it for a v that is no tensor or tree, or of another dtype.
        ValueError: if chunk_size is not positive. The operation raises it for a v of other leaves, shape or device.

    Examples:
        The matrix diag(mean of xᵢ²), which a user adds as an operation of their own:

        >>> def at(params, buffers, batch):
        ...     scale = batch.square().mean(0)
        ...     return lambda v: {"w": scale * v["w"]}
        >>> second_moment = batch_operation(at)
        >>> params, batch = {"w": torch.zeros(2)}, torch.tensor([[1.0, 2.0], [3.0, 4.0]])
        >>> second_moment(params, {}, batch, torch.ones(2))
        tensor([ 5., 10.])
        >>> second_moment(params, {}, batch, torch.eye(2))
        tensor([[ 5.,  0.],
                [ 0., 10.]])
    """
    checks.function("at", at)
    chunk = None if chunk_size is None else checks.whole("chunk_size", chunk_size)

    def linear_map(params: Params, buffers: Buffers, batch: Batch) -> LinearMap:
        multiply = at(params, buffers, batch)
        expected = parameter_leaves(params)

        def product(v: Tree) -> Tree:
            given = [*leaves(v), *expected.values()]
            found = same_leaves("the product", expected, multiply(v))
            return rebuilt(params, [leaf.clone() if any(leaf is other for other in given) else leaf for leaf in found])

        return product

    def operation(params: Params, buffers: Buffers, batch: Batch, v: Vector) -> Vector:
        form = vector_form(params, v)
        if checks.compiling():
            # torch 2.5 compiles what a transform closes over from outside to zeros: all the work goes inside.
            return form.restore(_each(lambda row: linear_map(params, buffers, batch)(row), form, chunk or form.vectors))
        return form.restore(_each(_explained(linear_map, params, buffers, batch), form, chunk))

    def operation_at(params: Params, buffers: Buffers, batch: Batch) -> Callable[[Vector], Vector]:
        parameter_leaves(params)
        multiply = _explained(linear_map, params, buffers, batch)

        def product(v: Vector) -> Vector:
            form = vector_form(params, v)
            return form.restore(_each(multiply, form, chunk))

        return product

    return with_at(operation, operation_at)


def with_at(operation: Callable[..., Vector], at: Callable[..., Callable[[Vector], Vector]]) -> Operation:
    """The function as an operation: with its attribute `at`."""
    operation.at = at  # type: ignore[attr-defined]
    return cast("Operation", operation)


def _each(multiply: LinearMap, form: Form, chunk: int | None) -> Tree:
    """The product of each of the vectors, a chunk at a time."""
    tree, count, _ = form
    if count is None:
        return multiply(tree)
    if count == 0:
        return map_leaves(torch.zeros_like, tree)
    chunk = chunk or max(1, NUMBERS_AT_ONCE // max(1, sum(leaf[0].numel() for leaf in leaves(tree))))
    if chunk > 1:
        return torch.vmap(multiply, chunk_size=min(chunk, count))(tree)
    products = [multiply(map_leaves(lambda leaf, i=i: leaf[i], tree)) for i in range(count)]
    return map_leaves(lambda *rows: torch.stack(rows), *products)


def _explained(at: Callable[..., LinearMap], *arguments: Any) -> LinearMap:
    """The linear map, with torch's word on fused attention followed by the setting that removes it."""

    def explain(error: RuntimeError) -> RuntimeError:
        fused = (
            "scaled_dot_product",
            "flash_attention",
            "efficient_attention",
            "encoder_layer_fwd",
            "multi_head_attention",
        )
        if not any(name in str(error) for name in fused):
            return error
        return RuntimeError(
            f"{error}\nThe fused attention kernels have no second derivatives. Run your forward inside `with "
            "torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):` (before torch 2.3, `with "
            "torch.backends.cuda.sdp_kernel(enable_flash=False, enable_mem_efficient=False):`), and for an "
            "nn.TransformerEncoderLayer call torch.backends.mha.set_fastpath_enabled(False)."
        )

    def guarded(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*inputs: Any) -> Any:
            try:
                return function(*inputs)
            except RuntimeError as error:
                explained = explain(error)
                if explained is error:
                    raise
                raise explained from error

        return call

    return cast("LinearMap", guarded(guarded(at)(*arguments)))
