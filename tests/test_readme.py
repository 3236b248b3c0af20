"""The README: its code runs, its names are those of the package, its commands are the real ones."""

import contextlib
import io
import re
from pathlib import Path

import pytest
import torch

import pure_batchops as pb

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)
COMPILES = tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 5)


def test_code_of_the_readme_runs_from_top_to_bottom(monkeypatch):
    compiler = torch.compile  # without code generation, which needs a C++ compiler and half a minute
    monkeypatch.setattr(
        torch, "compile", lambda op, **options: compiler(op, **{"backend": "aot_eager", **options}) if COMPILES else op
    )
    names: dict = {}
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        for block in BLOCKS:
            exec(block, names)
    assert len(BLOCKS) >= 10
    (promised,) = re.findall(r"print\(error\)  # (.*)", README)
    assert printed.getvalue().strip() == promised
    assert names["product"].shape == (451, 451)
    assert names["sharpness"] > 0


def test_readme_knows_every_public_name_and_no_other():
    for name in pb.__all__:
        if name not in ("Operation", "SampleLosses"):  # words of signatures
            assert re.search(rf"\b{name}\b", README), name
    for name in re.findall(r"\bpb\.(\w+)", README):
        assert name in pb.__all__


@pytest.mark.parametrize(
    "command",
    [
        "pip install -c tests/constraints.txt '.[demo]' && python -m pure_batchops",
        "pip install -c tests/constraints.txt -e '.[test]' && pytest",
    ],
)
def test_readme_gives_the_two_commands(command):
    assert f"```bash\n{command}\n```" in README
