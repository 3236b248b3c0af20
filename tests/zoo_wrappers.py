"""Modules that reach their layers in unusual ways: closures, hooks, patches, parametrizations, wrappers, shared parts."""

import types
import warnings

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812  # its usual name
from torch.nn.utils import parametrizations, parametrize

from tests.zoo_rows import Built, Row


def vectors(model, width=3, plain=None):
    return Built(model.eval(), (torch.randn(3, width), torch.randint(3, (3,))), nn.CrossEntropyLoss(), plain=plain)


def of_vectors(build, width=3, **special):
    return Row(lambda: vectors(build(), width), **special)


class Closure(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 4), nn.Linear(4, 3)
        self.act = lambda h: torch.tanh(self.a(h))

    def forward(self, x):
        return self.b(self.act(x))


class Hooked(nn.Module):
    """A forward hook that calls another layer of the model, as adapters do."""

    def __init__(self):
        super().__init__()
        self.a, self.extra, self.b = nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 3)
        self.a.register_forward_hook(lambda module, args, output: output + self.extra(output))

    def forward(self, x):
        return self.b(torch.tanh(self.a(x)))


def two_layers():
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3))


def patched():
    model = two_layers()
    old = model.forward
    model.forward = lambda x: old(x) * 2.0
    return model


def bound():
    """A method of another class, bound to the instance."""
    model = two_layers()

    def forward(self, x):
        return self[2](self[1](self[0](x)) ** 2)

    model.forward = types.MethodType(forward, model)
    return model


class Listed(nn.Module):
    """Shared layers in a plain list, which torch does not see, and the same layers as attributes."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
        self.layers = [self.first, self.second, self.first]
        self.table = {"act": torch.tanh, "layer": self.second}

    def forward(self, x):
        for layer in self.layers:
            x = self.table["act"](layer(x))
        return self.table["layer"](x)


class PlainWeightNorm(nn.Module):
    """The formula of weight norm, along axis 0, under the names of the hook or of the parametrization."""

    def __init__(self, normed):
        super().__init__()
        self.names = [name for name, _ in normed.named_parameters() if name != "bias"]
        for name, tensor in normed.named_parameters():
            owner = self
            for part in name.split(".")[:-1]:
                owner.add_module(part, getattr(owner, part, nn.Module()))
                owner = getattr(owner, part)
            setattr(owner, name.rsplit(".", 1)[-1], nn.Parameter(tensor.detach().clone()))

    def forward(self, x):
        size, direction = (self.get_parameter(name) for name in self.names)
        return F.linear(x, direction * (size / direction.norm(dim=1, keepdim=True)), self.bias)


def weight_norm(how):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # the old hook is deprecated, and common
        layers = [how(nn.Linear(3, 4)), how(nn.Linear(4, 3))]
    plain = nn.Sequential(PlainWeightNorm(layers[0]), nn.Tanh(), PlainWeightNorm(layers[1]))
    return vectors(nn.Sequential(layers[0], nn.Tanh(), layers[1]), plain=plain)


def spectral_norm():
    model = nn.Sequential(parametrizations.spectral_norm(nn.Linear(3, 4)), nn.Tanh(), nn.Linear(4, 3))
    for _ in range(5):
        model(torch.randn(2, 3))  # power iterations
    return model


class Symmetric(nn.Module):
    """A parametrization of the user's own."""

    def forward(self, x):
        return x.triu() + x.triu(1).mT


def symmetric():
    layer = nn.Linear(3, 3)
    parametrize.register_parametrization(layer, "weight", Symmetric())
    return nn.Sequential(layer, nn.Tanh(), nn.Linear(3, 3))


class FiLM(nn.Module):
    """The condition scales and shifts the features."""

    def __init__(self):
        super().__init__()
        self.features, self.film, self.head = nn.Linear(3, 4), nn.Linear(2, 8), nn.Linear(4, 3)

    def forward(self, x, condition):
        gamma, beta = self.film(condition).chunk(2, dim=-1)
        return self.head(torch.tanh((1 + gamma) * self.features(x) + beta))


def film():
    inputs = {"condition": torch.randn(3, 2), "x": torch.randn(3, 3)}
    return Built(FiLM(), (inputs, torch.randint(3, (3,))), nn.CrossEntropyLoss())


class Mixture(nn.Module):
    """Experts with a gate, all of them run."""

    def __init__(self, experts=3):
        super().__init__()
        self.gate = nn.Linear(3, experts, bias=False)
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(3, 2), nn.SiLU(), nn.Linear(2, 3)) for _ in range(experts))

    def forward(self, x):
        weights = F.softmax(self.gate(x), dim=-1)
        return torch.einsum("bec,be->bc", torch.stack([expert(x) for expert in self.experts], dim=1), weights)


class StackedExperts(nn.Module):
    """Experts in one tensor, of which the best two of each sample count."""

    def __init__(self, experts=3):
        super().__init__()
        self.gate = nn.Linear(3, experts, bias=False)
        self.w1, self.w2 = nn.Parameter(torch.randn(experts, 3, 2)), nn.Parameter(torch.randn(experts, 2, 3))

    def forward(self, x):
        values, chosen = self.gate(x).topk(2, dim=-1)
        hidden = torch.einsum("bi,beio->beo", x, self.w1[chosen])
        return torch.einsum("beo,beoc,be->bc", torch.tanh(hidden), self.w2[chosen], values.softmax(-1))


