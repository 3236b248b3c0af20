"""Which of the handwritten digits are mislabelled? The job of `python -m pure_batchops`.

The job flips some labels of scikit-learn's digits to another class. It trains a small network on the result, with weight
decay, so that the network does not learn the flips by heart. Then it ranks the training points by self-influence,
∇ℓᵢ · M⁻¹ ∇ℓᵢ: by how much the loss of a point falls because the point itself was trained on. M⁻¹ is the inverse harmonic mean
of the gradients' outer products, averaged over the batches of a DataLoader, or an inverse of the average of these products, by
any method. A table counts the flipped labels that come first, beside the rankings by loss and by gradient norm. A picture
shows the most suspicious digits.

On flips at random the loss alone ranks as well or a little better, whatever the regularization.
"""

import importlib
import sys
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import pure_batchops as pb
from pure_batchops.demo.digits import SHOWN, Digits, draw, true_digits, with_flips
from pure_batchops.demo.options import option_parser
from pure_batchops.demo.shown import progress, table

BATCH, EPOCHS = 128, 30
POINTS = 600  # in each batch of the averages: the more, the fewer passes
REGULARIZATION = 0.1  # anything from 0.001 to 10 ranks alike
METHODS = ("inverse-harmonic-mean", "nystroem")
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
    parser = option_parser(list(inverses(pb.sample_losses(nn.Identity(), nn.MSELoss()))), METHODS)
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
    print(STORY.format(count=int(digits.flipped.sum()), n=n), flush=True)  # before the bars of progress
    scores = suspicions(trained(digits), digits, options.method)
    print(table(scores, digits.flipped))
    ranking = next(iter(scores))
    draw(scores[ranking], digits, ranking, options.output)
    print(f"\nThe {SHOWN} most suspicious digits by {ranking}: {options.output}")
    return 0


def trained(digits: Digits) -> nn.Module:
    """A network with one hidden layer, trained on the given labels."""
    model = nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01, weight_decay=1e-3)
    for _ in progress("training")(range(EPOCHS)):
        for rows in torch.randperm(len(digits.given)).split(BATCH):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(digits.images[rows]), digits.given[rows]).backward()
            optimizer.step()
    return model.eval()


def inverses(loss: pb.SampleLosses) -> dict[str, pb.Operation]:
    """The inverses to rank by. All are operations on batches."""
    mean = pb.averaged(pb.gauss_newton(loss))
    near = pb.nystroem(mean, REGULARIZATION, rank=100)
    return {
        "inverse-harmonic-mean": pb.averaged(pb.inverse_harmonic_mean(loss, REGULARIZATION)),
        "nystroem": near,
        "conjugate-gradient": pb.conjugate_gradient(mean, REGULARIZATION, tolerance=1e-3, preconditioner=near),
        "lissa": pb.lissa(mean, REGULARIZATION, scale=10.0, depth=300),
        "direct": pb.direct(mean, REGULARIZATION),
    }


def suspicions(model: nn.Module, digits: Digits, methods: Sequence[str] = METHODS) -> dict[str, Tensor]:
    """How suspicious each digit is, in several ways: tensors `(n,)`, larger for more suspicious digits."""
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
