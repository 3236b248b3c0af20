"""Who else multiplies: one file for each, loaded when it is asked for, and one row here.

A file has `PRODUCTS`, from names of OPERATIONS to functions `(problem, v) -> Multiplication` for v `(D,)` or `(K, D)`. What a
contestant offers for some problems only raises `NotOffered` for the others.
"""

from collections.abc import Callable, Collection
from importlib import import_module, metadata
from typing import Any, NamedTuple

from torch import Tensor

from benchmarks.problems import Problem
from benchmarks.times import Call


class Multiplication(NamedTuple):
    """A product about to be taken, with all that the contestant need not repeat for each already done.

    Attributes:
        call: takes it, of a vector in the contestant's own form.
        flat: what the call returns, as `(D,)` or `(K, D)`.
    """

    call: Call
    flat: Callable[[Any], Tensor]


Products = dict[str, Callable[[Problem, Tensor], Multiplication]]


class Contestant(NamedTuple):
    """A row.

    Attributes:
        module: the file, or any other module with PRODUCTS.
        distribution: the package whose version counts.
        install: the command that installs it.
    """

    module: str
    distribution: str
    install: str


EXTRA = "pip install '.[benchmark]'"

CONTESTANTS = {
    "autograd": Contestant("benchmarks.contestants.by_hand", "torch", "pip install torch"),
    "pydvl": Contestant("benchmarks.contestants.of_pydvl", "pyDVL", f"{EXTRA} && pip install --no-deps pydvl==0.10.0"),
    "curvlinops": Contestant("benchmarks.contestants.of_curvlinops", "curvlinops-for-pytorch", EXTRA),
    "backpack": Contestant("benchmarks.contestants.of_backpack", "backpack-for-pytorch", EXTRA),
    "posteriors": Contestant("benchmarks.contestants.of_posteriors", "posteriors", EXTRA),
    "jax": Contestant("benchmarks.contestants.of_jax", "jax", EXTRA),
    "jax_reverse": Contestant("benchmarks.contestants.of_jax_reverse", "jax", EXTRA),
}


class NotOffered(Exception):  # noqa: N818 - it is no error
    """A contestant has no such product on this problem."""


class Field(NamedTuple):
    """Who takes part, and who does not, with the reason and what installs it."""

    products: dict[str, Products]
    versions: dict[str, str]
    missing: dict[str, str]


def field(names: Collection[str] | None = None) -> Field:
    """The contestants that are installed, and those that are missing."""
    found = Field({}, {}, {})
    for name, (module, distribution, install) in CONTESTANTS.items():
        if names is not None and name not in names:
            continue
        try:
            found.products[name] = import_module(module).PRODUCTS
            found.versions[distribution] = metadata.version(distribution)
        except Exception as error:  # whatever keeps it from being imported
            found.products.pop(name, None)
            found.missing[name] = f"{_line(error)}; install it by: {install}"
    return found


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:100]
