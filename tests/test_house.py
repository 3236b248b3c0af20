"""The house: imports run downward, files and bodies stay small, and torch's private names stand in two files."""

import ast
import re
from itertools import pairwise
from pathlib import Path

import pytest

import pure_batchops

PACKAGE = Path(pure_batchops.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
IDS = [str(file.relative_to(PACKAGE)) for file in FILES]
every_file = pytest.mark.parametrize("file", FILES, ids=IDS)

# A room imports rooms of floors further down, and others of its own floor that stand to its left.
FLOORS = [
    "types vmap_privates torch_privates mappings trees members tracing layouts budget checks traits kernels",
    "sample_axis noise fingerprints streams tree_functions vectors rows batches points",
    "models losses",
    "derivatives gradients",
    "operations",
    "averages solvers estimators influences distributed",
    "testing",
    "__init__",
    "demo __main__",
]
ORDER = [room for floor in FLOORS for room in floor.split()]


def room_of(parts):
    return parts[0] if parts else "__init__"


def imports_of(file):
    """The modules of the package that a file imports, as parts of their paths, wherever the import stands."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "pure_batchops":
            parts = node.module.split(".")[1:]
            for name in node.names:
                inside = PACKAGE.joinpath(*parts, name.name)
                yield [*parts, name.name] if inside.is_dir() or inside.with_suffix(".py").exists() else parts
        elif isinstance(node, ast.Import):
            yield from (name.name.split(".")[1:] for name in node.names if name.name.split(".")[0] == "pure_batchops")


def path_of(parts):
    found = PACKAGE.joinpath(*parts)
    return found / "__init__.py" if found.is_dir() else found.with_suffix(".py")


@every_file
def test_no_import_runs_upward(file):
    room = file.relative_to(PACKAGE).with_suffix("").parts[0]
    for parts in imports_of(file):
        assert ORDER.index(room_of(parts)) <= ORDER.index(room), f"{room} imports {'.'.join(parts) or 'pure_batchops'}"


def test_no_circle_of_files():
    below = {file: {path_of(parts) for parts in imports_of(file)} - {file} for file in FILES}
    while free := [file for file, others in below.items() if not others & below.keys()]:
        below = {file: others for file, others in below.items() if file not in free}
    assert not below, f"files that import each other: {sorted(map(str, below))}"


@every_file
def test_no_file_is_longer_than_an_idea(file):
    assert len(file.read_text().splitlines()) <= 150


@every_file
def test_no_body_is_longer_than_a_screen(file):
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.FunctionDef):
            first = node.body[1 if ast.get_docstring(node) and len(node.body) > 1 else 0]
            assert node.end_lineno - first.lineno < 30, node.name


@every_file
def test_private_names_of_torch_stand_in_two_files(file):
    text = re.sub(r'"""(.|\n)*?"""', "", file.read_text())
    if file.name in ("torch_privates.py", "vmap_privates.py"):
        return
    assert ("_pytree" in text) == (file.name == "trees.py")
    in_torch = r"\btorch(?:\.\w+)*\._[a-z]\w*|\b(?:nn|forward_ad)(?:\.\w+)*\._\w+|\._(?:version|forward_\w+)\b"
    private = re.findall(in_torch, text)
    assert [name for name in private if "_pytree" not in name] == []


# Handlers that catch everything and do not raise, and why this hides no bug.
CATCHES_ALL = {
    "averages/stream.py": "a type of error that takes something else than a message becomes a RuntimeError, which is raised",
    "derivatives/plain_autograd.py": "only the function runs inside; reverse mode raises its errors",
    "distributed/ranks.py": "the error is told to all ranks, and then raised",
    "gradients/attempts.py": "only torch and the loss run inside; the slowest way raises the errors of the loss",
    "losses/agreement.py": "only the criterion runs inside, and has to give a value for each sample without an error",
    "testing/averaging.py": "the law asks for an error",
}


@every_file
def test_no_handler_swallows_every_error(file):
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ExceptHandler) and (node.type is None or ast.unparse(node.type) == "Exception"):
            raises = any(isinstance(inside, ast.Raise) for inside in ast.walk(node))
            assert raises or str(file.relative_to(PACKAGE)) in CATCHES_ALL, f"line {node.lineno}"


def test_no_test_imports_a_test():
    for file in Path(__file__).parent.glob("*.py"):
        assert not re.search(r"^(from tests\.test_|from tests import .*\btest_)", file.read_text(), re.MULTILINE), file.name


def test_rooms_are_all_on_a_floor():
    rooms = {file.relative_to(PACKAGE).with_suffix("").parts[0] for file in FILES}
    assert rooms == set(ORDER)
    assert all(above != below for above, below in pairwise(ORDER))
