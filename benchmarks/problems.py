"""The problems on which operations are measured: a model, its loss and a seeded batch, in float32."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from pure_batchops import SampleLosses, functional_state, sample_losses


class Problem(NamedTuple):
    """All that a contestant needs, whether it takes a module or pure functions."""

    name: str
    loss: SampleLosses
    model: nn.Module
    criterion: Callable[[Tensor, Tensor], Tensor]
    params: dict[str, Tensor]
    buffers: dict[str, Tensor]
    batch: tuple[Tensor, Tensor]


class Recipe(NamedTuple):
    """What tells one problem from another; where `many` is false it is too slow for many vectors."""

    model: Callable[[], nn.Module]
    sample: tuple[int, ...]
    classes: int
    samples: int
    many: bool = True


RECIPES = {
    "tiny": Recipe(lambda: perceptron(10, 32, 32, 3), (10,), classes=3, samples=64),
    "mlp": Recipe(lambda: perceptron(784, 512, 512, 10), (784,), classes=10, samples=128),
    "cnn": Recipe(lambda: _convolutional(), (3, 32, 32), classes=10, samples=64),
    "transformer": Recipe(lambda: _Transformer(), (64, 256), classes=10, samples=16, many=False),
}


def problem(name: str, samples: int | None = None) -> Problem:
    """The problem of that name, the same at each call, on the recipe's number of samples or another."""
    return made(name, RECIPES[name], samples)


def made(name: str, recipe: Recipe, samples: int | None = None) -> Problem:
    """The problem of a recipe."""
    n = samples or recipe.samples
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = recipe.model().eval()
        batch = torch.randn(n, *recipe.sample), torch.randint(recipe.classes, (n,))
    params, buffers = functional_state(model)
    return Problem(name, sample_losses(model, cross_entropy), model, cross_entropy, params, buffers, batch)


def dimension(params: dict[str, Tensor]) -> int:
    """D, the number of parameters."""
    return sum(leaf.numel() for leaf in params.values())


def plain_gradient(problem: Problem) -> Callable[[], object]:
    """The gradient of the mean loss as everybody takes it, from the module itself: the unit of all figures."""
    inputs, targets = problem.batch
    parameters = list(problem.model.parameters())
    return lambda: torch.autograd.grad(problem.criterion(problem.model(inputs), targets), parameters)


def vectors(problem: Problem, *shape: int) -> Tensor:
    """Flat vectors of normal numbers, `(*shape, D)`."""
    return torch.randn(*shape, dimension(problem.params), generator=torch.Generator().manual_seed(1))


def members(problem: Problem, count: int) -> list[Problem]:
    """An ensemble: the problem with parameters that are each a little different."""
    noise = torch.Generator().manual_seed(2)
    found = []
    for _ in range(count):
        model = deepcopy(problem.model)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.01 * torch.randn(parameter.shape, generator=noise)
        params, buffers = functional_state(model)
        found.append(problem._replace(model=model, params=params, buffers=buffers))
    return found


@contextmanager
def plain_attention() -> Generator[None, None, None]:
    """Attention by plain matrix products for all contestants: its fused kernels have no second derivative."""
    attention: Any = getattr(torch.nn, "attention", None)  # torch 2.3
    if attention:
        plain = attention.sdpa_kernel(attention.SDPBackend.MATH)
    else:
        plain = torch.backends.cuda.sdp_kernel(enable_flash=False, enable_mem_efficient=False)
    fast_path = getattr(torch.backends, "mha", None)
    switch = getattr(fast_path, "set_fastpath_enabled", lambda value: None)  # noqa: ARG005
    before = getattr(fast_path, "get_fastpath_enabled", lambda: True)()
    switch(value=False)
    try:
        with plain:
            yield
    finally:
        switch(value=before)


def perceptron(*widths: int) -> nn.Module:
    """Linear layers of these widths, with ReLU between them."""
    layers: list[nn.Module] = []
    for fan_in, fan_out in zip(widths, widths[1:], strict=False):
        layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def _convolutional() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(32, 32, 3, padding=1), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(2048, 10)),
    )


class _Transformer(nn.Module):
    """One block of a transformer, the mean over the positions, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.TransformerEncoderLayer(256, 4, dim_feedforward=1024, dropout=0.0, batch_first=True)
        self.head = nn.Linear(256, 10)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.block(inputs).mean(1))
