"""The main job: it finds the flipped labels, draws them, and refuses in one line what it cannot do."""

import re
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from typing import NamedTuple

import pytest
import torch

pytest.importorskip("sklearn", reason="the main job is on scikit-learn's digits, an optional extra")
pytest.importorskip("matplotlib", reason="the main job draws with matplotlib, an optional extra")

from pure_batchops.demo import mislabelled as job

RANKINGS = ["self-influence, inverse-harmonic-mean", "self-influence, nystroem", "loss", "gradient norm"]
CELL = r"(\d+) of (\d+) \((\d+) %\)"


class Run(NamedTuple):
    status: int
    out: str
    err: str
    picture: bytes


def run_of(output, *arguments):
    with redirect_stdout(StringIO()) as out, redirect_stderr(StringIO()) as err:
        status = job.main([*arguments, "--output", str(output)])
    return Run(status, out.getvalue().replace(str(output), "OUTPUT"), err.getvalue(), output.read_bytes())


def rows_of(text):
    """{ranking: (in first 5 %, in first 10 %, flipped, area)}."""
    rows = re.findall(rf"^(\S.*?) +{CELL} +{CELL} +([\d.]+)$", text, re.MULTILINE)
    assert all(int(share) == round(100 * int(hits) / int(total)) for _, hits, total, share, *_ in rows)
    return {name: (int(five), int(ten), int(total), float(area)) for name, five, total, _, ten, _, _, area in rows}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return run_of(tmp_path_factory.mktemp("job") / "digits.png", "--seed", "1")


def test_flipped_labels_are_found_far_above_chance(run):
    rows = rows_of(run.out)
    assert run.status == 0
    assert list(rows) == RANKINGS
    for in_five, in_ten, flipped, area in rows.values():
        assert flipped == 90
        assert in_five > 45  # by chance 4 or 5
        assert in_five <= in_ten <= 90
        assert 0.9 < area <= 1


def test_output_says_what_is_seen(run):
    assert run.out.startswith("90 of 1797 handwritten digits were given the label of another class")
    assert run.out.endswith("The 32 most suspicious digits by self-influence, inverse-harmonic-mean: OUTPUT\n")
    assert "in first 5 % (90)     in first 10 % (180)    area under ROC" in run.out


def test_columns_are_aligned(run):
    _, table, _ = run.out.split("\n\n")
    assert [line[:38].strip() for line in table.splitlines()] == ["ranked by", *RANKINGS]
    assert len({len(line) for line in table.splitlines()}) == 1


def test_picture_shows_the_digits_and_which_were_flipped(run, tmp_path):
    from matplotlib.image import imread

    path = tmp_path / "digits.png"
    path.write_bytes(run.picture)
    picture = imread(path)[..., :3]
    assert min(picture.shape[:2]) > 500
    assert picture.std() > 0.1
    assert (picture[..., 0] - picture[..., 1]).max() > 0.5  # the red of the flipped


def test_progress_is_shown_apart_from_the_result(run):
    assert "training" in run.err
    assert "influence" in run.err
    assert "training" not in run.out


