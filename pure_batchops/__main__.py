"""Which of the handwritten digits are mislabelled? Run as `python -m pure_batchops`.

Some training labels of scikit-learn's digits are flipped, and a small network is trained on what is left of the truth. Then
the training points are ranked by self-influence, ∇ℓᵢ · M⁻¹ ∇ℓᵢ: by how much the loss of a point falls because the point
itself was trained on. M⁻¹ is the inverse harmonic mean, averaged over the batches. Flipped labels should come first.
"""

import argparse
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import pure_batchops as pb

BATCH, EPOCHS, REGULARIZATION = 128, 30, 0.1
ROWS, COLUMNS = 4, 8
PICTURES = (".png", ".pdf", ".svg", ".jpg")


class Digits(NamedTuple):
    """Images in [0, 1], `(n, 64)`; the labels given, some of which are flipped; the true ones."""

    images: Tensor
    given: Tensor
    true: Tensor

    @property
    def flipped(self) -> Tensor:
        return self.given != self.true

    @property
    def batches(self) -> list[tuple[Tensor, Tensor]]:
        return list(zip(self.images.split(BATCH), self.given.split(BATCH), strict=True))


def main(arguments: list[str] | None = None) -> int:
    """Run the job.

    Returns:
        The exit status.
    """
    options = _options(arguments)
    try:
        import matplotlib  # noqa: ICN001
        import sklearn  # noqa: F401
    except ModuleNotFoundError as error:
        print(f"{error.name} is not installed: pip install 'pure_batchops[demo]'", file=sys.stderr)
        return 1
    matplotlib.use("Agg")
    torch.manual_seed(options.seed)
    digits = flipped_digits(options.flipped)
    count, n = int(digits.flipped.sum()), len(digits.given)
    if not 0 < count < n:
        print(f"--flipped must flip some of the {n} labels and not all, got {options.flipped} of them", file=sys.stderr)
        return 2
    print(f"{n} handwritten digits, of which {count} were given a wrong label.")
    model = trained_model(digits)
    print("Ranked by how suspicious their label looks to the network that was trained on them:\n")
    scores = suspicions(model, digits)
    print(table(scores, digits.flipped))
    draw(scores["self-influence"], digits, options.output)
    print(f"\nThe most suspicious digits by self-influence: {options.output}")
    return 0


def flipped_digits(fraction: float) -> Digits:
    """The digits, a fraction of them with the label of another class.

    Returns:
        All of them, in a random order.
    """
    from sklearn.datasets import load_digits

    bunch: Any = load_digits()
    images, true = torch.tensor(bunch.data, dtype=torch.float32) / 16, torch.tensor(bunch.target)
    order = torch.randperm(len(true))
    images, given, true = images[order], true[order].clone(), true[order]
    count = round(fraction * len(true))
    given[:count] = (given[:count] + torch.randint(1, 10, (count,))) % 10
    order = torch.randperm(len(true))
    return Digits(images[order], given[order], true[order])


def trained_model(digits: Digits) -> nn.Module:
    """A network with one hidden layer, trained on the labels given.

    Returns:
        The network in eval mode.
    """
    model = nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01, weight_decay=1e-3)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(digits.images, digits.given), BATCH, shuffle=True)
    for _ in _progress("training")(range(EPOCHS)):
        for images, labels in loader:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images), labels).backward()
            optimizer.step()
    return model.eval()


def suspicions(model: nn.Module, digits: Digits) -> dict[str, Tensor]:
    """How suspicious each training point is, in three ways.

    Returns:
        A dict of tensors `(n,)`, larger for more suspicious points.
    """
    params, buffers = pb.functional_state(model)
    loss = pb.sample_losses(model, nn.CrossEntropyLoss())
    inverse = pb.averaged(pb.inverse_harmonic_mean(loss, REGULARIZATION), progress=_progress("inverse"))

    def gradient(image: Tensor, label: Tensor) -> Any:
        return torch.func.grad(lambda p: loss(p, buffers, (image[None], label[None])).sum())(params)

    # One tree, with an axis of n vectors on every leaf: for the product they are n right-hand sides at once.
    gradients = torch.vmap(gradient)(digits.images, digits.given)
    solutions = inverse(params, buffers, digits.batches, gradients)

    def inner(one: dict[str, Tensor], other: dict[str, Tensor]) -> Tensor:
        return torch.stack([(one[name] * other[name]).flatten(1).sum(1) for name in params]).sum(0)

    return {
        "self-influence": inner(gradients, solutions),
        "loss": loss(params, buffers, (digits.images, digits.given)),
        "gradient norm": inner(gradients, gradients).sqrt(),
    }


