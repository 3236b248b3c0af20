"""The benchmarks: problems have their sizes, tables are whole, other numbers are not timed, memory is real. No times."""

import ast
import json
import math
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

import benchmarks
from benchmarks import contestants, times
from benchmarks.__main__ import main
from benchmarks.agreement import compared, solved
from benchmarks.cases.attention import plain_attention
from benchmarks.cases.influences import DAMPING, INFLUENCES, divided
from benchmarks.cases.operations import MATRICES, OPERATIONS, REGULARIZATION, product
from benchmarks.cases.problems import RECIPES, dimension, plain_gradient, problem_named, vectors
from benchmarks.comparison import Figure, measured
from benchmarks.contestants import CONTESTANTS, Contestant, Field, Multiplication, NotOffered, by_hand, field
from benchmarks.memory import peak_memories
from benchmarks.pictures import drawn
from benchmarks.plan import Plan
from benchmarks.report import Table, columns
from benchmarks.tables import figures, growth, inverses, peers, targets
from benchmarks.tables.operations import Cost, cases
from benchmarks.tables.peers import Match
from benchmarks.times import Effort, Turns, in_turn
from pure_batchops import averaged, direct, gauss_newton, influence
from tests.fake_contestant import PRODUCTS, all_gradients_held, same_number

SIZES = {"tiny": (64, 1_507), "mlp": (128, 669_706), "cnn": (64, 34_826), "transformer": (16, 792_330)}
SIZES |= {"mlp_module": SIZES["mlp"], "cnn_module": SIZES["cnn"], "resnet": (32, 3_874), "gpt": (8, 136_960)}
SIZES |= {"mlp64": (128, 8_970), "gpt_vocabulary": (4, 6_537_088), "gpt2": (8, 120_576)}
TABLED = [name for name, recipe in RECIPES.items() if recipe.tabled]
ONCE = Effort(1, seconds=0.0)
TINY = Match("tiny", 64, 1_507, 1, "gauss_newton", "fake")
NOBODY = Field({}, {}, {}, {})


def twice_the_number(problem, v):
    return same_number(problem, v)._replace(flat=lambda product: 2 * product)


def other_number(problem, v):
    return same_number(problem, v)._replace(flat=lambda product: product + v)


def other_shape(problem, v):
    return same_number(problem, v)._replace(flat=lambda product: product[:-1])


def breaks(problem, v):
    return Multiplication(lambda: 1 / 0, lambda product: product)


def not_here(problem, v):
    raise NotOffered


@pytest.mark.parametrize("name", RECIPES)
def test_problem_has_its_size(name):
    if name == "gpt2":
        pytest.importorskip("transformers")
    problem = problem_named(name)
    assert (len(problem.batch[0]), dimension(problem)) == SIZES[name]
    assert {leaf.dtype for leaf in problem.params.values()} == {torch.float32}
    assert problem.loss(problem.params, problem.buffers, problem.batch).shape == (len(problem.batch[1]),)


def test_problem_is_the_same_each_time_and_leaves_the_seed_alone():
    state = torch.random.get_rng_state()
    first, second = problem_named("tiny", 5), problem_named("tiny", 5)
    assert torch.equal(state, torch.random.get_rng_state())
    torch.testing.assert_close(first.params, second.params, rtol=0, atol=0)
    torch.testing.assert_close(first.batch, second.batch, rtol=0, atol=0)
    assert len(first.batch[0]) == 5


def test_plain_gradient_is_the_gradient_of_the_mean_loss():
    problem = problem_named("tiny")
    expected = torch.func.grad(lambda p: problem.loss(p, problem.buffers, problem.batch).mean())(problem.params)
    torch.testing.assert_close(plain_gradient(problem)(), tuple(expected.values()))


@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_operation_multiplies(operation):
    problem = problem_named("tiny")
    products = product(OPERATIONS[operation](problem), problem, vectors(problem, 2))()
    assert products.shape == (2, 1_507)
    assert products.isfinite().all()


