"""What is known of a function beside its signature: written by `marked`, read by `traits_of`, and nowhere else."""

from collections.abc import Callable
from functools import partial, update_wrapper
from typing import Any, TypeVar, cast

from pure_batchops import checks
from pure_batchops.types import Traits

F = TypeVar("F", bound=Callable[..., Any])


def declared(function: F, *, batch_dim: int | None = None, independent: bool | None = None) -> F:
    """The same function, with facts that its signature does not tell.

    A loss of `sample_losses` declares its facts itself. A loss written by hand can say on which axis its samples lie, and that
    no sample depends on another one. The second opens the fastest route to the gradients of its samples. The route does not
    check it, but `pure_batchops.testing.check_loss` proves or refutes it.

    Args:
        function: a loss, `(params, buffers, batch) -> (n,)`.
        batch_dim: the axis of the samples in the tensors of its batches; 0 for a function that does not say.
        independent: whether the loss of each sample depends on no other sample.

    Returns:
        A new function. A `functools.partial` of it keeps the facts. Any other function around it, such as a lambda or a
        decorator, loses them: its products are the same numbers, by a slower route.

    Raises:
        TypeError: if function is no function, batch_dim no whole number, or independent neither True nor False.

    Examples:
        >>> import torch
        >>> def loss(params, buffers, x):  # samples along axis 1
        ...     return (params["w"] * x).square().sum(0)
        >>> from pure_batchops import gradient_norms
        >>> norms = gradient_norms(declared(loss, batch_dim=1, independent=True))
        >>> norms({"w": torch.tensor(1.0)}, {}, torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 1.0]]))
        tensor([ 2.,  8., 20.])
    """
    checks.function("function", function)
    if batch_dim is not None:
        batch_dim = checks.axis("batch_dim", batch_dim)
    if independent is not None:
        checks.boolean("independent", independent)
    known = traits_of(function)
    known = known if batch_dim is None else known._replace(batch_dim=batch_dim)
    known = known if independent is None else known._replace(independent=independent)

    def same(*arguments: Any) -> Any:
        return function(*arguments)

    update_wrapper(same, function, updated=())
    if hasattr(function, "at"):
        same.at = function.at  # type: ignore[attr-defined]
    return marked(cast("F", same), known)


def marked(function: F, traits: Traits) -> F:
    """A function that its caller has just made, with a record of what is known of it."""
    # A decorator with functools.wraps copies attributes. The record names its function, so that a copy is not believed.
    function.traits = (function, traits)  # type: ignore[attr-defined]
    return function


def traits_of(function: Any) -> Traits:
    """What is known of a function; of a plain function, nothing. A `functools.partial` is looked through."""
    owner, traits = getattr(function, "traits", (None, Traits()))
    if owner is function:
        known: Traits = traits
        return known
    return traits_of(function.func) if isinstance(function, partial) else Traits()