def table(scores: dict[str, Tensor], flipped: Tensor) -> str:
    """How many of the flipped labels each ranking puts first, and its area under the ROC curve.

    Returns:
        Lines of text.
    """
    from sklearn.metrics import roc_auc_score

    n, total = len(flipped), int(flipped.sum())
    lines = [f"{'ranked by':<16}{'flipped in first 5 %':>26}{'flipped in first 10 %':>26}{'ROC AUC':>10}"]
    for name, score in scores.items():
        order = score.argsort(descending=True)
        cells = [""] * 2
        for i, share in enumerate((0.05, 0.10)):
            found = int(flipped[order[: round(share * n)]].sum())
            cells[i] = f"{found} of {total} ({found / total:.0%})"
        lines.append(f"{name:<16}{cells[0]:>26}{cells[1]:>26}{roc_auc_score(flipped, score):>10.3f}")
    return "\n".join(lines)


def draw(score: Tensor, digits: Digits, output: Path) -> None:
    """The digits of the highest scores, with the label given and, where it was flipped, the true one."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1.25 * COLUMNS, 1.6 * ROWS + 0.6), layout="constrained")
    figure.suptitle("Most suspicious labels first: the given label, in red where it was flipped, with the true one")
    order = score.argsort(descending=True)[: ROWS * COLUMNS].tolist()
    for axes, i in zip(figure.subplots(ROWS, COLUMNS).flat, order, strict=True):
        axes.imshow(digits.images[i].reshape(8, 8).numpy(), cmap="gray_r")
        given, true, flipped = int(digits.given[i]), int(digits.true[i]), bool(digits.flipped[i])
        axes.set_title(f"{given}, truly {true}" if flipped else f"{given}", color="tab:red" if flipped else "black")
        axes.set_axis_off()
    figure.savefig(output, dpi=150)


def _progress(what: str) -> Callable[[Iterable[Any]], Iterable[Any]]:
    try:
        from tqdm import tqdm
    except ModuleNotFoundError:
        print(f"{what} …", file=sys.stderr)
        return lambda stream: stream
    return lambda stream: tqdm(stream, desc=what)


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m pure_batchops", description=str(__doc__).split("\n\n")[1])
    parser.add_argument("--seed", type=_seed, default=0, help="of the flips and the training (default 0)")
    parser.add_argument("--flipped", type=_fraction, default=0.05, help="the fraction of labels to flip (default 0.05)")
    parser.add_argument(
        "--output", type=_picture, default=Path("suspicious_digits.png"), help="the picture (default suspicious_digits.png)"
    )
    return parser.parse_args(arguments)


def _seed(text: str) -> int:
    if not text.isdecimal() or int(text) >= 2**63:
        msg = f"must be a whole number below 2⁶³, got {text!r}"
        raise argparse.ArgumentTypeError(msg)
    return int(text)


def _fraction(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1:
        msg = f"must be a number between 0 and 1, got {text!r}"
        raise argparse.ArgumentTypeError(msg)
    return value


def _picture(text: str) -> Path:
    path = Path(text)
    if path.suffix.lower() not in PICTURES:
        msg = f"must end in one of {', '.join(PICTURES)}, got {text!r}"
        raise argparse.ArgumentTypeError(msg)
    try:
        with path.open("ab"):
            pass
    except OSError as error:
        msg = f"must be a file that can be written, got {text!r}: {error.strerror}"
        raise argparse.ArgumentTypeError(msg) from error
    if path.stat().st_size == 0:
        path.unlink()
    return path


if __name__ == "__main__":
    sys.exit(main())
