"""The notebooks: each runs from top to bottom as it stands, draws its pictures, and is linked from the README."""

import warnings
from pathlib import Path

import nbformat
import pytest

with warnings.catch_warnings():  # of the event loop's libraries, at import
    warnings.simplefilter("ignore")
    from nbclient import NotebookClient

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "tests/notebooks").glob("*.ipynb"))
every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def pictures(notebook):
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    return [output.data["image/png"] for output in outputs if "image/png" in output.get("data", {})]


@every_notebook
@pytest.mark.filterwarnings("ignore")  # those of the kernel's own machinery; the package runs in another process
def test_notebook_runs_and_draws_as_many_pictures_as_it_shows(path, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONWARNINGS", "ignore")
    shown = nbformat.read(path, as_version=4)
    run = nbformat.from_dict(shown)
    NotebookClient(run, timeout=120, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert len(pictures(run)) == len(pictures(shown)) > 0


@every_notebook
def test_notebook_is_linked_from_the_readme(path):
    assert f"({path.relative_to(ROOT).as_posix()})" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_there_are_notebooks():
    assert len(NOTEBOOKS) == 3
