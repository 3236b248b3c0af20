"""The laws of a pure function: it works under torch.vmap, also nested, compiles, and does not change its arguments."""

from collections.abc import Callable

import torch
from torch import Tensor

from pure_batchops.batches import has_samples
from pure_batchops.testing.agreement import EXACT, agree
from pure_batchops.testing.case import (
    MEMBERS,
    Case,
    copied,
    flattest,
    holds_only_tensors,
    product,
    row,
    stacked,
    stacked_state,
    states,
    vector,
)
from pure_batchops.torch_privates import version
from pure_batchops.trees import Path, named, named_leaves, tree_map
from pure_batchops.types import Tree, Vector


def ensemble(case: Case) -> bool:
    """The operation under torch.vmap over an ensemble of params and buffers must be the loop over its members."""
    each = [case._replace(params=params, buffers=buffers) for params, buffers in states(case)]
    params, buffers, along = stacked_state(case)
    v = vector(case, 1, MEMBERS)
    expected = stacked([product(member, row(v, i)) for i, member in enumerate(each)])
    own = torch.vmap(case.op, in_dims=(0, along, None, 0))(*map(copied, (params, buffers, case.batch, v)))
    agree(own, expected, case.tolerance, "with a v for each member")
    one = flattest(case, row(v, 0))
    expected = stacked([product(member, one) for member in each])
    shared = torch.vmap(case.op, in_dims=(0, along, None, None))(*map(copied, (params, buffers, case.batch, one)))
    agree(shared, expected, case.tolerance, "with one v for all members")
    return True


def nested(case: Case) -> bool:
    """The operation under one torch.vmap inside another, over batches and vectors, and over members, must be the loops."""
    each = [case._replace(params=params, buffers=buffers) for params, buffers in states(case)]
    params, buffers, along = stacked_state(case)
    pair = vector(case, 1, 2)
    vectors = [flattest(case, row(pair, i)) for i in range(2)]
    flipped = tree_map(lambda leaf: leaf.flip(case.batch_dim) if has_samples(leaf, case.batch_dim) else leaf, case.batch)
    batches = [case.batch, flipped if holds_only_tensors(case.batch) else case.batch]
    over, both = (0, stacked(batches)) if holds_only_tensors(case.batch) else (None, copied(case.batch))
    inner = torch.vmap(case.op, in_dims=(0, along, None, None))
    products = torch.vmap(inner, in_dims=(None, None, over, 0))(params, buffers, both, stacked(vectors))
    for i, j in ((0, 0), (1, MEMBERS - 1)):
        expected = product(each[j]._replace(batch=batches[i]), vectors[i])
        agree(row(row(products, i), j), expected, case.tolerance, f"for v {i} and member {j}")
    return True


def untouched(case: Case) -> bool:
    """The operation must leave its arguments alone, values and versions, and its product must share no memory with them."""
    one, two = vector(case, 1), vector(case, 2, 2)
    for v in (one, two, flattest(case, one), flattest(case, two, 2)):
        check_untouched(case, v)
    return True


def check_untouched(case: Case, v: Vector) -> None:
    """Check that an operation changes no argument, and that its product shares no memory with them.

    Raises:
        AssertionError: if it does.
    """
    given = {"params": case.params, "buffers": case.buffers, "batch": case.batch, "v": v}
    given = {name: copied(argument) for name, argument in given.items()}
    result = result_of_untouched(case.op, given)
    owners = {_memory(leaf): path for path, leaf in _tensors(given).items() if leaf.numel()}
    for path, leaf in _tensors(result).items():
        if leaf.numel() and _memory(leaf) in owners:
            msg = f"got a product that shares the memory of the argument {named(owners[_memory(leaf)])}, at {named(path)}"
            raise AssertionError(msg)


def result_of_untouched(function: Callable[..., Tree], given: dict[str, Tree]) -> Tree:
    """The result of a function, which must not change its arguments.

    Args:
        function: takes the arguments in their order.
        given: the arguments by their names.

    Returns:
        The result.

    Raises:
        AssertionError: if a container or a tensor of the arguments is changed.
    """
    leaves_before, before = named_leaves(given), _tensors(given)
    values, versions = copied(list(before.values())), {path: version(leaf) for path, leaf in before.items()}
    result = function(*given.values())
    leaves_after = named_leaves(given)
    if list(leaves_after) != list(leaves_before) or any(
        leaves_after[path] is not leaf for path, leaf in leaves_before.items()
    ):
        paths = {**leaves_before, **leaves_after}
        changed = [named(path) for path in paths if leaves_after.get(path) is not leaves_before.get(path)]
        msg = f"got other leaves, or in another order, in the containers of the arguments: {', '.join(changed) or 'the order'}"
        raise AssertionError(msg)
    for (path, leaf), value in zip(before.items(), values, strict=True):
        agree(leaf.nan_to_num(), value.nan_to_num(), EXACT, f"in the argument {named(path)} after the call")
        if version(leaf) != versions[path]:
            msg = (
                f"got version {version(leaf)} of {named(path)} where {versions[path]} is expected: it was written to in place"
            )
            raise AssertionError(msg)
    return result


def compiled(case: Case) -> bool:
    """The compiled operation, torch.compile(op, fullgraph=True), must give the product that it gives uncompiled."""
    if tuple(map(int, torch.__version__.split(".")[:2])) < (2, 6):
        return False  # it does not compile torch.func there
    torch.compiler.reset()  # sizes that differed in an earlier check would be taken for dynamic ones
    compiled_op = torch.compile(case.op, fullgraph=True, backend=case.backend)
    for v in (vector(case, 1), flattest(case, vector(case, 2, 3), 3)):
        arguments = map(copied, (case.params, case.buffers, case.batch, v))
        agree(compiled_op(*arguments), product(case, v), case.tolerance)
    return True


def _tensors(tree: Tree) -> dict[Path, Tensor]:
    return {path: leaf for path, leaf in named_leaves(tree).items() if isinstance(leaf, Tensor)}


def _memory(leaf: Tensor) -> int:
    return leaf.untyped_storage().data_ptr()