def test_table_has_a_row_for_each_operation_with_all_its_figures(capsys):
    main(["--quick", "--section", "operations", "--problem", "tiny", "--operation", "hessian", "--rounds", "1"])
    header, headings, table = capsys.readouterr().out.partition("problem  ")
    assert f"torch {torch.__version__}" in header
    assert "threads: 1, rounds: 1" in header
    lines = (headings + table).splitlines()
    assert lines[0].split() == " ".join(column.heading for column in columns(Cost).values()).split()
    gradient, hessian = (row.split() for row in lines[2:])
    assert gradient[:4] == ["tiny", "64", "1,507", "gradient"]
    assert gradient[5:9] == ["-"] * 4
    assert hessian[:5] == ["tiny", "64", "1,507", "hessian", "-"]
    times, memory = [float(cell) for cell in (gradient[4], *hessian[5:9])], [float(row[9]) for row in (gradient, hessian)]
    assert all(math.isfinite(figure) and figure > 0 for figure in times)
    assert all(math.isfinite(figure) and figure >= 0 for figure in memory)  # of a tiny problem nothing is left to see
    assert len({len(row) for row in lines if row}) == 1


def test_table_has_every_problem_and_operation():
    rows = cases(list(RECIPES), list(OPERATIONS))
    expected = {(name, *SIZES[name][:1], operation) for name in TABLED for operation in ("gradient", *OPERATIONS)}
    more = {("mlp", 1024, operation) for operation in ("gradient", "gauss_newton", "inverse_harmonic_mean")}
    assert {tuple(case) for case in rows} == expected | more
    assert len(rows) == len(expected | more)


@pytest.mark.parametrize(
    ("option", "known"), [("--problem", RECIPES), ("--operation", OPERATIONS), ("--contestant", CONTESTANTS)]
)
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
    tiny = problem_named("tiny")
    point = tiny.params, tiny.buffers, tiny.batch, vectors(tiny)
    torch.testing.assert_close(all_gradients_held(tiny)(*point), gauss_newton(tiny.loss)(*point))
    peak, after = peak_memories("mlp", 128, ["tests.fake_contestant:all_gradients_held", "gradient"])
    assert 128 * 669_706 * 4 / 1e6 <= peak < 2000
    assert after < 50  # and forgets them


def test_transformer_has_products_that_agree_with_autograd():
    problem = problem_named("transformer", 2)
    with plain_attention():
        v = vectors(problem, 2)
        theirs = by_hand.PRODUCTS["hessian"](problem, v)
        ours = product(OPERATIONS["hessian"](problem), problem, v)()
        assert compared(theirs.flat(theirs.call()), ours, v, "hessian")[1] is None


@pytest.mark.parametrize("count", [(), (3,)])
def test_hessian_by_hand_is_the_hessian(count):
    problem = problem_named("tiny")
    v = vectors(problem, *count)
    theirs = by_hand.PRODUCTS["hessian"](problem, v)
    ours = product(OPERATIONS["hessian"](problem), problem, v)()
    torch.testing.assert_close(theirs.flat(theirs.call()), ours)


