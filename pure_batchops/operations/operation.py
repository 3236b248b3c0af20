"""The one wrapper around every operation: the forms of v, K vectors at a time, and errors that say what to do."""

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import torch

from pure_batchops import checks, tracing
from pure_batchops.budget import NUMBERS_BY_VMAP, fitting
from pure_batchops.layouts import layout_of
from pure_batchops.trees import leaves, map_leaves, parameter_leaves, rebuilt, same_leaves
from pure_batchops.types import Batch, Buffers, LinearMap, Operation, Params, Tree, Vector
from pure_batchops.vectors import Form, form_in, vector_form


class Multiplication(NamedTuple):
    """A linear map, and how it is best applied to several vectors.

    Attributes:
        product: v ↦ m v on trees.
        together: vectors are multiplied together while they hold fewer numbers than this; larger ones one by one.
        takes_rows: the product is on rows instead, `(K, D) -> (K, D)`, for any K at once.
    """

    product: LinearMap
    together: int = NUMBERS_BY_VMAP
    takes_rows: bool = False


def batch_operation(
    at: Callable[[Params, Buffers, Batch], LinearMap], *, chunk_size: int | None = None, batch_dim: int = 0
) -> Operation:
    """The operation m(batch) · v of a function that gives the linear map v ↦ m(batch) · v on trees.

    Args:
        at: `at(params, buffers, batch)` does all the work that does not depend on v and returns a pure, linear
            `tree -> tree` from trees with the structure of params to the same.
        chunk_size: how many vectors are multiplied at once by `torch.vmap`, 1 for a loop. By default as many as hold
            2¹⁶ numbers, at least one, and all under torch.compile. The product does not depend on it.
        batch_dim: the axis of the samples in a batch, along which averages count its points.

    Returns:
        `op(params, buffers, batch, v) -> product`, the product in the form of v: a tree with the leaves of params, with
        a leading axis K for K vectors, or flat, `(D,)` or `(K, D)`. Keys of v may come in any order. It has
        `op.at(params, buffers, batch) -> (v -> product)`.

    Raises:
        TypeError: if at is no function, or an option no whole number. The operation raises it for a v that is no tensor or
            tree, or of another dtype.
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
    axis = checks.axis("batch_dim", batch_dim)

    def multiplication(params: Params, buffers: Buffers, batch: Batch) -> Multiplication:
        multiply = at(params, buffers, batch)
        expected = parameter_leaves(params)

        def product(v: Tree) -> Tree:
            given = [*leaves(v), *expected.values()]
            found = same_leaves("the product", expected, multiply(v))
            return rebuilt(params, [leaf.clone() if any(leaf is other for other in given) else leaf for leaf in found])

        return Multiplication(product)

    return operation_by(multiplication, chunk_size, axis)


def operation_by(
    multiplication: Callable[[Params, Buffers, Batch], Multiplication],
    chunk_size: int | None,
    batch_dim: int,
    once: Callable[[Params, Buffers, Batch, Tree], Tree | None] | None = None,
) -> Operation:
    """The operation of a function that gives the linear map and how it is best applied, and of one for a single product."""
    chunk = None if chunk_size is None else checks.whole("chunk_size", chunk_size)

    def operation(params: Params, buffers: Buffers, batch: Batch, v: Vector) -> Vector:
        form = vector_form(params, v)
        if tracing.compiling():
            found = multiplication(params, buffers, batch)
            if form.vectors is None or found.takes_rows:
                return _products(found, form, None)
            # torch 2.5 compiles what a transform closes over from outside to zeros: all the work goes inside.
            inside = Multiplication(lambda row: multiplication(params, buffers, batch).product(row))
            return _products(inside, form, chunk or form.vectors)
        if once is not None and form.vectors is None:
            single = once(params, buffers, batch, form.tree())  # None where it cannot
            if single is not None:
                return form.of_tree(single)
        return _products(_explained(multiplication, params, buffers, batch), form, chunk)

    def operation_at(params: Params, buffers: Buffers, batch: Batch) -> Callable[[Vector], Vector]:
        layout = layout_of(params)  # once, and not for each v
        found = _explained(multiplication, params, buffers, batch)
        return lambda v: _products(found, form_in(layout, v), chunk)

    return with_at(operation, operation_at, batch_dim)


def with_at(operation: Callable[..., Vector], at: Callable[..., Callable[[Vector], Vector]], batch_dim: int = 0) -> Operation:
    """The function as an operation: with its attribute `at`, and the axis of the samples in its batches."""
    operation.at = at  # type: ignore[attr-defined]
    operation.batch_dim = batch_dim  # type: ignore[attr-defined]
    return cast("Operation", operation)


def _products(
    found: Multiplication, form: Form, chunk: int | None
) -> Vector:  # torch 2.5 mixes up names: not "multiplication"
    """The product of each of the vectors, a chunk at a time, in their form."""
    multiply, together, takes_rows = found
    if takes_rows:
        rows = form.rows()
        step = chunk or fitting(rows.shape[1], together)
        products = multiply(rows) if step >= len(rows) else torch.cat([multiply(part) for part in rows.split(step)])
        return form.of_rows(products)
    tree = form.tree()
    if form.vectors is None:
        return form.of_tree(multiply(tree))
    if form.vectors == 0:
        return form.of_tree(map_leaves(torch.zeros_like, tree))
    chunk = chunk or fitting(sum(leaf[0].numel() for leaf in leaves(tree)), together)
    if chunk >= form.vectors > 1:
        return form.of_tree(torch.vmap(multiply)(tree))
    return form.of_trees(_some(multiply, tree, start, chunk) for start in range(0, form.vectors, chunk))


def _some(multiply: LinearMap, vectors: Tree, start: int, chunk: int) -> Tree:
    """The products of a chunk of the vectors, by vmap; of a single one without."""
    some = map_leaves(lambda leaf: leaf[start : start + chunk], vectors)
    if chunk > 1:
        return torch.vmap(multiply)(some)
    return map_leaves(lambda leaf: leaf[None], multiply(map_leaves(lambda leaf: leaf[0], some)))


def _explained(at: Callable[..., Multiplication], *arguments: Any) -> Multiplication:
    """The multiplication, with torch's word on fused attention followed by the setting that removes it."""

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
            tracing.refuse_inference_mode()
            try:
                return function(*inputs)
            except RuntimeError as error:
                explained = explain(error)
                if explained is error:
                    raise
                raise explained from error

        return call

    found: Multiplication = guarded(at)(*arguments)
    return found._replace(product=guarded(found.product))
