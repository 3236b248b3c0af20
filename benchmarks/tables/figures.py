"""Ensembles under vmap, and compiled operations, each against what they replace."""

from collections.abc import Iterator, Mapping

from benchmarks import sides
from benchmarks.cases.operations import OPERATIONS
from benchmarks.comparison import Comparison, Figure, figures
from benchmarks.contestants import Products
from benchmarks.plan import Plan
from benchmarks.report import Table, columns

MEMBERS = 32

PROBLEMS = ("tiny", "mlp")
"""For compiled operations. A convolution runs the same routine, compiled or not."""

ABOUT = (
    f"an ensemble of {MEMBERS} members in one call of vmap over a contestant's loop over them, and operations under "
    "torch.compile, whose compilation is not in the time"
)


def figures_table(plan: Plan) -> Table:
    """A row for each comparison whose problem, operation and contestant take part."""
    shown = columns(Figure, without=("differ_by", "peak", "at_most", "met"))
    return Table("figures", ABOUT, shown, figures(comparisons(plan.field.products), plan))


def comparisons(contestants: Mapping[str, Products]) -> Iterator[Comparison]:
    """The comparisons with these contestants, and with the plain gradient."""
    theirs = contestants.get("pydvl", {})
    for operation in ("hessian", "gauss_newton", "inverse_harmonic_mean"):
        if operation in theirs:
            loop = sides.loop_of_theirs(MEMBERS, theirs[operation])
            for name, ours in (("vmap", sides.ensemble(MEMBERS)), ("vmap+compile", sides.compiled_ensemble(MEMBERS))):
                yield Comparison(name, "tiny", operation, f"pydvl, a loop over {MEMBERS} members", ours, loop, same=None)
    for problem in PROBLEMS:
        for operation in ("hessian", "gauss_newton"):
            for name in ("jax", "jax_reverse"):
                theirs = contestants.get(name, {})
                if operation in theirs:
                    single = sides.theirs(theirs[operation])
                    yield Comparison("compile", problem, operation, f"{name}, jit", sides.compiled, single, same=None)
    for problem in PROBLEMS:
        for operation in OPERATIONS:
            over = "one plain gradient, eager"
            yield Comparison("compile", problem, operation, over, sides.compiled, sides.gradient, same=None)