def test_peers_are_compared_timed_and_written_as_text_and_json(capsys, monkeypatch, tmp_path):
    monkeypatch.setitem(CONTESTANTS, "fake", Contestant("tests.fake_contestant", "torch", "pip install fake"))
    only = [word for pair in (("--contestant", "fake"), ("--problem", "tiny"), ("--section", "peers")) for word in pair]
    main([*only, "--quick", "--rounds", "1", "--json", str(tmp_path / "figures.json")])
    printed = capsys.readouterr().out
    document = json.loads((tmp_path / "figures.json").read_text(encoding="utf-8"))
    assert document["machine"]["torch"] == torch.__version__
    assert document["versions"]["torch"].partition("+")[0] == torch.__version__.partition("+")[0]
    assert document["rounds"] == 1
    rows = document["tables"]["peers"]
    assert {(row["operation"], row["vectors"]) for row in rows} == {(name, k) for name in PRODUCTS for k in (1, 16)}
    lines = [line for line in printed.splitlines() if line.startswith("tiny")]
    for row, line in zip(rows, lines, strict=True):
        if row["operation"] == "gauss_newton":
            cells = [format(row[name], ".2f") for name in ("ours", "theirs")] + [format(row["ours / theirs"], ".3f")]
            assert row["remark"] is None
        else:
            cells = ["-", "-", "-"]
            assert row["remark"] == "another number: not timed"
            assert line.endswith(row["remark"])
        assert line.split()[:9] == ["tiny", "64", "1,507", f"{row['vectors']}", row["operation"], "fake", *cells]


@pytest.mark.parametrize(
    ("theirs", "remark"),
    [
        (twice_the_number, "another number, 2 times ours: not timed"),
        (other_number, "another number: not timed"),
        (other_shape, "another shape, (1506,) and not (1507,): not timed"),
        (breaks, "failed: ZeroDivisionError: division by zero"),
    ],
)
def test_contestant_with_another_number_is_reported_and_not_timed(theirs, remark):
    problem = problem_named("tiny")
    row = peers.measured(TINY, problem, theirs, vectors(problem), ONCE)
    assert row.remark == remark
    assert row.ours is row.theirs is row.ratio is None


def test_what_a_contestant_does_not_offer_is_no_row():
    taking_part = NOBODY._replace(
        products={"absent": {"hessian": not_here}, "present": {"hessian": by_hand.PRODUCTS["hessian"]}}
    )
    rows = peers.peers_table(Plan(["tiny"], ["hessian"], taking_part, ONCE)).rows
    assert [(row.contestant, row.vectors) for row in rows] == [("present", 1), ("present", 16)]


def test_inverse_harmonic_mean_is_compared_in_what_it_takes_off_the_vector():
    v, update = torch.randn(2, 100, dtype=torch.float64).float()
    ours = (v - 1e-3 * update) / REGULARIZATION
    assert compared(ours.clone(), ours, v, "inverse_harmonic_mean")[1] is None
    wrong = (v - 0.9e-3 * update) / REGULARIZATION
    assert "0.9 times ours" in compared(wrong, ours, v, "inverse_harmonic_mean")[1]


def test_missing_contestant_is_named_with_its_install_line(capsys, monkeypatch, tmp_path):
    monkeypatch.setitem(CONTESTANTS, "absent", Contestant("no_such_module", "absent", "pip install absent"))
    asked = ["--quick", "--section", "peers", "--problem", "tiny", "--operation", "monte_carlo_fisher"]
    main([*asked, "--contestant", "absent", "--rounds", "1", "--json", str(tmp_path / "figures.json")])
    expected = "ModuleNotFoundError: No module named 'no_such_module'; install it by: pip install absent"
    assert f"missing: absent ({expected})" in capsys.readouterr().out
    assert json.loads((tmp_path / "figures.json").read_text(encoding="utf-8"))["missing"] == {"absent": expected}


def test_every_contestant_takes_part_or_is_missing_with_what_installs_it():
    everybody = field(["autograd", "curvlinops", "pydvl"])
    assert {*everybody.products, *everybody.missing} == {"autograd", "curvlinops", "pydvl"}
    assert everybody.products.keys() == everybody.influences.keys()
    assert "hessian" in everybody.products["autograd"]
    assert all("pip install" in reason for reason in everybody.missing.values())
    assert all("pip install" in row.install for row in CONTESTANTS.values())
    assert set(MATRICES) <= set(OPERATIONS)


