"""Handwritten digits, some of them with the label of another class, and a picture of the most suspicious ones."""

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

ROWS, COLUMNS = 4, 8
SHOWN = ROWS * COLUMNS
"""How many digits the picture has."""


class Digits(NamedTuple):
    """Images in [0, 1], `(n, 64)`; the given labels, `(n,)`, some of them flipped; the true labels, `(n,)`."""

    images: Tensor
    given: Tensor
    true: Tensor

    @property
    def flipped(self) -> Tensor:
        return self.given != self.true


def true_digits() -> Digits:
    """Scikit-learn's handwritten digits with their own labels."""
    from sklearn.datasets import load_digits

    bunch: Any = load_digits()
    labels = torch.tensor(bunch.target)
    return Digits(torch.tensor(bunch.data, dtype=torch.float32) / 16, labels, labels)


def with_flips(digits: Digits, count: int) -> Digits:
    """The digits, where `count` of them, drawn at random, have the label of another class."""
    chosen = torch.randperm(len(digits.given))[:count]
    given = digits.given.clone()
    given[chosen] = (given[chosen] + torch.randint(1, 10, (count,))) % 10
    return digits._replace(given=given)


def draw(score: Tensor, digits: Digits, name: str, output: Path) -> None:
    """Write a picture of the digits with the highest scores, each with its labels."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    colors = {False: "0.3", True: "tab:red"}
    figure = Figure(figsize=(1.3 * COLUMNS, 1.6 * ROWS + 0.9), layout="constrained")
    figure.suptitle(f"The most suspicious digits by {name}, row by row", fontsize=14)
    order = score.argsort(descending=True, stable=True)[:SHOWN].tolist()
    for axes, i in zip(figure.subplots(ROWS, COLUMNS).flat, order, strict=True):
        given, true, flipped = int(digits.given[i]), int(digits.true[i]), bool(digits.flipped[i])
        axes.imshow(digits.images[i].reshape(8, 8).numpy(), cmap="gray_r")
        axes.set_title(f"{given} (true: {true})" if flipped else f"{given}", color=colors[flipped], fontsize=11)
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set(color=colors[flipped], linewidth=2 if flipped else 1)
    names = {True: "flipped: label given (true label)", False: "not flipped: label given"}
    handles = [Patch(color=colors[flipped], label=name) for flipped, name in names.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False, fontsize=11)
    figure.savefig(output, dpi=120)
