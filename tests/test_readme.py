"""The README and the pages beside the code: their code runs, their names and links exist, their commands are the real ones."""

import contextlib
import io
import re
import subprocess
import sys

import pytest
import torch

import pure_batchops as pb
from tests.pages import PAGES, README, ROOT, blocks, prose, text

COMPILES = tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 6)
MOST_WORDS = 2000
every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


@pytest.fixture
def no_code_generation(monkeypatch):
    """The compiler without code generation, which needs a C++ compiler and half a minute."""
    compiler = torch.compile
    monkeypatch.setattr(
        torch, "compile", lambda op, **options: compiler(op, **{"backend": "aot_eager", **options}) if COMPILES else op
    )


def run(page):
    """The names that the Python blocks of a page leave behind, and what they print."""
    names: dict = {}
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        for block in blocks(page, "python"):
            exec(block, names)
    return names, printed.getvalue()


@pytest.mark.usefixtures("no_code_generation")
def test_code_of_the_readme_runs_from_top_to_bottom():
    names, printed = run(README)
    assert len(blocks(README, "python")) >= 10
    (promised,) = re.findall(r"print\(error\)  # (.*)", text(README))
    assert printed.strip() == promised
    assert names["product"].shape == (451,)
    assert names["sharpness"] > 0
    point = (names["params"], {"decay": torch.tensor(0.1)}, (names["x"], names["y"]))
    solution = pb.conjugate_gradient(pb.hessian(names["decayed"]), 1.0)(*point, names["v"])
    torch.testing.assert_close(names["slope"], -solution @ solution, rtol=1e-3, atol=0.0)


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page != README and blocks(page, "python")], ids=lambda page: page.parent.name
)
@pytest.mark.usefixtures("no_code_generation")
def test_code_of_a_page_runs_from_top_to_bottom(page):
    run(page)


def test_readme_is_short():
    assert len(text(README).split()) <= MOST_WORDS


def test_readme_knows_every_public_name():
    for name in pb.__all__:
        if name not in ("Operation", "SampleLosses"):  # words of signatures
            assert re.search(rf"\b{name}\b", text(README)), name


@every_page
def test_page_knows_no_other_name(page):
    for name in re.findall(r"\bpb\.(\w+)", text(page)):
        assert name in pb.__all__


@every_page
def test_links_and_pictures_exist(page):
    for target in re.findall(r"\]\(([^)#]+)\)", prose(page)):
        assert (page.parent / target).exists(), target


@every_page
def test_named_files_exist(page):
    for path in re.findall(r"`((?:pure_batchops|tests|benchmarks)/[\w./]+)`", prose(page)):
        assert (ROOT / path).exists(), path


def test_every_page_and_picture_is_linked():
    linked = {(page.parent / target).resolve() for page in PAGES for target in re.findall(r"\]\(([^)#]+)\)", prose(page))}
    assert linked >= {page.resolve() for page in PAGES if page != README}
    assert linked >= {
        path.resolve() for folder in ("tests", "benchmarks", "pure_batchops") for path in ROOT.glob(f"{folder}/**/*.png")
    }


@pytest.mark.parametrize(
    "command",
    [
        "pip install -c tests/constraints.txt '.[demo]' && python -m pure_batchops",
        "pip install -c tests/constraints.txt -e '.[test]' && pytest",
    ],
)
def test_readme_gives_the_two_commands(command):
    assert command in [block.strip() for block in blocks(README, "bash")]


def test_readme_shows_what_the_main_job_prints(tmp_path):
    pytest.importorskip("sklearn", reason="the main job is on scikit-learn's digits, an optional extra")
    pytest.importorskip("matplotlib", reason="the main job draws with matplotlib, an optional extra")
    command = [sys.executable, "-m", "pure_batchops", "--output", str(tmp_path / "digits.png")]
    found = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    (shown,) = blocks(README, "text")[:1]
    for line in filter(None, shown.splitlines()):  # numbers of another machine differ a little
        assert any(_words(line) == _words(other) for other in found.splitlines()), line
    for one, other in zip(_counts(shown), _counts(found), strict=True):
        assert abs(one - other) <= 5


def _words(line):
    return re.sub(r"\d+", "0", line).split()


def _counts(output):
    """How many flipped labels each ranking found, in the first 5 % and the first 10 %."""
    return [int(found) for found in re.findall(r"(\d+) of \d+ \(", output)]
