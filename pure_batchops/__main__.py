"""Which of the handwritten digits are mislabelled? Run as `python -m pure_batchops`.

Some labels of scikit-learn's digits are flipped to another class, and a small network is trained on what results, with weight
decay, so that it does not learn the flips by heart. Then the training points are ranked by self-influence, ∇ℓᵢ · M⁻¹ ∇ℓᵢ: by
how much the loss of a point falls because the point itself was trained on. M⁻¹ is the inverse harmonic mean of the gradients'
outer products, averaged over the batches of a DataLoader, or an inverse of the average of these products, by any method. A
table counts the flipped labels that come first, beside the rankings by loss and by gradient norm, and a picture shows the
most suspicious digits.

On flips at random the loss alone ranks as well or a little better, whatever the regularization.
"""

import argparse
import importlib
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import pure_batchops as pb
from pure_batchops.demo.digits import SHOWN, Digits, draw, true_digits, with_flips

BATCH, EPOCHS = 128, 30
POINTS = 600  # the batches of the averages: the larger, the fewer passes
REGULARIZATION = 0.1  # anything from 0.001 to 10 ranks alike
METHODS = ("inverse-harmonic-mean", "nystroem")
SHARES = (0.05, 0.10)
PICTURES = (".png", ".pdf", ".svg", ".jpg")
STORY = """{count} of {n} handwritten digits were given the label of another class; a small network was trained on all {n}.
The digits are ranked by self-influence (how much a digit's own loss falls because it was trained on), by loss and by
gradient norm. By chance 5 % of the flipped labels would be in the first 5 %, and the area under the ROC curve be 0.5.
"""


def main(argv: list[str] | None = None) -> int:
    """Run the job.

    Args:
        argv: the options, by default those of the command line.

    Returns:
        The exit status.
    """
    parser = option_parser()
    options = parser.parse_args(argv)
    try:
        for package in ("numpy", "sklearn", "matplotlib"):
            importlib.import_module(package)
    except ModuleNotFoundError as error:
        print(f"{error.name} is not installed: pip install 'pure_batchops[demo]'", file=sys.stderr)
        return 1
    torch.set_num_threads(1)  # layers this small are slower on several
    torch.manual_seed(options.seed)
    digits = true_digits()
    n = len(digits.given)
    if not 1 <= options.flipped * n <= n - 1:
        least, most = f"{1 / n:.2g} (1 of {n} labels)", f"{1 - 1 / n:.4f} (all but 1)"
        parser.error(f"argument --flipped: must be from {least} to {most}, got {options.flipped}")
    digits = with_flips(digits, count=round(options.flipped * n))
    print(STORY.format(count=int(digits.flipped.sum()), n=n), flush=True)  # ahead of the bars of progress
    scores = suspicions(trained(digits), digits, options.method)
    print(table(scores, digits.flipped))
    ranking = next(iter(scores))
    draw(scores[ranking], digits, ranking, options.output)
    print(f"\nThe {SHOWN} most suspicious digits by {ranking}: {options.output}")
    return 0


def trained(digits: Digits) -> nn.Module:
    """A network with one hidden layer, trained on the labels given."""
    model = nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01, weight_decay=1e-3)
    for _ in progress("training")(range(EPOCHS)):
        for rows in torch.randperm(len(digits.given)).split(BATCH):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(digits.images[rows]), digits.given[rows]).backward()
            optimizer.step()
    return model.eval()


def inverses(loss: pb.SampleLosses) -> dict[str, pb.Operation]:
    """The inverses to rank by: all are operations on batches."""
    mean = pb.averaged(pb.gauss_newton(loss))
    near = pb.nystroem(mean, REGULARIZATION, rank=100)
    return {
        "inverse-harmonic-mean": pb.averaged(pb.inverse_harmonic_mean(loss, REGULARIZATION)),
        "nystroem": near,
        "conjugate-gradient": pb.conjugate_gradient(mean, REGULARIZATION, tolerance=1e-3, preconditioner=near),
        "lissa": pb.lissa(mean, REGULARIZATION, depth=50),
        "direct": pb.direct(mean, REGULARIZATION),
    }