def test_figures_have_a_row_for_each_that_can_be_measured(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda op, **_: op)  # a compiler takes its minutes
    taking_part = NOBODY._replace(products={"pydvl": {"gauss_newton": same_number}})
    table = figures.figures_table(Plan(["tiny"], ["gauss_newton"], taking_part, ONCE))
    rows = list(table.rows)
    assert [row.figure for row in rows] == ["vmap", "vmap+compile", "compile"]
    assert all(row.ratio > 0 and row.remark is None for row in rows)
    assert {"figure", "ratio", "ms", "theirs_ms", "remark"} < set(table.columns) < set(Figure._fields)


def test_what_does_not_compile_is_said(monkeypatch):
    def fails(op, **_):
        return {}["compiler"]

    monkeypatch.setattr(torch, "compile", fails)
    (row,) = figures.figures_table(Plan(["tiny"], ["hessian"], NOBODY, ONCE)).rows
    assert row.remark == "does not compile here: KeyError: 'compiler'"


def test_targets_name_known_problems_operations_and_other_sides():
    for goal in targets.GOALS:
        assert {*goal.problems} <= {*RECIPES}
        assert {*goal.operations} <= {*OPERATIONS}
        assert goal.figure in {*targets.WAYS, targets.PEAK}
        if goal.figure != targets.PEAK:
            assert goal.over in targets.OTHERS or goal.over.removeprefix(targets.LOOP) in CONTESTANTS


def test_every_way_has_a_figure_and_the_word_whether_it_meets_its_target(monkeypatch):
    goals = [
        targets.Goal("1 vector", ("tiny",), ("gauss_newton",), "one gradient", 1e9),
        targets.Goal("16 vectors", ("tiny",), ("gauss_newton", "hessian"), "fake", 0.0),
        targets.Goal("16 vectors", ("tiny",), ("inverse_harmonic_mean",), "one vector at a time", 0.0),
        targets.Goal("compiled", ("tiny",), ("gauss_newton",), "one gradient", 1e9),
        targets.Goal("8 members", ("tiny",), ("monte_carlo_fisher", "inverse_harmonic_mean"), "our loop over them", 0.0),
        targets.Goal("32 members", ("tiny",), ("gauss_newton",), "a loop of fake", 0.0),
        targets.Goal("20 batches", ("tiny",), MATRICES, "a loop that adds up", 1e9),
        targets.Goal("1 vector", ("tiny",), ("gauss_newton",), "pydvl", 1e9),
        targets.Goal(targets.PEAK, ("gpt",), ("hessian",), "that of a gradient, in logits", 0.5),
    ]
    monkeypatch.setattr(targets, "GOALS", goals)
    monkeypatch.setattr(targets, "peak_memories", lambda name, samples, operations: [1.0, 1.0 + 8 * 64 * 256 * 4 / 1e6])
    monkeypatch.setattr(torch, "compile", lambda op, **_: op)
    taking_part = NOBODY._replace(products={"fake": {"gauss_newton": same_number, "hessian": same_number}})
    *rows, peak = targets.targets_table(Plan(["tiny", "gpt"], list(MATRICES), taking_part, ONCE, quick=True)).rows
    met = ["yes", "no", None, "no", "yes", "no", "no", "no", *["yes"] * len(MATRICES), None]
    assert [row.met for row in rows] == met
    assert {row.remark for row in rows if row.met} == {None}
    assert [row.remark for row in rows if not row.met] == ["another number: not timed", "pydvl takes no part"]
    assert (round(peak.ratio, 6), peak.met, peak.peak) == (1.0, "no", 1.0 + 8 * 64 * 256 * 4 / 1e6)


def test_side_that_fails_is_said():
    comparison = next(inverses.comparisons({}))
    row = measured(comparison._replace(theirs=lambda *_: lambda: 1 / 0), ONCE)
    assert row.remark == "failed: ZeroDivisionError: division by zero"
    assert row.ratio is None


