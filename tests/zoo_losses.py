"""Losses of one's own, as people write them: `(params, buffers, batch) -> (n,)` and, beside each, its twin on the model."""

import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F  # noqa: N812  # its usual name

from tests.zoo_rows import EVERY_LAW, NAN, Built, Row

OF_OUTPUTS = (
    *("generalized_gauss_newton", "forms generalized_gauss_newton", "averaged generalized_gauss_newton"),
    *("ensemble generalized_gauss_newton", "generalized_gauss_newton one vector", "monte_carlo_fisher"),
)  # a loss of one's own says nothing of outputs


def own(build, **special):
    return Row(build, without=OF_OUTPUTS, **special)


def field():
    return nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 1))


def physics():
    """The residual of a differential equation, u_xx + u_t = f, and of its boundary."""
    model = field()

    def loss(params, buffers, batch):
        points, source, wall, value = batch

        def u(x):
            return functional_call(model, (params, buffers), (x,)).squeeze(-1)

        def residual(x, f):
            slope = torch.func.grad(u)
            return torch.func.grad(lambda x: slope(x)[0])(x)[0] + slope(x)[1] - f

        return torch.vmap(residual)(points, source).square() + (u(wall) - value).square()

    def values(model, batch):
        points, source, wall, value = batch
        points = points.clone().requires_grad_()
        (slope,) = torch.autograd.grad(model(points).sum(), points, create_graph=True)
        (curve,) = torch.autograd.grad(slope[:, 0].sum(), points, create_graph=True)
        residual = curve[:, 0] + slope[:, 1] - source
        return residual.square() + (model(wall).squeeze(-1) - value).square()

    batch = torch.randn(3, 2), torch.randn(3), torch.randn(3, 2), torch.randn(3)
    return Built(model, batch, loss=loss, values=values)


class Autoencoder(nn.Module):
    """A variational autoencoder. The noise is an input, so that the model is a function."""

    def __init__(self):
        super().__init__()
        self.encoder, self.mean, self.log_variance = nn.Linear(3, 4), nn.Linear(4, 2), nn.Linear(4, 2)
        self.decoder = nn.Sequential(nn.Linear(2, 4), nn.ELU(), nn.Linear(4, 3))

    def forward(self, x, noise):
        hidden = F.softplus(self.encoder(x))
        mean, log_variance = self.mean(hidden), self.log_variance(hidden)
        return self.decoder(mean + torch.exp(0.5 * log_variance) * noise), mean, log_variance


def evidence(outputs, x):
    reconstruction, mean, log_variance = outputs
    divergence = -0.5 * (1 + log_variance - mean.pow(2) - log_variance.exp()).sum(-1)
    return F.binary_cross_entropy_with_logits(reconstruction, x, reduction="none").sum(-1) + divergence


def autoencoder():
    model = Autoencoder()

    def loss(params, buffers, batch):
        return evidence(functional_call(model, (params, buffers), (batch["x"], batch["noise"])), batch["x"])

    batch = {"x": torch.rand(3, 3), "noise": torch.randn(3, 2)}
    return Built(model, batch, loss=loss, values=lambda model, b: evidence(model(b["x"], b["noise"]), b["x"]))


def survival():
    """A Weibull regression with censoring: log hazard of the events, minus the hazard so far."""
    model = nn.Sequential(nn.Linear(3, 4), nn.SiLU(), nn.Linear(4, 2))

    def likelihood(output, times, event):
        shape, scale = F.softplus(output).unbind(-1)
        log_time = torch.log(times / scale)
        return torch.exp(shape * log_time) - event * (shape.log() - scale.log() + (shape - 1) * log_time)

    def loss(params, buffers, batch):
        x, times, event = batch
        return likelihood(functional_call(model, (params, buffers), (x,)), times, event)

    def values(model, batch):
        return likelihood(model(batch[0]), batch[1], batch[2])

    batch = torch.randn(3, 3), torch.rand(3) + 0.5, torch.tensor([1.0, 0.0, 1.0])
    return Built(model, batch, loss=loss, values=values)


def quantiles():
    """Three quantiles at once, as a criterion."""
    levels = torch.tensor([0.1, 0.5, 0.9])

    def pinball(output, target):
        error = target.unsqueeze(-1) - output
        return torch.maximum(levels * error, (levels - 1) * error).square().sum()

    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3))
    return Built(model, (torch.randn(3, 3), torch.randn(3)), pinball)


