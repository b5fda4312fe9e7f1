"The work-precision suite: its problems are frozen, its answers are right, its adapters are short"

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest
import reference
import torch

ROOT = Path(__file__).resolve().parent.parent
SUITE = ROOT / "bench" / "workprecision"
sys.path.insert(0, str(SUITE))

import answers  # noqa: E402
import frozen  # noqa: E402
import report  # noqa: E402
import run  # noqa: E402

POTENTIALS, KNOWN = answers.load()
TINY = [row.name for row in frozen.TABLE if max(row.n, row.m) <= 64]
ADAPTERS = sorted((SUITE / "solvers").glob("*.py"))


def test_the_table_has_sixty_problems_and_an_answer_to_each():
    assert len(frozen.ROWS) == 60
    assert set(KNOWN) == set(frozen.ROWS)


@pytest.mark.parametrize("kind", sorted({row.kind for row in frozen.TABLE}))
def test_problems_are_the_ones_that_were_answered(kind):
    named = [row.name for row in frozen.TABLE if row.kind == kind]
    if not frozen.available(named[0]):
        pytest.skip("no MNIST under $NSGF_DATA or ./data")
    for name in named:
        assert frozen.problem(name).digest == KNOWN[name]["digest"], name


def test_other_inputs_are_noticed():
    given = frozen.problem(TINY[0])
    given.x[0, 0] += 1 / frozen.GRID
    with pytest.raises(ValueError, match="other inputs"):
        answers.answer_of(given)


@pytest.mark.parametrize("name", [*TINY, "gaussians8-2d-512-0.25", "digits-64d-256-1-late"])
def test_answers_keep_their_marginals(name):
    answer = answers.answer_of(frozen.problem(name))
    assert max(answer.cross_columns, answer.self_columns) < 1e-10
    assert answer.pull == pytest.approx(KNOWN[name]["pull"], rel=1e-9)


def test_a_wrong_potential_does_not_keep_them():
    given = frozen.problem(TINY[0])
    g, h = (POTENTIALS[f"{given.name} {key}"].clone() for key in "gh")
    g[0] += 1e-3 * given.blur**2
    assert answers.answer_from(given, g, h).cross_columns > 1e-6


@pytest.mark.parametrize("name", TINY)
def test_answers_are_what_log_domain_sweeps_in_twice_the_digits_give(name):
    given = frozen.problem(name)
    p = answers.doubles(given)
    points, weights = (p.x.numpy(), p.y.numpy()), (p.a.numpy(), p.b.numpy())
    other = reference.velocity(*points, given.blur, a=weights[0], b=weights[1])
    assert answers.error_of(torch.from_numpy(other.v), answers.answer_of(given)) < 1e-7


def test_every_answer_was_checked():
    for name, known in KNOWN.items():
        row = frozen.ROWS[name]
        assert max(known["cross_columns"], known["self_columns"]) <= 1e-10
        assert known["doubt"] <= 1e-8
        assert max(row.n, row.m) > 300 or known["apart"] <= 1e-7


@pytest.mark.parametrize("name", TINY[1:4])
def test_the_adapter_of_ours_reaches_a_thousandth(name):
    given = frozen.problem(name)
    answer = answers.answer_of(given)
    solver = run.adapter(SUITE / "solvers" / "ours.py")
    a, b = answer.weights.float(), answers.weights_of(given.b, given.y).float()
    v = solver.velocity(given.x, given.y, a, b, given.blur, 1e-3)
    assert answers.error_of(v, answer) < 1e-3


def code_lines(file):
    "Lines that are neither blank, nor comments, nor imports, nor docstrings."
    tree = ast.parse(file.read_text())
    skipped = set()
    for node in ast.walk(tree):
        text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if text or isinstance(node, (ast.Import, ast.ImportFrom)):
            skipped |= set(range(node.lineno, node.end_lineno + 1))
    lines = enumerate(file.read_text().splitlines(), 1)
    return [text for k, text in lines if k not in skipped and text.split("#")[0].strip()]


