"""Every law of an operation, in one line."""

from collections.abc import Collection

from pure_batchops import checks
from pure_batchops.testing import algebra, forms, options, purity
from pure_batchops.testing.case import Case, Law, Twin
from pure_batchops.testing.derivative import derivative
from pure_batchops.testing.twin import twin as of_twin
from pure_batchops.types import Batch, Buffers, Operation, Params

LAWS: dict[str, Law] = {
    "linear": algebra.linear,
    "symmetric": algebra.symmetric,
    "semi_definite": algebra.semi_definite,
    "forms": forms.forms,
    "key_order": forms.key_order,
    "at": forms.at,
    "split": algebra.split,
    "twin": of_twin,
    "derivative": derivative,
    "ensemble": purity.ensemble,
    "nested": purity.nested,
    "untouched": purity.untouched,
    "compiled": purity.compiled,
}
"""Each law of an operation, by its name; its docstring is the law in words."""


def check_operation(
    op: Operation,
    params: Params,
    buffers: Buffers,
    batch: Batch,
    *,
    semi_definite: bool = False,
    laws: Collection[str] = tuple(LAWS),
    batch_dim: int = 0,
    rtol: float | None = None,
    atol: float | None = None,
    seed: int = 0,
    backend: str = "aot_eager",
    twin: Twin | None = None,
) -> tuple[str, ...]:
    """Check the laws of an operation at one point, `op(params, buffers, batch, v) = m(batch) v` for random v.

    The operation is given copies; params, buffers and batch stay as they are. In float64 a law is checked to seven
    digits, so that even small mistakes show.

    Args:
        op: the operation.
        params: a tree of floating-point tensors, D numbers in all.
        buffers: what else the operation reads.
        batch: a batch, of at least two points for the law `"split"`.
        semi_definite: whether m(batch) is claimed to be positive semi-definite.
        laws: the names of the laws to check, by default all of `LAWS`. `LAWS.keys() - {"split"}` is for a matrix that is no
            mean over the samples, or whose noise depends on their places in the batch; without `"compiled"` it is quick.
        batch_dim: the axis of the points in the tensors of the batch.
        rtol: the relative tolerance, by default that of `torch.testing.assert_close` for the dtype.
        atol: the absolute tolerance, likewise. In addition 32 epsilons of the largest number are allowed for rounding.
        seed: of the random vectors, cuts and orders.
        backend: of `torch.compile`; the default needs no C++ compiler. The compiler's caches are cleared first. Before
            torch 2.6 nothing is compiled.
        twin: `(params, buffers, batch) -> matrix (D, D)`, the same matrix computed in a slow and obvious way, with rows and
            columns in the order of the leaves of params. Without it some mistakes keep every law, as the opposite sign, twice
            the matrix, a damping, only the diagonal blocks, or params and buffers that are not looked at.

    Returns:
        The names of the laws that were checked: not those for which there is nothing to check, as the split of one point.

    Raises:
        AssertionError: if a law is broken, with the law in words, the number that differs most, and what it should be.
        TypeError: if op or twin is no function.
        ValueError: if laws are not among `LAWS`, or a tolerance is negative.

    Examples:
        >>> import torch
        >>> from pure_batchops import batch_operation, gauss_newton
        >>> op = gauss_newton(lambda params, buffers, x: (params["w"] * x).sin())
        >>> point = ({"w": torch.tensor([0.5])}, {}, torch.tensor([1.0, 2.0]))
        >>> check_operation(op, *point, semi_definite=True, laws=["linear", "semi_definite", "split"])
        ('linear', 'semi_definite', 'split')
        >>> total = batch_operation(lambda params, buffers, x: lambda v: {"w": x.sum() * v["w"]})
        >>> check_operation(total, *point, laws=["linear", "split"])
        Traceback (most recent call last):
        AssertionError: split: The product of a batch must be the mean over its parts, weighted by their points: ...
    """
    checks.function("op", op)
    if twin is not None:
        checks.function("twin", twin)
    case = Case(
        op,
        params,
        buffers,
        batch,
        checks.axis("batch_dim", batch_dim),
        checks.whole("seed", seed, 0),
        options.tolerance(rtol, atol),
        semi_definite,
        backend,
        twin,
    )
    return options.hold(case, options.chosen(laws, LAWS))
