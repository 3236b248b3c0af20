"""Do two trees hold the same numbers? If not, which numbers differ most?"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from pure_batchops.trees import Path, named, named_leaves
from pure_batchops.types import Tree

_DEFAULTS = {  # as in torch.testing.assert_close
    torch.float16: (1e-3, 1e-5),
    torch.bfloat16: (1.6e-2, 1e-5),
    torch.float32: (1.3e-6, 1e-5),
    torch.float64: (1e-7, 1e-7),
}


class Tolerance(NamedTuple):
    """|actual − expected| ≤ atol + rtol |expected| + 32 ε max |expected|. None means torch's default for the dtype.

    Attributes:
        rtol: the relative part.
        atol: the absolute part.
        rounding: how many epsilons of the largest number every number may be off, because sums lose digits of it.
    """

    rtol: float | None = None
    atol: float | None = None
    rounding: int = 32

    def allowed(self, expected: Tensor, largest: float, dtype: torch.dtype) -> Tensor:
        """What each number may differ by."""
        rtol, atol = _DEFAULTS.get(dtype, (0.0, 0.0))
        rtol, atol = rtol if self.rtol is None else self.rtol, atol if self.atol is None else self.atol
        rounding = self.rounding * torch.finfo(dtype).eps * largest if dtype.is_floating_point else 0.0
        return atol + rtol * expected.abs() + rounding


EXACT = Tolerance(0, 0, 0)


class Difference(NamedTuple):
    """The number of a leaf that differs most, relative to the allowed difference."""

    excess: float
    words: str


def agree(actual: Tree, expected: Tree, tolerance: Tolerance, where: str = "") -> None:
    """Check that two trees have the same leaves in the same order, of one shape and dtype, with the same numbers.

    Raises:
        AssertionError: if they do not, with the number that differs most.
    """
    after = f" {where}" if where else ""
    found, wanted = named_leaves(actual), named_leaves(expected)
    if list(found) != list(wanted):
        msg = f"got the leaves {_listed(found)} where {_listed(wanted)} are expected, in this order{after}"
        raise AssertionError(msg)
    for path, leaf in wanted.items():
        if _kind(found[path]) != _kind(leaf):
            msg = f"got {_kind(found[path])} at {named(path)} where {_kind(leaf)} is expected{after}"
            raise AssertionError(msg)
    numbers = {path: leaf.detach().cpu().double() for path, leaf in wanted.items() if isinstance(leaf, Tensor)}
    largest = max((leaf.abs().max().item() for leaf in numbers.values() if leaf.numel()), default=0.0)
    differences = [
        _difference(path, found[path].detach().cpu().double(), leaf, tolerance.allowed(leaf, largest, wanted[path].dtype))
        for path, leaf in numbers.items()
        if leaf.numel()
    ]
    worst = max(differences, default=Difference(0.0, ""))
    if worst.excess > 1:
        msg = f"{worst.words}{after}"
        raise AssertionError(msg)


def _difference(path: Path, found: Tensor, wanted: Tensor, allowed: Tensor) -> Difference:
    difference = torch.where(found == wanted, 0.0, (found - wanted).abs())
    excess = torch.where(difference == 0, 0.0, difference / allowed).nan_to_num(nan=torch.inf)
    index = tuple((excess == excess.max()).nonzero()[0].tolist())
    got, expected, gap, limit = (tensor[index].item() for tensor in (found, wanted, difference, allowed))
    return Difference(
        excess[index].item(),
        f"got {got:.9g} at {named(path)}{list(index) or ''} where {expected:.9g} is expected, a difference of {gap:.3g} "
        f"({limit:.3g} is allowed; {int((excess > 1).sum())} of {excess.numel()} numbers differ there)",
    )


def _kind(leaf: Any) -> str:
    return f"a tensor of shape {tuple(leaf.shape)} and {leaf.dtype}" if isinstance(leaf, Tensor) else repr(leaf)


def _listed(found: dict[Path, Any]) -> str:
    return ", ".join(map(named, found)) or "none"
