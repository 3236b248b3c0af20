"""How a function becomes an operation: the forms of v, `op.at`, and what an average must know."""

from collections.abc import Callable

from pure_batchops import checks, tracing
from pure_batchops.layouts import layout_of
from pure_batchops.operations.derived import with_at
from pure_batchops.operations.ensemble import large_ensemble
from pure_batchops.operations.explained import explained
from pure_batchops.operations.multiplication import Multiplication, OnRows, OnTrees, products
from pure_batchops.points import Seen, counted, points_along, points_of, saw_points
from pure_batchops.trees import leaves, parameter_leaves, rebuilt, same_leaves
from pure_batchops.types import Batch, Buffers, LinearMap, Operation, Params, Tree, Vector
from pure_batchops.vectors import form_in, vector_form


def batch_operation(
    at: Callable[[Params, Buffers, Batch], LinearMap], *, chunk_size: int | None = None, batch_dim: int | None = None
) -> Operation:
    """The operation m(batch) · v of a function that gives the linear map v ↦ m(batch) · v on trees.

    Args:
        at: `at(params, buffers, batch)` does all the work that does not depend on v and returns a pure, linear
            `tree -> tree` from trees with the structure of params to the same.
        chunk_size: how many vectors are multiplied at once by `torch.vmap`, 1 for a loop. By default they have at most 2¹⁶
            numbers; under torch.compile all go together. The product does not depend on it.
        batch_dim: the axis of the samples in a batch, along which an average counts its points. By default the average takes
            the number of losses that operations inside `at` see, and counts along axis 0 if there are none.

    Returns:
        `op(params, buffers, batch, v) -> product`, the product in the form of v: a tree with the leaves of params, with
        a leading axis K for K vectors, or flat, `(D,)` or `(K, D)`. Keys of v may come in any order. It has
        `op.at(params, buffers, batch) -> (v -> product)`.

    Raises:
        TypeError: if at is no function, or an option no whole number. The operation raises it for a v that is no tensor or
            tree, or of another dtype.
        ValueError: if chunk_size is not positive. The operation raises it for a v of other leaves, shape or device.

    Examples:
        A user's own operation, the matrix diag(mean of xᵢ²):

        >>> import torch
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
    axis = None if batch_dim is None else checks.axis("batch_dim", batch_dim)

    op = tree_operation(at, chunk_size)

    def operation(params: Params, buffers: Buffers, batch: Batch, v: Vector = ...) -> Vector:
        product, seen = counted(op, params, buffers, batch, v)
        saw_points(_points(seen, batch, axis), batch)
        return product

    def operation_at(params: Params, buffers: Buffers, batch: Batch) -> Callable[[Vector], Vector]:
        multiply, seen_before = counted(op.at, params, buffers, batch)

        def product(v: Vector) -> Vector:
            result, seen = counted(multiply, v)
            both = Seen(seen_before.points + seen.points, seen_before.losses + seen.losses)
            saw_points(_points(both, batch, axis), batch)
            return result

        return product

    return with_at(operation, operation_at)


def _points(seen: Seen, batch: Batch, axis: int | None) -> float | None:
    """The number of samples of a batch, for an operation whose samples lie on this axis, or that does not say."""
    if axis is None and (seen.points or seen.losses):
        return points_of(seen, batch)
    return points_along(batch, axis or 0)


def tree_operation(at: Callable[[Params, Buffers, Batch], LinearMap], chunk_size: int | None) -> Operation:
    """The operation of `at`, whose products are checked to be trees like params that share no memory with v or params."""

    def multiplication(params: Params, buffers: Buffers, batch: Batch) -> Multiplication:
        multiply = at(params, buffers, batch)
        expected = parameter_leaves(params)

        def product(v: Tree) -> Tree:
            given = [*leaves(v), *expected.values()]
            result = same_leaves("the product", expected, multiply(v))
            return rebuilt(params, [leaf.clone() if any(leaf is other for other in given) else leaf for leaf in result])

        return OnTrees(product)

    return operation_of(multiplication, chunk_size)


def operation_of(
    multiplication: Callable[[Params, Buffers, Batch], Multiplication],
    chunk_size: int | None,
    single_product: Callable[[Params, Buffers, Batch, Tree], Tree | None] | None = None,
) -> Operation:
    """The operation of `multiplication`. `single_product` is a cheaper route for one vector, or None where it cannot serve."""
    chunk_size = checks.whole_or_none("chunk_size", chunk_size)
    multiply_at = explained(multiplication)

    def operation(params: Params, buffers: Buffers, batch: Batch, v: Vector = ...) -> Vector:
        form = vector_form(params, v)
        of_large = large_ensemble(operation, params, buffers, batch, v)
        if of_large is not None:
            return of_large
        if tracing.compiling():
            whole = multiplication(params, buffers, batch)
            if form.vectors is None or isinstance(whole, OnRows):
                return products(whole, form, None)
            here = multiplication  # C2
            inside = OnTrees(lambda row: here(params, buffers, batch).multiply(row))  # C5
            return products(inside, form, chunk_size or form.vectors)
        if single_product is not None and form.vectors is None:
            single = single_product(params, buffers, batch, form.tree())
            if single is not None:
                return form.of_tree(single)
        return products(_with_words(multiply_at(params, buffers, batch)), form, chunk_size)

    def at(params: Params, buffers: Buffers, batch: Batch) -> Callable[[Vector], Vector]:
        layout = layout_of(params)  # once, and not for each v
        ready = _with_words(multiply_at(params, buffers, batch))
        return lambda v: products(ready, form_in(layout, v), chunk_size)

    return with_at(operation, at)


def _with_words(multiplication: Multiplication) -> Multiplication:
    """The multiplication, whose map explains torch's errors."""
    return multiplication._replace(multiply=explained(multiplication.multiply))