def suspicions(model: nn.Module, digits: Digits, methods: Sequence[str] = METHODS) -> dict[str, Tensor]:
    """How suspicious each digit is, in several ways: tensors `(n,)`, larger for the more suspicious."""
    params, buffers = pb.functional_state(model)
    loss = pb.sample_losses(model, nn.CrossEntropyLoss())
    batches = DataLoader(TensorDataset(digits.images, digits.given), POINTS)
    scores = {}
    for method in progress("influence")(methods):
        scores[f"self-influence, {method}"] = pb.self_influence(inverses(loss)[method], loss)(params, buffers, batches)
    return {
        **scores,
        "loss": loss(params, buffers, (digits.images, digits.given)),
        "gradient norm": pb.gradient_norms(loss)(params, buffers, (digits.images, digits.given)),
    }


def table(scores: dict[str, Tensor], flipped: Tensor) -> str:
    """How many of the flipped labels each ranking puts first, and its area under the ROC curve, as lines of text."""
    from sklearn.metrics import roc_auc_score

    total, firsts = int(flipped.sum()), [round(share * len(flipped)) for share in SHARES]
    heads = [f"in first {share:.0%} ({first})".replace("%", " %") for share, first in zip(SHARES, firsts, strict=True)]
    lines = [f"{'ranked by':<38}{heads[0]:>24}{heads[1]:>24}{'area under ROC':>18}"]
    for name, score in scores.items():
        ranked = flipped[score.argsort(descending=True, stable=True)]
        found = [int(ranked[:first].sum()) for first in firsts]
        cells = [f"{hits} of {total} ({round(100 * hits / total)} %)" for hits in found]
        lines.append(f"{name:<38}{cells[0]:>24}{cells[1]:>24}{roc_auc_score(flipped, score):>18.3f}")
    return "\n".join(lines)


def progress(stage: str) -> Callable[[Iterable[Any]], Iterable[Any]]:
    """What wraps a stream to show how far it is: a bar, or without tqdm one line."""
    try:
        from tqdm import tqdm
    except ModuleNotFoundError:
        print(f"{stage} ...", file=sys.stderr)
        return iter
    return partial(tqdm, desc=stage)


def option_parser() -> argparse.ArgumentParser:
    """The options of the command line."""
    parser = argparse.ArgumentParser(
        "python -m pure_batchops",
        description="Flips some labels of handwritten digits, trains a small network, and finds the flips by self-influence.",
    )
    default = Path("suspicious_digits.png")
    parser.add_argument("--seed", type=_seed, default=0, help="of the flips and the training (default: %(default)s)")
    parser.add_argument("--flipped", type=_fraction, default=0.05, help="fraction of labels to flip (default: %(default)s)")
    known = list(inverses(pb.sample_losses(nn.Identity(), nn.MSELoss())))
    meaning = f"the inverses to rank by, of {', '.join(known)} (default: {' '.join(METHODS)}); the picture is of the first"
    parser.add_argument("--method", nargs="+", choices=known, default=METHODS, metavar="NAME", help=meaning)
    parser.add_argument("--output", type=_picture, default=default, help="path of the picture (default: %(default)s)")
    return parser


def _seed(text: str) -> int:
    if not text.isdecimal() or len(text) > 18:
        msg = f"must be a whole number of at most 18 digits, got {text!r}"
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
        is_new = not path.exists()
        path.open("ab").close()
        if is_new:
            path.unlink()
    except OSError as error:
        msg = f"must be a file that can be written, got {text!r}: {error.strerror}"
        raise argparse.ArgumentTypeError(msg) from error
    return path


if __name__ == "__main__":
    sys.exit(main())
