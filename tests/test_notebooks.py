"""The notebooks: each runs from top to bottom as it stands, draws its pictures, and is linked from the README with one."""

import warnings

import nbformat
import pytest

from tests.pages import README, ROOT, text

with warnings.catch_warnings():  # the libraries of the event loop warn at import
    warnings.simplefilter("ignore")
    from nbclient import NotebookClient

NOTEBOOKS = sorted((ROOT / "tests/notebooks").glob("*.ipynb"))
every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def pictures(notebook):
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    return [output.data["image/png"] for output in outputs if "image/png" in output.get("data", {})]


@every_notebook
@pytest.mark.filterwarnings("ignore")  # of the kernel itself; the package runs in another process
def test_notebook_runs_and_draws_as_many_pictures_as_it_shows(path, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONWARNINGS", "ignore")
    shown = nbformat.read(path, as_version=4)
    run = nbformat.from_dict(shown)
    NotebookClient(run, timeout=120, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert len(pictures(run)) == len(pictures(shown)) > 0


@every_notebook
def test_notebook_is_linked_from_the_readme_with_a_picture(path):
    for linked in (path, path.with_suffix(".png")):
        assert f"({linked.relative_to(ROOT).as_posix()})" in text(README)


def test_there_are_notebooks():
    assert len(NOTEBOOKS) == 3
