"""The benchmarks: their problems are those said, the table is whole, and the memory that it shows is real. No times."""

import math

import pytest
import torch

from benchmarks.__main__ import main
from benchmarks.memory import peak_memories
from benchmarks.operations import OPERATIONS
from benchmarks.problems import RECIPES, dimension, plain_gradient, problem, vectors
from benchmarks.table import COLUMNS, cases
from pure_batchops import batch_operation, gauss_newton

SIZES = {"tiny": (64, 1_507), "mlp": (128, 669_706), "cnn": (64, 34_826)}


def all_gradients_held(problem):
    """What the benchmark must see: the Gauss-Newton product by all n gradients at once, n × D numbers."""

    def at(params, buffers, batch):
        def of_one(x, y):
            return torch.func.grad(lambda p: problem.loss(p, buffers, (x[None], y[None])).sum())(params)

        held = torch.vmap(of_one)(*batch)
        n = len(batch[0])
        along = lambda v: sum(g.flatten(1) @ v[name].flatten() for name, g in held.items())  # noqa: E731
        return lambda v: {name: torch.tensordot(along(v) / n, g, 1) for name, g in held.items()}

    return batch_operation(at)


@pytest.mark.parametrize("name", RECIPES)
def test_problem_is_the_one_said(name):
    found = problem(name)
    assert (len(found.batch[0]), dimension(found.params)) == SIZES[name]
    assert {leaf.dtype for leaf in found.params.values()} == {torch.float32}
    assert found.loss(found.params, found.buffers, found.batch).shape == found.batch[1].shape


def test_problem_is_the_same_each_time_and_leaves_the_seed_alone():
    state = torch.random.get_rng_state()
    first, second = problem("tiny", 5), problem("tiny", 5)
    assert torch.equal(state, torch.random.get_rng_state())
    torch.testing.assert_close(first.params, second.params, rtol=0, atol=0)
    torch.testing.assert_close(first.batch, second.batch, rtol=0, atol=0)
    assert len(first.batch[0]) == 5


def test_plain_gradient_is_that_of_the_mean_loss():
    found = problem("tiny")
    expected = torch.func.grad(lambda p: found.loss(p, found.buffers, found.batch).mean())(found.params)
    torch.testing.assert_close(plain_gradient(found)(), tuple(expected.values()))


@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_operation_multiplies(operation):
    found = problem("tiny")
    product = OPERATIONS[operation](found)(found.params, found.buffers, found.batch, vectors(found, 2))
    assert product.shape == (2, 1_507)
    assert product.isfinite().all()


def test_table_has_a_row_for_each_operation_with_all_its_figures(capsys):
    main(["--quick", "--problem", "tiny", "--operation", "hessian"], rounds=1)
    header, headings, table = capsys.readouterr().out.partition("problem  ")
    assert f"torch {torch.__version__}" in header
    assert "threads: 1, rounds: 1" in header
    assert "one plain gradient on tiny: " in header
    lines = (headings + table).splitlines()
    assert lines[0].split() == " ".join(COLUMNS).split()
    gradient, hessian = (row.split() for row in lines[2:])
    assert gradient[:7] == ["tiny", "64", "1,507", "gradient", "-", "-", "-"]
    assert hessian[:4] == ["tiny", "64", "1,507", "hessian"]
    times, memory = [float(cell) for cell in hessian[4:7]], [float(row[7]) for row in (gradient, hessian)]
    assert all(math.isfinite(figure) and figure > 0 for figure in times)
    assert all(math.isfinite(figure) and figure >= 0 for figure in memory)  # of a tiny problem nothing is left to see
    assert len({len(row) for row in lines if row}) == 1


def test_table_has_every_problem_and_operation():
    found = cases(list(RECIPES), list(OPERATIONS))
    expected = {(name, *SIZES[name][:1], operation) for name in RECIPES for operation in ("gradient", *OPERATIONS)}
    more = {("mlp", 1024, operation) for operation in ("gradient", "gauss_newton", "inverse_harmonic_mean")}
    assert {tuple(case) for case in found} == expected | more
    assert len(found) == len(expected | more)


@pytest.mark.parametrize(("option", "known"), [("--problem", RECIPES), ("--operation", OPERATIONS)])
def test_unknown_name_is_refused_with_those_known(option, known, capsys):
    with pytest.raises(SystemExit, match="2"):
        main([option, "nonsense"])
    message = capsys.readouterr().err
    assert all(name in message for name in known)


@pytest.mark.parametrize("operation", ["gauss_newton", "inverse_harmonic_mean"])
def test_gradients_of_a_thousand_samples_are_never_held(operation):
    (peak,) = peak_memories("mlp", 1024, [operation])
    assert 0 < peak < 300  # the gradients of all samples are 2,743 MB


def test_memory_shows_gradients_that_are_held():
    tiny = problem("tiny")
    point = tiny.params, tiny.buffers, tiny.batch, vectors(tiny)
    torch.testing.assert_close(all_gradients_held(tiny)(*point), gauss_newton(tiny.loss)(*point))
    peak, after = peak_memories("mlp", 128, ["tests.test_benchmarks:all_gradients_held", "gradient"])
    assert 128 * 669_706 * 4 / 1e6 <= peak < 2000
    assert after < 50  # and forgets them