def test_progress_without_tqdm_is_one_line(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    assert list(job.progress("training")([1, 2])) == [1, 2]
    assert capsys.readouterr().err == "training ...\n"


@pytest.fixture
def few_digits(monkeypatch):
    digits = job.true_digits()
    monkeypatch.setattr(job, "true_digits", lambda: job.Digits(*(tensor[:300] for tensor in digits)))


@pytest.mark.usefixtures("few_digits")
def test_same_seed_gives_the_same_output_and_picture(tmp_path):
    first, again, other = (run_of(tmp_path / "digits.png", "--seed", seed) for seed in "001")
    assert first[:2] == again[:2]
    assert first.picture == again.picture
    assert first.picture != other.picture


@pytest.mark.usefixtures("few_digits")
def test_a_single_flip_is_enough_and_an_old_picture_is_replaced(tmp_path):
    output = tmp_path / "digits.PNG"
    output.write_text("old")
    run = run_of(output, "--flipped", str(1 / 300))
    assert run.picture.startswith(b"\x89PNG")
    assert {flipped for _, _, flipped, _ in rows_of(run.out).values()} == {1}


def test_flips_are_as_many_as_asked_each_to_another_class():
    digits = job.with_flips(job.true_digits(), count=359)
    assert digits.flipped.sum() == 359
    assert digits.given.unique().tolist() == list(range(10))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seed", "x"], "--seed: must be a whole number of at most 18 digits, got 'x'"),
        (["--seed", "-1"], "--seed: must be a whole number"),
        (["--seed", "1.5"], "--seed: must be a whole number"),
        (["--seed", "9" * 19], "--seed: must be a whole number"),
        (["--flipped", "many"], "--flipped: must be a number between 0 and 1, got 'many'"),
        (["--flipped", "0"], "--flipped: must be a number between 0 and 1, got '0'"),
        (["--flipped", "1"], "--flipped: must be a number between 0 and 1"),
        (["--flipped", "nan"], "--flipped: must be a number between 0 and 1"),
        (["--flipped", "1e-5"], "--flipped: must be from 0.00056 (1 of 1797 labels) to 0.9994 (all but 1), got 1e-05"),
        (["--flipped", "0.9999"], "--flipped: must be from 0.00056 (1 of 1797 labels) to 0.9994"),
        (["--output", "nowhere/a.png"], "--output: must be a file that can be written, got 'nowhere/a.png': No such file"),
        (["--output", "folder.png"], "--output: must be a file that can be written, got 'folder.png': Is a directory"),
        (["--output", "9" * 300 + ".png"], "File name too long"),
        (["--output", "digits.txt"], "--output: must end in one of .png"),
        (["--output", "digits"], "--output: must end in one of .png"),
        (["--method", "magic"], "argument --method: invalid choice: 'magic'"),
        (["--more"], "unrecognized arguments"),
    ],
)
def test_bad_option_is_refused_before_any_work(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delattr(job, "trained")
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(SystemExit, match="2"):
        job.main(arguments)
    shown = capsys.readouterr()
    assert message in shown.err.splitlines()[-1]
    assert not shown.out
    assert [path.name for path in tmp_path.iterdir()] == ["folder.png"]


@pytest.mark.parametrize("package", ["sklearn", "matplotlib", "numpy"])
def test_missing_package_is_one_line(package, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, package, None)
    assert job.main(["--output", str(tmp_path / "digits.png")]) == 1
    assert capsys.readouterr() == ("", f"{package} is not installed: pip install 'pure_batchops[demo]'\n")
    assert not list(tmp_path.iterdir())


def test_another_error_of_a_package_is_not_taken_for_a_missing_one(tmp_path, monkeypatch):
    def broken(name):
        msg = f"{name} is broken"
        raise ImportError(msg)

    monkeypatch.setattr(job.importlib, "import_module", broken)
    with pytest.raises(ImportError, match="numpy is broken"):
        job.main(["--output", str(tmp_path / "digits.png")])


def test_help_says_what_it_does():
    command = [sys.executable, "-m", "pure_batchops", "--help"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert all(word in text for word in ("--seed", "--flipped", "--output", "suspicious_digits.png", "self-influence"))


def test_import_loads_no_optional_package():
    code = "import sys, pure_batchops.__main__; print({'sklearn', 'matplotlib'} & set(sys.modules))"
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert finished.stdout == "set()\n"


def test_scores_are_those_of_the_definition():
    torch.manual_seed(0)
    digits = job.Digits(*(tensor[:20] for tensor in job.with_flips(job.true_digits(), count=100)))
    model = torch.nn.Linear(64, 10)
    gradients = []
    for image, label in zip(digits.images, digits.given, strict=True):
        loss = torch.nn.functional.cross_entropy(model(image), label)
        gradients.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, model.parameters())]))
    rows = torch.stack(gradients)
    identity = torch.eye(650, dtype=torch.float64)
    damped = [torch.outer(row, row).double() + job.REGULARIZATION * identity for row in rows]
    inverse = sum(torch.linalg.inv(matrix) for matrix in damped) / len(rows)
    scores = job.suspicions(model.eval(), digits, list(job.inverses(lambda *_: None)))
    expected = ((rows.double() @ inverse) * rows).sum(1).float()
    found = scores["self-influence, inverse-harmonic-mean"]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)  # float32 against float64
    matrix = rows.T.double() @ rows.double() / len(rows) + job.REGULARIZATION * identity
    expected = (torch.linalg.solve(matrix, rows.T.double()).T * rows).sum(1).float()
    torch.testing.assert_close(scores["self-influence, direct"], expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(scores["self-influence, nystroem"], expected, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(scores["self-influence, conjugate-gradient"], expected, rtol=1e-2, atol=1e-2)
    assert torch.corrcoef(torch.stack([scores["self-influence, lissa"], expected]))[0, 1] > 0.8  # cut off after 300 steps
    torch.testing.assert_close(scores["gradient norm"], rows.norm(dim=1))
