"""The problems on which operations are measured: a model, its loss and a seeded batch, in float32."""

from collections.abc import Callable
from copy import deepcopy
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from pure_batchops import SampleLosses, functional_state, sample_losses, stack_states

Batch = tuple[Tensor, Tensor]


class Problem(NamedTuple):
    """What a contestant needs, whether it takes a module or pure functions."""

    name: str
    loss: SampleLosses
    model: nn.Module
    criterion: Callable[[Tensor, Tensor], Tensor]
    params: dict[str, Tensor]
    buffers: dict[str, Tensor]
    batch: Batch


class Recipe(NamedTuple):
    """What makes a problem.

    Attributes:
        model: makes the module.
        sample: the shape of one input.
        classes: their number.
        samples: the size of the batch.
        many: whether many vectors are measured too; on a slow problem they are not.
    """

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


def problem_named(name: str, samples: int | None = None) -> Problem:
    """The problem of that name, the same at each call, with the recipe's number of samples or another one."""
    return problem_of(name, RECIPES[name], samples)


def problem_of(name: str, recipe: Recipe, samples: int | None = None) -> Problem:
    """The problem of a recipe."""
    n = samples or recipe.samples
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = recipe.model().eval()
        batch = torch.randn(n, *recipe.sample), torch.randint(recipe.classes, (n,))
    params, buffers = functional_state(model)
    return Problem(name, sample_losses(model, cross_entropy), model, cross_entropy, params, buffers, batch)


def pieces(batch: Batch, size: int) -> list[Batch]:
    """The batch in batches of this size; the last one may be smaller."""
    return list(zip(*(part.split(size) for part in batch), strict=True))


def dimension(problem: Problem) -> int:
    """D, the number of parameters."""
    return sum(leaf.numel() for leaf in problem.params.values())


def plain_gradient(problem: Problem) -> Callable[[], object]:
    """The call that takes the gradient of the mean loss by autograd, from the module itself: the unit of all times."""
    inputs, targets = problem.batch
    parameters = list(problem.model.parameters())
    return lambda: torch.autograd.grad(problem.criterion(problem.model(inputs), targets), parameters)


def vectors(problem: Problem, *shape: int) -> Tensor:
    """Flat vectors of normal numbers, `(*shape, D)`."""
    return torch.randn(*shape, dimension(problem), generator=torch.Generator().manual_seed(1))


def members(problem: Problem, count: int) -> list[Problem]:
    """An ensemble: copies of the problem, each with slightly different parameters."""
    noise = torch.Generator().manual_seed(2)
    copies = []
    for _ in range(count):
        model = deepcopy(problem.model)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.01 * torch.randn(parameter.shape, generator=noise)
        params, buffers = functional_state(model)
        copies.append(problem._replace(model=model, params=params, buffers=buffers))
    return copies


def stacked_members(problem: Problem, count: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The params and buffers of the ensemble, each with a leading axis."""
    return stack_states([(member.params, member.buffers) for member in members(problem, count)])


def perceptron(*widths: int, activation: Callable[[], nn.Module] = nn.ReLU) -> nn.Module:
    """Linear layers of these widths, with the activation between them."""
    layers: list[nn.Module] = []
    for fan_in, fan_out in zip(widths, widths[1:], strict=False):
        layers += [nn.Linear(fan_in, fan_out), activation()]
    return nn.Sequential(*layers[:-1])


def _convolutional() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(32, 32, 3, padding=1), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(2048, 10)),
    )


class _Transformer(nn.Module):
    """One transformer block, the mean over the positions, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.TransformerEncoderLayer(256, 4, dim_feedforward=1024, dropout=0.0, batch_first=True)
        self.head = nn.Linear(256, 10)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.block(inputs).mean(1))