class Equilibrium(nn.Module):
    """One layer in a loop of fixed length."""

    def __init__(self):
        super().__init__()
        self.inject, self.cell, self.head = nn.Linear(3, 3), nn.Linear(3, 3, bias=False), nn.Linear(3, 3)

    def forward(self, x):
        u = self.inject(x)
        z = torch.zeros_like(u)
        for _ in range(6):
            z = torch.tanh(0.5 * self.cell(z) + u)
        return self.head(z)


class ReZero(nn.Module):
    """Residual branches that begin at zero, one gate for each channel and one for all."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3)
        self.gates, self.alpha = nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(()))

    def forward(self, x):
        x = x + self.gates * torch.tanh(self.a(x))
        x = x + self.alpha * (self.b(x).mean(-1, keepdim=True) * x)
        return self.head(x)


class Wrapper(nn.Module):
    """Holds another module, and hands all arguments on."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, *args, **kwargs):
        return self.inner(*args, **kwargs)


class Delegating(nn.Module):
    """A wrapper whose attributes are those of what it wraps."""

    def __init__(self, inner):
        super().__init__()
        self.module = inner

    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("module"), name)

    def forward(self, *args, **kwargs):
        return self.module(*args, **kwargs)


class Keyed(nn.Module):
    """A dict of outputs."""

    def __init__(self):
        super().__init__()
        self.body, self.classes = nn.Linear(3, 4), nn.Linear(4, 3)

    def forward(self, x):
        features = torch.tanh(self.body(x))
        return {"features": features, "logits": self.classes(features)}


def keyed():
    def criterion(output, target):
        return F.cross_entropy(output["logits"], target)

    return Built(
        Keyed(),
        (torch.randn(3, 3), torch.randint(3, (3,))),
        criterion,
        pick=lambda output: output["logits"],
        wrap=lambda tensor: {"logits": tensor},
    )


class Fourier(nn.Module):
    """Random Fourier features in a buffer."""

    def __init__(self):
        super().__init__()
        self.register_buffer("frequencies", torch.randn(2, 3))
        self.net = nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 3))

    def forward(self, x):
        angles = 2 * torch.pi * x @ self.frequencies
        return self.net(torch.cat([angles.sin(), angles.cos()], -1))


class Siamese(nn.Module):
    """One encoder for two inputs."""

    def __init__(self):
        super().__init__()
        self.encoder, self.head = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 2)), nn.Linear(2, 1)

    def forward(self, left, right):
        return self.head((self.encoder(left) - self.encoder(right)).abs()).squeeze(-1)


def siamese():
    inputs = torch.randn(3, 3), torch.randn(3, 3)
    return Built(Siamese(), (inputs, torch.rand(3).round()), nn.BCEWithLogitsLoss())


class HyperNetwork(nn.Module):
    """A network that computes the weights of another one for each sample."""

    def __init__(self):
        super().__init__()
        self.hyper, self.bias = nn.Linear(2, 9), nn.Parameter(torch.zeros(3))

    def forward(self, x):
        weight = self.hyper(x[:, :2]).view(-1, 3, 3)
        return torch.bmm(weight, torch.sin(x).unsqueeze(-1)).squeeze(-1) + self.bias


class Cached(nn.Module):
    """Keeps its last features as an attribute."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.features = nn.Linear(3, 4), nn.Linear(4, 3), None

    def forward(self, x):
        self.features = torch.tanh(self.a(x))
        return self.b(self.features)


class Normalized(nn.Module):
    """Cosine similarities with prototypes, times a learned temperature."""

    def __init__(self):
        super().__init__()
        self.body, self.prototypes = nn.Linear(3, 3), nn.Parameter(torch.randn(3, 3))
        self.logit_scale = nn.Parameter(torch.tensor(0.7))

    def forward(self, x):
        x = F.normalize(self.body(x), dim=-1)
        return self.logit_scale.exp() * F.linear(x, F.normalize(self.prototypes, dim=-1))


WRAPPERS = {
    "closure": of_vectors(Closure),
    "hook": of_vectors(Hooked),
    "patched forward": of_vectors(patched),
    "bound forward": of_vectors(bound),
    "shared list": of_vectors(Listed),
    "weight norm hook": Row(lambda: weight_norm(nn.utils.weight_norm)),
    "weight norm parametrization": Row(lambda: weight_norm(parametrizations.weight_norm)),
    "spectral norm": of_vectors(spectral_norm),
    "orthogonal": of_vectors(
        lambda: nn.Sequential(parametrizations.orthogonal(nn.Linear(3, 3)), nn.Tanh(), nn.Linear(3, 3)),
    ),
    "own parametrization": of_vectors(symmetric),
    "film": Row(film),
    "mixture of experts": of_vectors(Mixture),
    "stacked experts": of_vectors(StackedExperts),
    "equilibrium": of_vectors(Equilibrium),
    "rezero": of_vectors(ReZero),
    "wrapper": of_vectors(lambda: Wrapper(two_layers())),
    "delegating wrapper": of_vectors(lambda: Delegating(two_layers())),
    "dict of outputs": Row(keyed, refused={"monte_carlo_fisher": "model must return one tensor"}),
    "fourier features": of_vectors(Fourier, 2),
    "siamese": Row(siamese),
    "hypernetwork": of_vectors(HyperNetwork),
    "cached features": of_vectors(Cached),
    "cosine classifier": of_vectors(Normalized),
}
