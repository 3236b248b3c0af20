"""What the library promises, one row for each figure: the ratio, the most that it should be, and whether it is met.

A new promise is a row of GOALS. A figure taken in a new way, such as the factors of many batches over one gradient of the same
data or over a contestant's factors, is a row of WAYS too; its other side is a row of OTHERS, or the product of a contestant.
"""

from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from typing import NamedTuple

from torch import Tensor

from benchmarks import sides
from benchmarks.agreement import compared
from benchmarks.cases.operations import GRADIENT, MATRICES, OPERATIONS
from benchmarks.cases.problems import RECIPES, Problem
from benchmarks.comparison import Comparison, Figure, NotMeasured, Side, figures, judged
from benchmarks.contestants import Products
from benchmarks.memory import peak_memories
from benchmarks.plan import Plan, progress
from benchmarks.report import Table, columns
from benchmarks.tables.operations import VECTORS

MEMBERS, MANY_MEMBERS, BATCHES = 8, 32, 20

PEAK = "peak"

ABOUT = (
    "our time over that of the other side, taken in turn; the gradient is a plain eager one; contestants run attention by "
    "torch's math kernel; the results differ by this share of their norm, and another number is not timed; "
    f"{PEAK}: the peak memory over that of a gradient, in tensors as large as the logits"
)


class Way(NamedTuple):
    """How our side is taken: the call, the number of vectors (0 for one alone), and the batches."""

    ours: Side
    vectors: int = 0
    batches: int = 1


class Goal(NamedTuple):
    """A ratio on each problem for each operation, and the most that it should be."""

    figure: str
    problems: tuple[str, ...]
    operations: tuple[str, ...]
    over: str
    at_most: float


WAYS = {
    "1 vector": Way(sides.ours),
    f"{VECTORS} vectors": Way(sides.ours, vectors=VECTORS),
    "compiled": Way(sides.compiled),
    f"{MEMBERS} members": Way(sides.ensemble(MEMBERS)),
    f"{MANY_MEMBERS} members": Way(sides.ensemble(MANY_MEMBERS)),
    f"{BATCHES} batches": Way(sides.average, batches=BATCHES),
}

OTHERS = {
    "one gradient": sides.gradient,
    "one vector at a time": sides.one_by_one,
    "our loop over them": sides.loop_of_ours(MEMBERS),
    "a loop that adds up": sides.added_by_hand,
}
"""The other sides that are no contestant's."""

LOOP = "a loop of "
"""Before the name of a contestant: its calls, one for each of MANY_MEMBERS members."""

_GN, _IHM, _GGN, _H = ("gauss_newton",), ("inverse_harmonic_mean",), ("generalized_gauss_newton",), ("hessian",)
_ALL, _MODES = MATRICES, tuple(name for name in OPERATIONS if name in MATRICES or name.startswith("hessian"))