@pytest.mark.parametrize(("name", "plain"), [("gpt", True), ("tiny", False)])
def test_contestants_run_attention_by_plain_products_and_only_where_there_is_attention(name, plain, monkeypatch):
    asked = []
    monkeypatch.setattr(contestants, "plain_attention", lambda: asked.append(1) or nullcontext())
    products = field(["autograd"]).products["autograd"]
    problem = problem_named(name, 1)
    theirs = products["hessian"](problem, vectors(problem))
    with plain_attention():
        theirs.call()
    assert bool(asked) == plain


def test_texts_are_tokens_with_a_target_each():
    problem = problem_named("gpt", 2)
    assert [(part.shape, part.dtype) for part in problem.batch] == [((2, 64), torch.int64)] * 2
    logits = problem.model(problem.batch[0])
    expected = -logits.log_softmax(1).gather(1, problem.batch[1][:, None]).mean()
    torch.testing.assert_close(problem.loss(problem.params, problem.buffers, problem.batch).mean(), expected)


def test_modules_of_ones_own_are_the_chains():
    for chain, module in (("mlp", "mlp_module"), ("cnn", "cnn_module")):
        first, second = problem_named(chain, 2), problem_named(module, 2)
        torch.testing.assert_close(first.model(first.batch[0]), second.model(second.batch[0]), rtol=0, atol=0)
    statistics = [leaf for name, leaf in problem_named("resnet", 1).buffers.items() if "running" in name]
    assert len(statistics) == 14
    assert all(leaf.std() > 0.01 for leaf in statistics)


def test_inverses_have_a_row_for_each_that_can_be_measured():
    plan = Plan(["tiny"], list(OPERATIONS), NOBODY, ONCE)
    table = inverses.inverses_table(plan)
    rows = list(table.rows)
    kinds = {
        "at": ("hessian", "gauss_newton", "generalized_gauss_newton"),
        "ensemble": ("hessian", "generalized_gauss_newton"),
    }
    expected = [(figure, operation) for figure, names in kinds.items() for operation in names]
    assert [(row.figure, row.operation) for row in rows] == expected
    assert all(row.ratio > 0 and row.remark is None for row in rows)
    assert set(table.columns) == {*Figure._fields} - {"at_most", "met"}
    assert not list(inverses.inverses_table(plan._replace(problems=["mlp"], quick=True)).rows)


def test_inverse_with_another_number_is_reported_without_its_times():
    comparison = next(inverses.comparisons({}))

    def twice(problem, operation, v):
        call = comparison.theirs(problem, operation, v)
        return lambda: 2 * call()

    row = measured(comparison._replace(theirs=twice), ONCE)
    assert row.remark == "another number: not timed"
    assert row.differ_by == 1
    assert row.ratio is None


def test_influences_are_compared_with_those_that_a_contestant_has():
    theirs = {"hessian": lambda problem, train, test: (len(train), len(test[1]))}
    rows = [row for row in inverses.comparisons({"pydvl": theirs}) if row.name == "influence"]
    assert [(row.operation, row.samples, row.same) for row in rows] == [("hessian", 1_100, solved)]
    assert all(row.memory in INFLUENCES for row in rows)
    assert rows[0].theirs(problem_named("tiny"), "hessian", None) == (8, 5)


def test_influence_that_is_measured_is_that_of_the_dense_inverse():
    problem = problem_named("tiny")
    train, test = divided(problem.batch)
    assert [len(y) for _, y in train] == [8] * 7 + [3]
    influences = INFLUENCES["influence_by_hessian"](problem)()
    inverse = direct(averaged(OPERATIONS["hessian"](problem)), DAMPING)
    expected = -influence(inverse, problem.loss)(problem.params, problem.buffers, train, test)
    # single precision, up to the tolerance of the solve
    torch.testing.assert_close(influences, expected, rtol=0.01, atol=0.01)


