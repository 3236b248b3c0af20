"""The laws of the forms of v: all of one vector give one product, whatever the order of its keys, by `op.at` too."""

from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from pure_batchops.layouts import is_uniform
from pure_batchops.testing.agreement import Tolerance, agree
from pure_batchops.testing.case import Case, copied, flat, product, row, stacked, vector
from pure_batchops.trees import map_leaves, named_leaves
from pure_batchops.types import Tree, Vector

MANY = 7
"""How many vectors are multiplied at once; with fewer, an operation that loses later rows looks right."""

Order = Callable[[list[Any]], list[Any]]


def forms(case: Case) -> bool:
    """All forms of v must give one product, each in its form: a tree, K trees, (D,) and (K, D), for K = 0, 1 and 7."""
    many = vector(case, 1, MANY)
    v = row(many, 0)
    agree(_blank(product(case, v)), _blank(v), Tolerance(), "in the product of a tree (only its shape was looked at)")
    expected = all_forms(case, stacked([product(case, row(many, i)) for i in range(MANY)]))
    for form, given in all_forms(case, many).items():
        agree(product(case, given), expected[form], case.tolerance, f"for v as {form}")
    return True


def at(case: Case) -> bool:
    """What op.at(params, buffers, batch) returns must give the product of op, for every v, one after another."""
    multiply = case.op.at(copied(case.params), copied(case.buffers), copied(case.batch))
    expected = []
    for form, v in all_forms(case, vector(case, 1, MANY)).items():
        expected.append((form, v, product(case, v)))
        agree(multiply(copied(v)), expected[-1][2], case.tolerance, f"for v as {form}")
    form, v, again = expected[0]
    agree(multiply(copied(v)), again, case.tolerance, f"for v as {form}, once more")
    return True


def key_order(case: Case) -> bool:
    """The order of keys must change nothing: leaves belong together by name, and a product has the order of params."""
    v = vector(case, 1)
    expected = product(case, v)
    orders: dict[str, Order] = {"reversed": lambda keys: keys[::-1], "shuffled": partial(_shuffled, case.seed)}
    if all(list(named_leaves(_reordered(v, order))) == list(named_leaves(v)) for order in orders.values()):
        return False
    for name, order in orders.items():
        agree(product(case, _reordered(v, order)), expected, case.tolerance, f"with the keys of v {name}")
        other = case._replace(params=_reordered(case.params, order), buffers=_reordered(case.buffers, order))
        agree(product(other, v), _reordered(expected, order), case.tolerance, f"with the keys of params and buffers {name}")
    return True


def all_forms(case: Case, many: Tree) -> dict[str, Vector]:
    """`MANY` trees like params in every form; the forms of one are of the first of them."""
    firsts = {count: map_leaves(lambda leaf, count=count: leaf[:count], many) for count in (MANY, 1, 0)}
    one = row(many, 0)
    found: dict[str, Vector] = {"a tree": one}
    found |= {f"trees with a leading axis of {count}": trees for count, trees in firsts.items()}
    if is_uniform(case.params):
        found["a flat tensor"] = flat(case, one)
        found |= {f"{count} flat rows": flat(case, trees, count) for count, trees in firsts.items()}
    return found


def _shuffled(seed: int, keys: list[Any]) -> list[Any]:
    return [keys[i] for i in torch.randperm(len(keys), generator=torch.Generator().manual_seed(seed)).tolist()]


def _reordered(tree: Tree, order: Order) -> Tree:
    """The tree with the keys of each of its dicts in another order."""
    if type(tree) in (dict, OrderedDict):
        return type(tree)((key, _reordered(tree[key], order)) for key in order(list(tree)))
    return type(tree)(_reordered(child, order) for child in tree) if type(tree) in (list, tuple) else tree


def _blank(tree: Tree) -> Tree:
    return map_leaves(torch.zeros_like, tree)
