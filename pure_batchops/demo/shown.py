"""What the job shows in text: bars of progress, and a table of the rankings."""

import sys
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from torch import Tensor

SHARES = (0.05, 0.10)


def table(scores: dict[str, Tensor], flipped: Tensor) -> str:
    """Lines of text: how many of the flipped labels each ranking puts first, and its area under the ROC curve."""
    from sklearn.metrics import roc_auc_score

    total, firsts = int(flipped.sum()), [round(share * len(flipped)) for share in SHARES]
    heads = [f"in first {share:.0%} ({first})".replace("%", " %") for share, first in zip(SHARES, firsts, strict=True)]
    lines = [f"{'ranked by':<38}{heads[0]:>24}{heads[1]:>24}{'area under ROC':>18}"]
    for name, score in scores.items():
        ranked = flipped[score.argsort(descending=True, stable=True)]
        hits = [int(ranked[:first].sum()) for first in firsts]
        cells = [f"{count} of {total} ({round(100 * count / total)} %)" for count in hits]
        lines.append(f"{name:<38}{cells[0]:>24}{cells[1]:>24}{roc_auc_score(flipped, score):>18.3f}")
    return "\n".join(lines)


def progress(stage: str) -> Callable[[Iterable[Any]], Iterable[Any]]:
    """A function that wraps a stream and shows how far it is: a bar of tqdm, or one line if tqdm is not installed."""
    try:
        from tqdm import tqdm
    except ModuleNotFoundError:
        print(f"{stage} ...", file=sys.stderr)
        return iter
    return partial(tqdm, desc=stage)