@pytest.mark.parametrize("file", ADAPTERS, ids=[file.stem for file in ADAPTERS])
def test_an_adapter_has_at_most_twenty_lines(file):
    assert len(code_lines(file)) <= 20
    defined = {node.name for node in ast.parse(file.read_text()).body if hasattr(node, "name")}
    assert "velocity" in defined


def row(problem, solver, seconds, error):
    return dict(problem=problem, solver=solver, effort=0, seconds=seconds, cpu=seconds, error=error)


def test_the_report_compares_with_the_fastest_rival_of_each_problem():
    rows = [
        row("p", "ours", 1.0, 1e-2),
        row("p", "ours", 2.0, 1e-4),
        row("p", "slow", 8.0, 1e-4),
        row("p", "fast", 4.0, 1e-3),
        row("q", "ours", 2.0, 1e-3),
        row("q", "slow", 1.0, 1e-3),
        row("r", "ours", 1.0, 1e-3),
        row("s", "slow", 1.0, 1e-3),
        row("s", "fast", 1.0, None),
        dict(problem="s", solver="ours", effort=0, failed="longer than 2 s"),
    ]
    found = report.compare(rows, 1e-3)
    assert found.ratios == {"p": 2.0, "q": 0.5}
    assert found.mean == pytest.approx(1)
    assert (found.alone, found.missed, found.lost) == (["r"], ["s"], ["s", "q"])
    assert found.rivals["p"] == ("fast", 4.0)
    assert report.against(rows, 1e-3, "slow").ratios == {"p": 4.0, "q": 0.5}
    assert report.curve(rows, "p", "ours") == ([1.0, 2.0], [1e-2, 1e-4])


TOY = """
import torch

NAME, EFFORTS = "toy", (1, 2, 3)


def velocity(x, y, a, b, blur, effort):
    if effort == 2:
        raise RuntimeError("does not work")
    return (b @ y - a @ x).expand(len(x), -1)
"""


class Here:
    "A worker without a process."

    def __init__(self, file):
        self.solver = run.Solver(file, 1, "cpu")
        opened = self.solver.open()
        self.name, self.efforts, self.process = opened["name"], opened["efforts"], self

    def load(self, name):
        return self.solver.load(name)

    def call(self, name, number, cap):
        try:
            return self.solver.call(number, cap)
        except RuntimeError as e:
            return dict(failed=str(e))
        finally:
            run.interrupt_after(0)


def error_of_means(name):
    "Of the toy below."
    answer = answers.answer_of(frozen.problem(name))
    return answers.error_of(answer.v.mean(0).expand(len(answer.v), -1), answer)


def test_efforts_are_timed_in_turns_and_failures_are_recorded(tmp_path):
    (tmp_path / "toy.py").write_text(TOY)
    first, second, third = run.on_problem(TINY[0], [Here(tmp_path / "toy.py")], 2.0, 10.0)
    assert first["error"] == pytest.approx(error_of_means(TINY[0]), rel=1e-4)
    assert first["calls"] == third["calls"] == run.REPEATS
    assert second["failed"] == "does not work" and "seconds" not in second


@pytest.mark.slow
def test_a_solver_from_anywhere_is_run_and_its_failures_are_recorded(tmp_path):
    (tmp_path / "toy.py").write_text(TOY)
    (tmp_path / "absent.py").write_text("import no_such_library")
    files = [f"--solver={tmp_path / name}.py" for name in ("toy", "absent")]
    out = tmp_path / "out.json"
    command = [sys.executable, SUITE / "run.py", "--solvers", *files, f"--out={out}"]
    command += ["--problems", TINY[0]]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "left out: ModuleNotFoundError" in printed
    result = json.loads(out.read_text())
    first, second, third = result["rows"]
    assert first["error"] == pytest.approx(error_of_means(TINY[0]), rel=1e-4)
    assert third["calls"] == run.REPEATS
    assert second["failed"] == "RuntimeError: does not work"
    again = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert TINY[0] not in again  # it is done