GOALS = (
    Goal("1 vector", ("mlp", "mlp_module"), _GN, "one gradient", 1.8),
    Goal("1 vector", ("mlp", "mlp_module"), _GN, "curvlinops", 0.65),
    Goal("1 vector", ("mlp", "mlp_module"), _IHM, "one gradient", 2.0),
    Goal("1 vector", ("resnet",), _GN + _IHM, "pydvl", 0.9),
    Goal("16 vectors", ("resnet",), _GN, "pydvl", 0.9),
    Goal("1 vector", ("gpt",), _GN + _IHM, "pydvl", 0.75),
    Goal("16 vectors", ("gpt",), _GN, "pydvl", 0.75),
    Goal("1 vector", ("transformer",), _GN + _IHM, "pydvl", 0.9),
    Goal("1 vector", ("resnet", "cnn_module"), _GGN, "curvlinops", 0.95),
    Goal("1 vector", ("gpt",), _GGN, "curvlinops", 0.75),
    Goal("1 vector", ("mlp_module",), _GGN, "curvlinops", 0.7),
    Goal("1 vector", ("mlp", "cnn", "resnet", "cnn_module", "gpt", "mlp_module"), _H, "autograd", 1.1),
    Goal("1 vector", ("tiny",), _H, "autograd", 1.3),
    Goal("16 vectors", ("mlp",), _H, "autograd", 1.05),
    Goal("16 vectors", ("mlp_module",), _MODES, "one vector at a time", 1.0),
    Goal("compiled", ("mlp", "mlp_module"), _IHM, "one gradient", 2.5),
    Goal("compiled", ("cnn", "cnn_module"), _H, "one gradient", 2.3),
    Goal("compiled", ("resnet", "gpt"), _ALL, "one gradient", 2.5),
    Goal("32 members", ("tiny",), _H, "a loop of pydvl", 0.08),
    Goal("8 members", ("mlp64",), _GN + _IHM, "our loop over them", 0.6),
    Goal("8 members", ("mlp64",), _H + _GGN + ("monte_carlo_fisher",), "our loop over them", 1.0),
    Goal("8 members", ("resnet",), _ALL, "our loop over them", 1.0),
    Goal("8 members", ("tiny",), _ALL, "our loop over them", 0.5),
    Goal("8 members", ("gpt",), _ALL, "our loop over them", 0.8),
    Goal("20 batches", ("mlp",), _ALL, "a loop that adds up", 1.08),
    Goal("1 vector", ("gpt_vocabulary",), _GGN, "one gradient", 2.2),
    Goal(PEAK, ("gpt_vocabulary",), _GGN, "that of a gradient, in logits", 4.0),
    Goal("1 vector", ("gpt2",), _GN + _IHM, "one gradient", 2.0),
)


def targets_table(plan: Plan) -> Table:
    """A row for each goal whose problem and operation take part. A quick plan takes all problems that it names."""
    shown = columns(Figure)
    return Table(
        "targets", ABOUT, shown, chain(figures(comparisons(plan.field.products), plan._replace(quick=False)), peaks(plan))
    )


def comparisons(contestants: Mapping[str, Products]) -> Iterator[Comparison]:
    """The goals in time."""
    for figure, problems, operations, over, at_most in GOALS:
        if figure in WAYS:
            way = WAYS[figure]
            same = None if over == "one gradient" else compared
            for problem in problems:
                samples = way.batches * RECIPES[problem].samples
                for operation in operations:
                    theirs = OTHERS.get(over) or _contestant(over, operation, contestants)
                    two = way.ours, theirs
                    yield Comparison(figure, problem, operation, over, *two, same, way.vectors, at_most, samples)


def peaks(plan: Plan) -> Iterator[Figure]:
    """The goals in memory."""
    for figure, problems, operations, over, at_most in GOALS:
        for problem in problems if figure == PEAK else ():
            names = [operation for operation in operations if operation in plan.operations]
            if problem in plan.problems and names:
                yield from _peaks(problem, names, Figure(figure, problem, "", over, at_most=at_most))


def _peaks(problem: str, names: list[str], figure: Figure) -> Iterator[Figure]:
    progress(f"{figure.figure}: {', '.join(names)} on {problem}")
    recipe = RECIPES[problem]
    logits = recipe.samples * recipe.sample[0] * recipe.classes * 4 / 1e6
    least, *others = peak_memories(problem, recipe.samples, [GRADIENT, *names])
    for name, peak in zip(names, others, strict=True):
        yield judged(figure._replace(operation=name, ratio=(peak - least) / logits, peak=peak))


def _contestant(over: str, operation: str, contestants: Mapping[str, Products]) -> Side:
    """The side of a contestant: one product, or the products of all members."""
    name = over.removeprefix(LOOP)
    product = contestants.get(name, {}).get(operation)
    if product is None:
        return _missing(f"{name} takes no part")
    return sides.loop_of_theirs(MANY_MEMBERS, product) if over.startswith(LOOP) else sides.theirs(product)


def _missing(reason: str) -> Side:
    def side(_problem: Problem, _operation: str, _v: Tensor) -> Callable[[], object]:
        raise NotMeasured(reason)

    return side
