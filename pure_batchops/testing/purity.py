"""The laws of a pure function: it vmaps, nests, compiles, and leaves what it is given alone."""

import torch
from torch import Tensor

from pure_batchops.batches import has_samples
from pure_batchops.testing.agreement import EXACT, agree
from pure_batchops.testing.case import Case, combined, copied, flattest, holds_only_tensors, product, row, stacked, vector
from pure_batchops.trees import Path, named, named_leaves, tree_map
from pure_batchops.types import Params, Tree, Vector

_MEMBERS = 3


def ensemble(case: Case) -> bool:
    """The operation under torch.vmap over an ensemble of parameters must be the loop over its members."""
    members = _members(case)
    params, buffers, along = _stacked_state(case, members)
    v = vector(case, 1, _MEMBERS)
    each = [product(case._replace(params=member), row(v, i)) for i, member in enumerate(members)]
    own = torch.vmap(case.op, in_dims=(0, along, None, 0))(*map(copied, (params, buffers, case.batch, v)))
    agree(own, stacked(each), case.tolerance, "with a v for each member")
    one = flattest(case, row(v, 0))
    same = [product(case._replace(params=member), one) for member in members]
    shared = torch.vmap(case.op, in_dims=(0, along, None, None))(*map(copied, (params, buffers, case.batch, one)))
    agree(shared, stacked(same), case.tolerance, "with one v for all members")
    return True


def nested(case: Case) -> bool:
    """The operation under one torch.vmap inside another, over batches and vectors, and over members, must be the loops."""
    members = _members(case)
    params, buffers, along = _stacked_state(case, members)
    pair = vector(case, 1, 2)
    vectors = [flattest(case, row(pair, i)) for i in range(2)]
    flipped = tree_map(lambda leaf: leaf.flip(case.batch_dim) if has_samples(leaf, case.batch_dim) else leaf, case.batch)
    batches = [case.batch, flipped if holds_only_tensors(case.batch) else case.batch]
    over, both = (0, stacked(batches)) if holds_only_tensors(case.batch) else (None, copied(case.batch))
    inner = torch.vmap(case.op, in_dims=(0, along, None, None))
    products = torch.vmap(inner, in_dims=(None, None, over, 0))(params, buffers, both, stacked(vectors))
    for i, j in ((0, 0), (1, _MEMBERS - 1)):
        expected = product(case._replace(params=members[j], batch=batches[i]), vectors[i])
        agree(row(row(products, i), j), expected, case.tolerance, f"for v {i} and member {j}")
    return True


def untouched(case: Case) -> bool:
    """The operation must leave its arguments alone, values and versions, and its product must share no memory with them."""
    one, two = vector(case, 1), vector(case, 2, 2)
    for v in (one, two, flattest(case, one), flattest(case, two, 2)):
        check_untouched(case, v)
    return True


def check_untouched(case: Case, v: Vector) -> None:
    """Check that a product changes none of the tensors that the operation is given, and returns none of their memory.

    Raises:
        AssertionError: if it does.
    """
    given = {"params": case.params, "buffers": case.buffers, "batch": case.batch, "v": v}
    given = {name: copied(argument) for name, argument in given.items()}
    before = _tensors(given)
    values, versions = copied(list(before.values())), {path: _version(leaf) for path, leaf in before.items()}
    result = case.op(*given.values())
    after = _tensors(given)
    if list(after) != list(before) or any(after[path] is not leaf for path, leaf in before.items()):
        changed = [named(path) for path in {**before, **after} if after.get(path) is not before.get(path)]
        msg = (
            f"got other tensors, or in another order, in the containers of the arguments: {', '.join(changed) or 'the order'}"
        )
        raise AssertionError(msg)
    for (path, leaf), value in zip(before.items(), values, strict=True):
        agree(leaf.nan_to_num(), value.nan_to_num(), EXACT, f"in the argument {named(path)} after the call")
        if _version(leaf) != versions[path]:
            msg = (
                f"got version {_version(leaf)} of {named(path)} where {versions[path]} is expected: it was written to in place"
            )
            raise AssertionError(msg)
    owners = {_memory(leaf): path for path, leaf in before.items() if leaf.numel()}
    for path, leaf in _tensors(result).items():
        if leaf.numel() and _memory(leaf) in owners:
            msg = f"got a product whose memory, at {named(path)}, is that of the argument {named(owners[_memory(leaf)])}"
            raise AssertionError(msg)


def compiled(case: Case) -> bool:
    """The compiled operation, torch.compile(op, fullgraph=True), must give the product that it gives uncompiled."""
    if tuple(map(int, torch.__version__.split(".")[:2])) < (2, 5):
        return False  # it does not compile torch.func there
    torch.compiler.reset()  # sizes that differed in an earlier check would be taken for dynamic ones
    compiled_op = torch.compile(case.op, fullgraph=True, backend=case.backend)
    for v in (vector(case, 1), flattest(case, vector(case, 2, 3), 3)):
        arguments = map(copied, (case.params, case.buffers, case.batch, v))
        agree(compiled_op(*arguments), product(case, v), case.tolerance)
    return True


def _members(case: Case) -> list[Params]:
    """The params and two more near them."""
    return [case.params, *(combined(1, case.params, 0.1, vector(case, salt)) for salt in range(2, 1 + _MEMBERS))]


def _stacked_state(case: Case, members: list[Params]) -> tuple[Tree, Tree, int | None]:
    """The params of all members, buffers for each if they can be stacked, and the axis of the latter for vmap."""
    if holds_only_tensors(case.buffers):
        return stacked(members), stacked([case.buffers] * _MEMBERS), 0
    return stacked(members), copied(case.buffers), None


def _tensors(tree: Tree) -> dict[Path, Tensor]:
    return {path: leaf for path, leaf in named_leaves(tree).items() if isinstance(leaf, Tensor)}


def _memory(leaf: Tensor) -> int:
    return leaf.untyped_storage().data_ptr()


def _version(leaf: Tensor) -> int:
    return leaf._version  # noqa: SLF001  # how often it was written to
