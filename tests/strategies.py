"""Small models, batches and vectors: hypothesis draws kinds, sizes and one seed, torch draws the numbers (float64)."""

from typing import Any, NamedTuple

import torch
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F  # noqa: N812

import pure_batchops as pb


class Problem(NamedTuple):
    """A model with its criterion and batch; `tensors` are the model's own parameters, in the order of params."""

    kind: str
    model: nn.Module
    criterion: Any
    batch: Any
    params: dict
    buffers: dict
    batch_dim: int = 0

    @property
    def loss(self):
        return pb.sample_losses(self.model, self.criterion, self.batch_dim)

    @property
    def tensors(self):
        named = dict(self.model.named_parameters())
        return [named[name] for name in self.params]

    @property
    def numbers(self):
        return sum(tensor.numel() for tensor in self.params.values())


class Recurrent(nn.Module):
    """A GRU cell, unrolled; the samples are along axis 1."""

    def __init__(self):
        super().__init__()
        self.cell, self.head = nn.GRUCell(2, 2), nn.Linear(2, 2)

    def forward(self, x):
        state, outputs = x.new_zeros(x.shape[1], 2), []
        for step in x:
            state = self.cell(step, state)
            outputs.append(self.head(state))
        return torch.stack(outputs)


class Tied(nn.Module):
    """An embedding whose weight is that of the output layer."""

    def __init__(self):
        super().__init__()
        self.embedding, self.head = nn.Embedding(5, 3), nn.Linear(3, 5, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens):
        return self.head(self.embedding(tokens).tanh().mean(1))


class Twice(nn.Module):
    """A linear layer that is used twice, one that is not used at all, and parameters outside any layer."""

    def __init__(self):
        super().__init__()
        self.layer, self.unused = nn.Linear(3, 3), nn.Linear(2, 1)
        self.scale, self.shift = nn.Parameter(torch.rand(3) + 0.5), nn.Parameter(torch.randn(()))

    def forward(self, inputs):
        hidden = self.layer(self.layer(inputs["x"]).tanh()) * self.scale
        return hidden + self.shift * inputs["more"][0] * (self.layer.weight**2).sum()


class One(nn.Module):
    """One parameter."""

    def __init__(self):
        super().__init__()
        self.slope = nn.Parameter(torch.randn(1))

    def forward(self, x):
        return (self.slope * x).sin()


def _perceptron(n):
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3))
    return model, nn.CrossEntropyLoss(), (torch.randn(n, 3), torch.randint(3, (n,)))


def _convolution(n):
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 2))
    nn.init.normal_(model[1].running_mean)
    nn.init.uniform_(model[1].running_var, 0.5, 2)
    return model, nn.MSELoss(), (torch.randn(n, 1, 4, 4), torch.randn(n, 2))


def _norms(n):
    # Groups of two with a small eps are steps, of which no finite difference can be taken.
    model = nn.Sequential(nn.Linear(3, 4), nn.GroupNorm(2, 4, eps=0.3), nn.Sigmoid(), nn.LayerNorm(4), nn.Linear(4, 2))
    return model, nn.BCEWithLogitsLoss(reduction="sum"), (torch.randn(n, 3), torch.rand(n, 2))


def _attention(n):
    layer = nn.TransformerEncoderLayer(4, 2, 4, dropout=0.1, activation="gelu", batch_first=True)
    model = nn.Sequential(layer, nn.Flatten(), nn.Linear(8, 2))
    return model, nn.CrossEntropyLoss(label_smoothing=0.1), (torch.randn(n, 2, 4), torch.randint(2, (n,)))


def _recurrent(n):
    return Recurrent(), nn.MSELoss(), (torch.randn(3, n, 2), torch.randn(3, n, 2)), 1


def _tied(n):
    weight = torch.rand(5, dtype=torch.float64) + 0.5  # each loss is weighed: only with reduction="none" is that one number
    return Tied(), nn.CrossEntropyLoss(weight, reduction="none"), (torch.randint(5, (n, 2)), torch.randint(5, (n,)))


def _twice(n):
    inputs = {"x": torch.randn(n, 3), "more": [torch.randn(n, 1)]}
    return Twice(), lambda output, target: (output - target).pow(4).sum(), (inputs, torch.randn(n, 3))


def _sequence(n):
    def criterion(output, target):
        return F.cross_entropy(output.transpose(1, 2), target)

    return nn.Linear(2, 3), criterion, (torch.randn(n, 4, 2), torch.randint(3, (n, 4)))


def _one(n):
    return One(), nn.HuberLoss(), (torch.randn(n, 1), torch.randn(n, 1))


KINDS = {
    "perceptron": _perceptron,
    "convolution": _convolution,
    "norms": _norms,
    "attention": _attention,
    "recurrent": _recurrent,
    "tied": _tied,
    "twice": _twice,
    "sequence": _sequence,
    "one": _one,
}


def problem(kind: str, n: int = 3, seed: int = 0, restrict_to: Any = None) -> Problem:
    """A problem of this kind with n samples, in float64."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        default = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)
        try:
            model, criterion, batch, *batch_dim = KINDS[kind](n)
        finally:
            torch.set_default_dtype(default)
    params, buffers = pb.functional_state(model.eval(), restrict_to)
    return Problem(kind, model, criterion, batch, params, buffers, *batch_dim)


seeds = st.integers(0, 2**31 - 1)


@st.composite
def problems(draw: Any, kinds: Any = tuple(KINDS)) -> Problem:
    """A problem of any kind, sometimes restricted to some of its parameters."""
    kind, n, seed = draw(st.sampled_from(kinds)), draw(st.integers(1, 4)), draw(seeds)
    whole = problem(kind, n, seed)
    if not draw(st.booleans()):
        return whole
    chosen = draw(st.lists(st.sampled_from(list(whole.params)), min_size=1, unique=True))
    return problem(kind, n, seed, chosen)


def vectors(params: Any, count: int | None, seed: int) -> dict:
    """A tree like params, with a leading axis for K vectors."""
    generator = torch.Generator().manual_seed(seed)
    lead = () if count is None else (count,)
    return {
        name: torch.randn((*lead, *leaf.shape), generator=generator, dtype=torch.float64).to(leaf.dtype)
        for name, leaf in params.items()
    }


def flat(tree: dict, count: int | None = None) -> torch.Tensor:
    """A tree of vectors as (D,) or (K, D)."""
    if count is None:
        return torch.cat([leaf.reshape(-1) for leaf in tree.values()])
    return torch.cat([leaf.reshape(count, leaf.shape[1:].numel()) for leaf in tree.values()], -1)
