"""Who else computes the same: one file for each contestant, loaded when somebody asks for it, and one row here.

A file has `PRODUCTS`, from names of OPERATIONS to functions `(problem, v) -> Multiplication` for v `(D,)` or `(K, D)`. It may
have `INFLUENCES`, from names of OPERATIONS to functions `(problem, train, test) -> call` that give the influences,
`(test points, training points)`, by the inverse of that matrix. A function raises `NotOffered` for the problems that the
contestant cannot do. A file imports nothing from the tables.

Where a model has attention, the products of contestants run with plain attention, as the fused kernels have no second
derivative. Ours, and the plain gradient, run as a user calls them.
"""

from collections.abc import Callable, Collection
from functools import partial
from importlib import import_module, metadata
from typing import Any, NamedTuple

from torch import Tensor

from benchmarks.cases.attention import plain_attention
from benchmarks.cases.problems import Batch, Problem
from benchmarks.times import Call


class Multiplication(NamedTuple):
    """A product that is ready to run: what a contestant need not repeat for each vector is done.

    Attributes:
        call: multiplies the vector, in the contestant's own form.
        flat: turns the result of the call into `(D,)` or `(K, D)`.
    """

    call: Call
    flat: Callable[[Any], Tensor]


Product = Callable[[Problem, Tensor], Multiplication]
Products = dict[str, Product]
Influences = dict[str, Callable[[Problem, list[Batch], Batch], Callable[[], Tensor]]]


class Contestant(NamedTuple):
    """A row.

    Attributes:
        module: the file, or any other module with PRODUCTS.
        distribution: the package whose version the heading shows.
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
    """Who takes part, and who is missing.

    Attributes:
        products: the products of each contestant.
        influences: the influences of each contestant that has some.
        versions: of the distributions.
        missing: for each missing contestant the reason, and the command that installs it.
    """

    products: dict[str, Products]
    influences: dict[str, Influences]
    versions: dict[str, str]
    missing: dict[str, str]


def field(names: Collection[str] | None = None) -> Field:
    """The contestants that are installed, and those that are missing."""
    everybody = Field({}, {}, {}, {})
    for name, (module, distribution, install) in CONTESTANTS.items():
        if names is not None and name not in names:
            continue
        try:
            contestant, version = import_module(module), metadata.version(distribution)
        except Exception as error:  # any reason for a failing import
            everybody.missing[name] = f"{reason(error)}; install it by: {install}"
            continue
        everybody.products[name] = {key: partial(_attending, product) for key, product in contestant.PRODUCTS.items()}
        everybody.influences[name] = getattr(contestant, "INFLUENCES", {})
        everybody.versions[distribution] = version
    return everybody


def _attending(product: Product, problem: Problem, v: Tensor) -> Multiplication:
    """The product of a contestant, with plain attention if the problem has attention."""
    if not problem.attention:
        return product(problem, v)
    with plain_attention():  # some look at the model before they multiply
        multiplication = product(problem, v)

    def call() -> object:
        with plain_attention():
            return multiplication.call()

    return multiplication._replace(call=call)


def reason(error: Exception) -> str:
    """Why something failed, short enough for a line of a table."""
    return f"{type(error).__name__}: {error}".splitlines()[0][:100]
