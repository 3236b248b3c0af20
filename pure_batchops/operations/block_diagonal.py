"""The diagonal blocks of a matrix."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

from pure_batchops import checks
from pure_batchops.models.selection import selected
from pure_batchops.operations.derived import at_point, with_at
from pure_batchops.streams import in_one_order
from pure_batchops.traits import traits_of
from pure_batchops.types import Batch, Buffers, Operation, Params, Selection, Term, Traits, Vector
from pure_batchops.vectors import vector_form


def block_diagonal(op: Operation, blocks: Sequence[Selection]) -> Operation:
    """The block-diagonal matrix, whose block B is the matrix of `op` for the params of B, all others held fixed.

    Args:
        op: an operation whose loss reads params and buffers together, as those of `sample_losses` on a module do: each
            block is multiplied with its params in `params` and all others in `buffers`.
        blocks: the blocks, each picked as in `restrict_to`: a name, a shell pattern, several of them, or a predicate.
            Every parameter stands in exactly one.

    Returns:
        `op(params, buffers, batch, v) -> product`, symmetric or definite if op is.

    Raises:
        TypeError: if op is no function, or blocks is no sequence. The operation raises it for params that are no dict.
        ValueError: if there is no block. The operation raises it for a parameter that stands in no block, or in two.

    Examples:
        >>> import torch
        >>> from pure_batchops import dense, hessian
        >>> def loss(params, buffers, x):
        ...     both = {**params, **buffers}
        ...     return (both["a"] * x + both["b"]) ** 2
        >>> op = block_diagonal(hessian(loss), ["a", "b"])
        >>> dense(op)({"a": torch.tensor(1.0), "b": torch.tensor(1.0)}, {}, torch.tensor([1.0, 2.0]))
        tensor([[5., 0.],
                [0., 2.]])
    """
    checks.operation("op", op)
    if isinstance(blocks, str) or not isinstance(blocks, Sequence):
        msg = f"blocks must be a list of names, patterns, lists of them or predicates, got {blocks!r}"
        raise TypeError(msg)
    if not blocks:
        msg = "blocks must hold at least one block, got none"
        raise ValueError(msg)

    picks = [selected(block) for block in blocks]

    def operation(params: Params, buffers: Buffers, batch: Batch, v: Vector = ...) -> Vector:
        parts, batch = _parts(params, buffers, picks), _shared(op, batch)
        return _product([(own, partial(op, own, others, batch)) for own, others in parts], params, v)

    def at(params: Params, buffers: Buffers, batch: Batch) -> Callable[[Vector], Vector]:
        parts, batch = _parts(params, buffers, picks), _shared(op, batch)
        return partial(_product, [(own, at_point(op, own, others, batch)) for own, others in parts], params)

    inside = traits_of(op).terms
    if inside is None:
        return with_at(operation, at)

    def terms(params: Params, buffers: Buffers, batches: Iterable[Batch]) -> Iterator[Term]:
        parts, batches = _parts(params, buffers, picks), _shared(op, batches)
        for of_batch in zip(*(inside(own, others, batches) for own, others in parts), strict=True):
            yield partial(_term, [own for own, _ in parts], of_batch, params)

    return with_at(operation, at, Traits(terms=terms))


def _shared(op: Operation, batch: Batch) -> Batch:
    """The batch; the batches of an average are compared, because each block reads them."""
    return batch if traits_of(op).terms is None else in_one_order("batches", batch)


def _product(blocks: list[tuple[Params, Callable[[Vector], Vector]]], params: Params, v: Vector) -> Vector:
    """The products of the blocks with their parts of v, in the form of v."""
    form = vector_form(params, v)
    tree = form.tree()
    products = {name: leaf for own, block in blocks for name, leaf in block({name: tree[name] for name in own}).items()}
    return form.of_tree({name: products[name] for name in params})


def _term(blocks: list[Params], of_batch: tuple[Term, ...], params: Params, v: Vector) -> tuple[Vector, float]:
    """One batch of an average: the product of all blocks, and its weight."""
    weights: list[float] = []

    def weighed(term: Term, part: Vector) -> Vector:
        product, weight = term(part)
        weights.append(weight)
        return product

    product = _product([(own, partial(weighed, term)) for own, term in zip(blocks, of_batch, strict=True)], params, v)
    return product, weights[0]


def _parts(params: Params, buffers: Buffers, picks: list[Callable[[Params], list[str]]]) -> list[tuple[Params, Buffers]]:
    """For each block its own params, and all else as buffers."""
    for what, tensors in (("params", params), ("buffers", buffers)):
        if not isinstance(tensors, dict):
            msg = (
                f"{what} must be a dict from names to tensors to be taken in blocks, got {type(tensors).__name__}; "
                "an operation takes (params, buffers, batch, v)"
            )
            raise TypeError(msg)
    names = [names_in(params) for names_in in picks]
    counts = {name: sum(name in block for block in names) for name in params}
    wrong = [f"{name!r} is in {count}" for name, count in counts.items() if count != 1]
    if wrong or not all(names):
        msg = (
            f"every parameter must stand in exactly one of blocks, and no block be empty; {', '.join(wrong) or 'one is empty'}"
        )
        raise ValueError(msg)
    return [
        (
            {name: params[name] for name in own},
            {**buffers, **{name: params[name] for name in params if name not in own}},
        )
        for own in names
    ]
