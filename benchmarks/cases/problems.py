"""The problems on which operations are measured: a model, its loss and a seeded batch, in float32."""

from collections.abc import Callable, Iterable
from copy import deepcopy
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from benchmarks.cases import models
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
    attention: bool = False


class Recipe(NamedTuple):
    """What makes a problem.

    Attributes:
        model: makes the module.
        sample: the shape of one input.
        classes: their number.
        samples: the size of the batch.
        many: whether the tables measure many vectors too; on a slow problem they do not.
        tokens: whether each input is a text of tokens. Each token is one of the classes, and has a target.
        attention: whether contestants need attention by plain matrix products.
        tabled: whether it is in the tables `operations` and `peers` too, and not in `targets` alone.
    """

    model: Callable[[], nn.Module]
    sample: tuple[int, ...]
    classes: int
    samples: int
    many: bool = True
    tokens: bool = False
    attention: bool = False
    tabled: bool = True


_TEXTS = Recipe(lambda: models.GPT(256), (64,), 256, samples=8, many=False, tokens=True, attention=True)

RECIPES = {
    "tiny": Recipe(lambda: models.perceptron(10, 32, 32, 3), (10,), classes=3, samples=64),
    "mlp": Recipe(lambda: models.perceptron(784, 512, 512, 10), (784,), classes=10, samples=128),
    "cnn": Recipe(lambda: models.convolutional(), (3, 32, 32), classes=10, samples=64),
    "transformer": Recipe(lambda: models.Transformer(), (64, 256), classes=10, samples=16, many=False, attention=True),
    "mlp_module": Recipe(lambda: models.Perceptron(784, 512, 512, 10), (784,), classes=10, samples=128, many=False),
    "cnn_module": Recipe(lambda: models.Convolutional(), (3, 32, 32), classes=10, samples=64, many=False),
    "resnet": Recipe(lambda: models.Residual(), (3, 32, 32), classes=10, samples=32, many=False),
    "gpt": _TEXTS,
    "mlp64": Recipe(lambda: models.Perceptron(64, 64, 64, 10), (64,), classes=10, samples=128, tabled=False),
    "gpt_vocabulary": _TEXTS._replace(model=lambda: models.GPT(50_257), classes=50_257, samples=4, tabled=False),
    "gpt2": _TEXTS._replace(model=lambda: models.GPT2(256), tabled=False),
}


def problem_named(name: str, samples: int | None = None) -> Problem:
    """The problem of that name, the same at each call, with the recipe's number of samples or another one."""
    return problem_of(name, RECIPES[name], samples)


def tabled(names: Iterable[str]) -> list[str]:
    """The names of the problems that the tables `operations` and `peers` have."""
    return [name for name in names if RECIPES[name].tabled]


def problem_of(name: str, recipe: Recipe, samples: int | None = None) -> Problem:
    """The problem of a recipe."""
    n = samples or recipe.samples
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = recipe.model().eval()
        batch = _texts(recipe, n) if recipe.tokens else (torch.randn(n, *recipe.sample), torch.randint(recipe.classes, (n,)))
    params, buffers = functional_state(model)
    return Problem(name, sample_losses(model, cross_entropy), model, cross_entropy, params, buffers, batch, recipe.attention)


def _texts(recipe: Recipe, n: int) -> Batch:
    """Texts of random tokens, and the targets of all tokens."""
    inputs, targets = torch.randint(recipe.classes, (2, n, *recipe.sample))
    return inputs, targets


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
