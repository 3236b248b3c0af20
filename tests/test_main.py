"""The main job: it finds the flipped labels, draws them, and refuses what it cannot do in one line."""

import re
import subprocess
import sys

import pytest

pytest.importorskip("sklearn", reason="the main job is on scikit-learn's digits, an optional extra")
pytest.importorskip("matplotlib", reason="the main job draws with matplotlib, an optional extra")

from pure_batchops import __main__ as job


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    output = tmp_path_factory.mktemp("job") / "digits.png"
    command = [sys.executable, "-m", "pure_batchops", "--seed", "1", "--output", str(output)]
    return subprocess.run(command, capture_output=True, text=True, check=True), output


def rows_of(text):
    return {
        name: (int(five), int(ten), float(area))
        for name, five, ten, area in re.findall(r"^(\S.*?) {2,}(\d+) of 90 .*?(\d+) of 90 .*? ([\d.]+)$", text, re.MULTILINE)
    }


def test_flipped_labels_are_found_far_above_chance(run):
    finished, output = run
    rows = rows_of(finished.stdout)
    assert list(rows) == ["self-influence", "loss", "gradient norm"]
    for first_five, first_ten, area in rows.values():
        assert first_five > 45  # by chance 4 or 5
        assert first_five <= first_ten <= 90
        assert 0.9 < area <= 1
    assert "1797 handwritten digits, of which 90" in finished.stdout
    assert f"{output}" in finished.stdout


def test_picture_shows_all_the_digits_asked_for(run):
    from matplotlib.image import imread

    picture = imread(run[1])[..., :3]
    assert picture.shape[0] > 500
    assert picture.std() > 0.1
    assert (picture[..., 0] - picture[..., 1]).max() > 0.5  # red titles


def test_progress_is_shown_apart_from_the_result(run):
    assert "training" in run[0].stderr
    assert "inverse" in run[0].stderr
    assert "it/s" not in run[0].stdout


def test_same_seed_gives_the_same_answer(run, tmp_path, capsys):
    assert job.main(["--seed", "1", "--output", str(tmp_path / "again.png")]) == 0
    assert rows_of(capsys.readouterr().out) == rows_of(run[0].stdout)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seed", "x"], "--seed: must be a whole number"),
        (["--flipped", "0"], "--flipped: must be a number between 0 and 1, got '0'"),
        (["--flipped", "1.5"], "between 0 and 1"),
        (["--flipped", "nan"], "between 0 and 1"),
        (["--output", "nowhere/digits.png"], "--output: must be a file that can be written, got 'nowhere/digits.png'"),
        (["--output", "digits.txt"], "--output: must end in one of .png"),
        (["--more"], "unrecognized arguments"),
    ],
)
def test_bad_option_is_refused_before_any_work(arguments, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        job.main(arguments)
    assert message in capsys.readouterr().err


def test_fraction_that_flips_nothing_is_refused(tmp_path, capsys):
    assert job.main(["--flipped", "1e-5", "--output", str(tmp_path / "digits.png")]) == 2
    assert "--flipped must flip some of the 1797 labels" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("package", ["sklearn", "matplotlib"])
def test_missing_package_is_one_line(package, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, package, None)
    assert job.main(["--output", str(tmp_path / "digits.png")]) == 1
    assert capsys.readouterr().err == f"{package} is not installed: pip install 'pure_batchops[demo]'\n"


def test_help_says_what_it_does(capsys):
    with pytest.raises(SystemExit, match="0"):
        job.main(["--help"])
    text = capsys.readouterr().out
    assert all(option in text for option in ("--seed", "--flipped", "--output", "self-influence"))