def test_growth_has_a_point_for_each_size_and_is_drawn(monkeypatch, tmp_path):
    sizes = {"time, n": (2, 4), "time, D": (3, 5), "time, K": (1, 2), "memory, n × D": (2,), "memory, K": (2,)}
    assert sizes.keys() == growth.SIZES.keys()
    monkeypatch.setattr(growth, "SIZES", sizes)
    monkeypatch.setattr(growth, "peak_memories", lambda name, samples, operations, count: [1.0] * len(operations))
    table = growth.growth_table(Plan(["mlp"], ["gauss_newton"], NOBODY, ONCE))
    rows = list(table.rows)
    points = {(row.axis, row.operation, row.n, row.K) for row in rows}
    for operation in ("gradient", "gauss_newton"):
        assert {("time, n", operation, n, 1) for n in (2, 4)} < points
        assert {("time, K", operation, 128, k) for k in (1, 2)} < points
        assert {("memory, n × D", operation, 2, 1), ("memory, K", operation, 128, 2)} < points
    assert len(rows) == 16
    assert all(row.ms is None or row.gradients > 0 for row in rows)
    pytest.importorskip("matplotlib")
    bars = Table("peers", "", columns(Match), [TINY._replace(ours=2.0, theirs=3.0)])
    assert drawn({"peers": bars, "growth": table._replace(rows=rows)}, tmp_path).startswith("pictures: ")
    assert {path.name for path in tmp_path.iterdir()} == {"peers.png", "growth.png"}


def test_pictures_without_matplotlib_say_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert "pip install '.[benchmark]'" in drawn({}, tmp_path)


def test_times_are_medians_of_ratios_in_each_round():
    assert Turns([(2.0, 1.0), (30.0, 10.0), (8.0, 1.0)]).ratio(0, 1) == 3.0
    assert Turns([(2.0, 1.0), (30.0, 10.0), (8.0, 1.0)]).median(0) == 8.0
    assert len(in_turn([lambda: None], Effort(3)).seconds) == 3
    assert len(in_turn([lambda: None], Effort(3, seconds=0.0)).seconds) == 1


def test_every_other_round_is_taken_backwards_and_each_time_is_its_calls(monkeypatch):
    taken = []
    monkeypatch.setattr(times, "timeit", lambda call, before, number: call() * number)
    calls = [lambda seconds=seconds: taken.append(seconds) or seconds for seconds in (1.0, 2.0, 3.0)]
    assert in_turn(calls, Effort(2)).seconds == [(1.0, 2.0, 3.0)] * 2
    assert taken[-6:] == [1.0, 2.0, 3.0, 3.0, 2.0, 1.0]


def test_processes_stay_in_step_as_each_call_is_made_once_a_round_and_once_before():
    calls, pauses = [], []
    turns = in_turn([lambda: calls.append(1)] * 3, Effort(4, math.inf, least_seconds=0.0), before=lambda: pauses.append(1))
    assert len(turns.seconds) == 4
    assert len(calls) == len(pauses) == 3 * (1 + 4)


LEVELS = [
    "times",
    "cases",
    "contestants",
    "plan",
    "memory",
    "report",
    "agreement",
    "comparison",
    "sides",
    "tables",
    "pictures",
    "scaling",
    "__main__",
]


@pytest.mark.parametrize("path", sorted(Path(benchmarks.__file__).parent.rglob("*.py")), ids=lambda path: path.stem)
def test_no_import_runs_upward_and_only_public_names_are_used(path):
    room = path.relative_to(Path(benchmarks.__file__).parent).parts[0].removesuffix(".py")
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    imported = [node.module for node in nodes if isinstance(node, ast.ImportFrom)]
    rooms = [name.split(".")[1] for name in imported if name.startswith("benchmarks.")]
    assert all(LEVELS.index(other) <= LEVELS.index(room) for other in rooms)
    assert not [name for name in imported if name.startswith("pure_batchops.")]
    strings = [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    assert all(text.startswith(f"benchmarks.{room}") for text in strings if text.startswith("benchmarks."))
