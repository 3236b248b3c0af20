"""The Fisher information, from targets that are sampled from the model."""

import torch
from torch import Tensor, nn
from torch.func import grad

from pure_batchops import checks
from pure_batchops.losses.criterion import output_losses
from pure_batchops.noise import uniform
from pure_batchops.operations.generalized_gauss_newton import curvature_of_outputs
from pure_batchops.types import Forward, Likelihood, LinearMap, Operation, Tree


def monte_carlo_fisher(
    model: nn.Module | Forward,
    likelihood: str | Likelihood,
    *,
    samples: int = 1,
    seed: int | Tensor | torch.Generator = 0,
    batch_dim: int = 0,
    chunk_size: int | None = None,
) -> Operation:
    """The sampled Fisher, m(batch) = 1/(nS) Σᵢ Σₛ gᵢₛ gᵢₛᵀ, gᵢₛ = ∇θ −log p(yᵢₛ | model(xᵢ)), yᵢₛ drawn from the model.

    Its mean over draws is the Fisher. Gradients are taken at the outputs, so a product costs the same for any S. The noise
    depends on the seed and the place in the outputs alone: it is the same for every v and every K. Two batches draw the same
    noise. Over few large batches this hardly matters; over many small ones, raise `samples`.

    Args:
        model: as for `sample_losses`.
        likelihood: `"categorical"` (outputs are logits, classes along axis 1), `"bernoulli"` (logits), `"gaussian"` (means,
            of unit variance), or a `Likelihood` of your own. Log-likelihoods are summed over all but the samples.
        samples: S, the number of targets drawn for each sample.
        seed: a whole number; a 0-dim integer tensor, which may be vmapped, see `trace`; or a generator, which is read and
            not advanced.
        batch_dim: the axis of the samples in inputs and outputs.
        chunk_size: how many vectors are multiplied at once, see `batch_operation`.

    Returns:
        `op(params, buffers, batch, v) -> product`, linear, symmetric, positive semi-definite, of rank ≤ nS. The targets
        in the batch are not used and may be None.

    Raises:
        TypeError: if model is neither a module nor a function, or samples or seed is no whole number.
        ValueError: if likelihood is unknown, samples is not positive, or the model is in training mode. The operation
            raises it for a v or a batch that does not fit.

    Examples:
        The noise differs from sample to sample, and its mean square is near one:

        >>> op = monte_carlo_fisher(lambda params, buffers, x: params["w"] * x, "gaussian", samples=10_000)
        >>> product = op({"w": torch.tensor(3.0)}, {}, (torch.ones(2), None), torch.tensor([1.0]))
        >>> bool((product - 1).abs() < 0.05)
        True

    References:
        Kunstner, Balles and Hennig (2019), Limitations of the Empirical Fisher Approximation.
    """
    draw, criterion = _likelihood(likelihood)
    count, number, axis = checks.whole("samples", samples), _number(seed), checks.axis("batch_dim", batch_dim)
    losses = output_losses(criterion, 0)

    def curvature(outputs: Tree, _: Tree) -> LinearMap:
        if not isinstance(outputs, Tensor):
            msg = f"model must return one tensor to sample targets from, got {type(outputs).__name__}"
            raise ValueError(msg)
        dim = axis  # C2
        rows = outputs.movedim(dim, 0)
        noise = uniform(number, (count, *rows.shape), like=rows)
        drawn = torch.vmap(draw, in_dims=(None, 0))(rows, noise)
        losses(rows.detach(), drawn[0])  # outside of vmap, where a criterion that must be refused is refused with words
        gradients = torch.vmap(lambda y: grad(lambda o: losses(o, y).sum())(rows))(drawn)  # (S, n, …)

        def curve(u: Tensor) -> Tensor:
            along = (gradients * u.movedim(dim, 0)).flatten(2).sum(-1) if rows.dim() > 1 else gradients * u
            weights = along.reshape(*along.shape, *[1] * (rows.dim() - 1)) / along.shape[1]  # gᵢₛ·uᵢ / n
            return (gradients * weights).mean(0).movedim(0, dim)

        return curve

    return curvature_of_outputs(model, curvature, batch_dim=axis, chunk_size=chunk_size)


def _likelihood(likelihood: str | Likelihood) -> Likelihood:
    if isinstance(likelihood, str) and likelihood in _LIKELIHOODS:
        return _LIKELIHOODS[likelihood]
    if isinstance(likelihood, tuple) and len(likelihood) == 2 and all(map(callable, likelihood)):
        return Likelihood(*likelihood)
    msg = f"likelihood must be one of {', '.join(map(repr, _LIKELIHOODS))} or a Likelihood, got {likelihood!r}"
    raise ValueError(msg)


def _number(seed: int | Tensor | torch.Generator) -> int | Tensor:
    if not isinstance(seed, torch.Generator):
        return checks.seed("seed", seed)
    twin = torch.Generator(seed.device)
    twin.set_state(seed.get_state())
    return int(torch.randint(2**62, (), generator=twin, device=seed.device))


def _classes(logits: Tensor, noise: Tensor) -> Tensor:
    """The largest of the logits with Gumbel noise is a draw from their softmax."""
    if logits.dim() < 2:
        msg = f"model must return logits of shape (n, classes, …) for a categorical likelihood, got {tuple(logits.shape)}"
        raise ValueError(msg)
    return (logits - (-noise.log()).log()).argmax(1)


def _coins(logits: Tensor, noise: Tensor) -> Tensor:
    return (noise < logits.sigmoid()).to(logits.dtype)


def _normals(means: Tensor, noise: Tensor) -> Tensor:
    return means + (2**0.5 * torch.erfinv(2 * noise - 1)).to(means.dtype)


def _half_squares(output: Tensor, target: Tensor) -> Tensor:
    return (output - target).square().sum() / 2


_LIKELIHOODS = {
    "categorical": Likelihood(_classes, nn.CrossEntropyLoss(reduction="sum")),
    "bernoulli": Likelihood(_coins, nn.BCEWithLogitsLoss(reduction="sum")),
    "gaussian": Likelihood(_normals, _half_squares),
}
