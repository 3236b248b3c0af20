"""Two pictures of the tables: bars against peers, and curves of growth. They need matplotlib."""

from collections.abc import Mapping
from pathlib import Path

from benchmarks.contestants import EXTRA
from benchmarks.pictures.growth import growth_picture
from benchmarks.pictures.peers import peers_picture
from benchmarks.report import Table

PICTURES = {"peers": peers_picture, "growth": growth_picture}


def drawn(tables: Mapping[str, Table], folder: Path) -> str:
    """Draw the tables, and say where the pictures are; without matplotlib, say what to install."""
    try:
        import matplotlib as mpl
    except ImportError:
        return f"no pictures: matplotlib is missing; install it by: {EXTRA}"
    mpl.use("Agg")
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, picture in PICTURES.items():
        if name in tables and tables[name].rows:
            paths.append(folder / f"{name}.png")
            picture(tables[name].rows).savefig(paths[-1], dpi=85)
    return f"pictures: {', '.join(map(str, paths)) or 'none, as neither peers nor growth were measured'}"
