"""The options of the command line, each checked before any work is done."""

import argparse
from collections.abc import Sequence
from pathlib import Path

PICTURES = (".png", ".pdf", ".svg", ".jpg")


def option_parser(methods: Sequence[str], by_default: Sequence[str]) -> argparse.ArgumentParser:
    """The options of the command line, where `methods` are the known methods."""
    parser = argparse.ArgumentParser(
        "python -m pure_batchops",
        description="Flips some labels of handwritten digits, trains a small network, and finds the flips by self-influence.",
    )
    default = Path("suspicious_digits.png")
    parser.add_argument("--seed", type=_seed, default=0, help="of the flips and the training (default: %(default)s)")
    parser.add_argument("--flipped", type=_fraction, default=0.05, help="fraction of labels to flip (default: %(default)s)")
    meaning = (
        f"the inverses to rank by, of {', '.join(methods)} (default: {' '.join(by_default)}); the picture is of the first"
    )
    parser.add_argument("--method", nargs="+", choices=methods, default=by_default, metavar="NAME", help=meaning)
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