class GraphConvolution(nn.Module):
    """Messages along the edges of one graph."""

    def __init__(self):
        super().__init__()
        self.own, self.message, self.head = nn.Linear(3, 3), nn.Linear(3, 3, bias=False), nn.Linear(3, 2)

    def forward(self, x, edges):
        source, target = edges
        received = torch.zeros_like(x).index_add(0, target, self.message(x)[source])
        return self.head(torch.tanh(self.own(x) + received))


def two_graphs():
    """Two graphs in one batch, and the two as batches of their own."""
    x, labels = torch.randn(5, 3), torch.randint(2, (5,))
    edges = torch.tensor([[0, 1, 2, 3, 4, 3], [1, 0, 3, 4, 3, 2]])
    return (x, edges, labels), [(x[2:], edges[:, 2:] - 2, labels[2:]), (x[:2], edges[:, :2], labels[:2])]


def graph():
    model = GraphConvolution()

    def loss(params, buffers, batch):
        x, edges, labels = batch
        return F.cross_entropy(functional_call(model, (params, buffers), (x, edges)), labels, reduction="none")

    def values(model, batch):
        return F.cross_entropy(model(batch[0], batch[1]), batch[2], reduction="none")

    batch, parts = two_graphs()
    return Built(model, batch, loss=loss, values=values, parts=parts)


def graph_by_criterion():
    """Edges are no samples. A loss of one's own can say so; a criterion cannot."""
    whole, parts = two_graphs()
    batch, *parts = [((x, edges), labels) for x, edges, labels in (whole, *parts)]
    return Built(GraphConvolution(), batch, nn.CrossEntropyLoss(), parts=parts)


APART = "samples must not depend on each other"
MIXED = {
    "inverse_harmonic_mean": APART,
    "inverse_harmonic_mean held=0": APART,
    "forms inverse_harmonic_mean": APART,
    "sample_gradients": APART,
    "averaged inverse_harmonic_mean": APART,
}
AVERAGED = ("averaged hessian", "averaged gauss_newton", "averaged inverse_harmonic_mean")


def contrastive():
    """A loss in which each sample is the other's negative."""
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))

    def apart(left, right):
        left, right = F.normalize(left, dim=-1), F.normalize(right, dim=-1)
        return F.cross_entropy(left @ right.T / 0.5, torch.arange(len(left)), reduction="none")

    def loss(params, buffers, batch):
        return apart(*(functional_call(model, (params, buffers), (view,)) for view in batch))

    def values(model, batch):
        return apart(model(batch[0]), model(batch[1]))

    return Built(model, (torch.randn(3, 3), torch.randn(3, 3)), loss=loss, values=values)


def decayed():
    """A loss with a weight decay that is a buffer, and samples that are weighted."""
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3))
    model.register_buffer("decay", torch.tensor(0.1))

    def total(outputs, tensors, decay, batch):
        squares = sum(tensor.square().sum() for tensor in tensors)
        return batch["weight"] * F.cross_entropy(outputs, batch["y"], reduction="none") + decay / 2 * squares

    def loss(params, buffers, batch):
        outputs = functional_call(model, (params, buffers), (batch["x"],))
        return total(outputs, params.values(), buffers["decay"], batch)

    def values(model, batch):
        return total(model(batch["x"]), list(model.parameters()), model.decay, batch)

    batch = {"x": torch.randn(3, 3), "y": torch.randint(3, (3,)), "weight": torch.rand(3)}
    return Built(model, batch, loss=loss, values=values)


def distillation():
    """A second, fixed model is the teacher."""
    model, teacher = field(), field().requires_grad_(False)

    def loss(params, buffers, batch):
        return (functional_call(model, (params, buffers), (batch,)) - teacher(batch)).square().mean(-1)

    def values(model, batch):
        return (model(batch) - teacher(batch)).square().mean(-1)

    return Built(model, torch.randn(3, 2), loss=loss, values=values)


LOSSES = {
    "physics": own(physics),
    "autoencoder": own(autoencoder),
    "survival": own(survival),
    "quantiles": Row(quantiles),
    # torch.vmap cannot cut a graph: there the loss of the whole batch is taken.
    "graph": own(graph, mixes=True, refused={**MIXED, "ensemble inverse_harmonic_mean": APART}),
    "graph by a criterion": Row(graph_by_criterion, mixes=True, refused={EVERY_LAW: "one number of samples along axis 0"}),
    "contrastive": Row(
        contrastive,
        mixes=True,
        without=(*OF_OUTPUTS, *AVERAGED),  # a sample has other negatives in a part of the batch
        refused={**MIXED, "ensemble inverse_harmonic_mean": NAN, "ensemble gauss_newton": NAN},  # held=0 has a product there
    ),
    "weights and decay": own(decayed),
    "distillation": own(distillation),
}
