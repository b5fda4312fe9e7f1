"The suite under six settings: which they are, which run again, what is said at the end"

import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "tools"))

import test_portable as portable  # noqa: E402  tools/test_portable.py

NAMES = ["native", "compatible", "avx2", "threads-2", "threads-4", "oldest"]


@pytest.fixture
def suite(monkeypatch, tmp_path):
    "The driver with a suite that takes no time: settings that ran, and what suite and git answer"
    answers = SimpleNamespace(ran=[], failing=(), missing=(), revision="1")

    def run_suite(interpreter, setting, log):
        answers.ran.append(setting.name)
        failed = 1 if setting.name in answers.failing else 0
        return dict(passed=9, failed=failed, skipped=2)

    def interpreter_of(setting):
        if setting.name in answers.missing:
            raise portable.CannotBeHad("it is not here")
        return sys.executable

    monkeypatch.setattr(portable, "RECORDS", tmp_path / "records")
    monkeypatch.setattr(portable, "run_suite", run_suite)
    monkeypatch.setattr(portable, "interpreter_of", interpreter_of)
    monkeypatch.setattr(portable, "revision", lambda: answers.revision)
    return answers


def test_the_settings_cover_processors_threads_and_versions():
    settings = {s.name: s for s in portable.SETTINGS}
    assert list(settings) == NAMES
    assert settings["compatible"].environment == {
        "ATEN_CPU_CAPABILITY": "default",
        "MKL_CBWR": "COMPATIBLE",
        "ONEDNN_MAX_CPU_ISA": "SSE41",
        "NUMBA_CPU_NAME": "generic",
    }
    assert settings["avx2"].environment == {
        "ATEN_CPU_CAPABILITY": "avx2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "NUMBA_CPU_NAME": "haswell",
    }
    assert settings["native"].environment == {}
    assert {s.threads for s in settings.values()} == {1, 2, 4}
    assert [s.name for s in settings.values() if s.oldest] == ["oldest"]


def test_the_oldest_versions_are_those_of_the_settings():
    text = (ROOT / "settings.ini").read_text(encoding="utf-8")
    python, torch = portable.required()
    assert f"min_python = {python}" in text and f"torch>={torch} " in text


def test_finished_settings_are_not_run_again(suite, capsys):
    assert portable.main(["native", "avx2"]) == 0
    assert portable.main([]) == 0
    assert suite.ran == ["native", "avx2", "compatible", "threads-2", "threads-4", "oldest"]
    assert capsys.readouterr().out.splitlines()[-1] == "6 settings passed, 0 failed, 0 skipped"
    assert portable.main(["--again", "avx2"]) == 0
    assert suite.ran[6:] == ["avx2"]


def test_another_revision_is_run_again(suite):
    portable.main(["native"])
    suite.revision = "2"
    portable.main(["native"])
    assert suite.ran == ["native", "native"]


def test_without_a_revision_nothing_counts_as_finished(suite):
    suite.revision = None
    portable.main(["native"])
    portable.main(["native"])
    assert suite.ran == ["native", "native"]


def test_a_failure_stays_one_until_it_is_run_again(suite, capsys):
    suite.failing = ("threads-4",)
    assert portable.main([]) == 1
    suite.failing = ()
    assert portable.main([]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "5 settings passed, 1 failed, 0 skipped"
    assert portable.main(["--again", "threads-4"]) == 0


def test_what_cannot_be_had_is_skipped_and_said(suite, capsys):
    suite.missing = ("oldest",)
    assert portable.main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "== oldest: skipped, it is not here" in lines
    assert lines[-1] == "5 settings passed, 0 failed, 1 skipped"
    assert portable.main(["oldest"]) == 1  # nothing passed


def test_a_name_that_is_no_setting(suite, capsys):
    with pytest.raises(SystemExit):
        portable.main(["axv2"])
    assert "name: expected one of native, compatible" in capsys.readouterr().err and not suite.ran


def test_the_suite_gets_its_setting_and_its_last_line_is_read(monkeypatch, tmp_path):
    (tmp_path / "tools").mkdir()
    program = (
        "import os; print(os.environ.get('ATEN_CPU_CAPABILITY'), os.environ['TEST_THREADS'], "
        "os.environ.get('MKL_CBWR'))"
    )
    suite, log = tmp_path / "tools/test_all.py", tmp_path / "log"
    setting = portable.Setting(
        "some", "says", threads=3, environment={"ATEN_CPU_CAPABILITY": "avx2"}
    )
    monkeypatch.setattr(portable, "ROOT", tmp_path)
    monkeypatch.setenv("MKL_CBWR", "AVX")  # what the caller chose is not the setting
    suite.write_text(program + "; print('7 passed, 0 failed, 2 skipped')")
    assert portable.run_suite(sys.executable, setting, log) == dict(passed=7, failed=0, skipped=2)
    assert log.read_text().splitlines() == ["avx2 3 None", "7 passed, 0 failed, 2 skipped"]
    suite.write_text("raise SystemExit(1)")
    assert portable.run_suite(sys.executable, setting, log)["failed"] == 1


def test_the_revision_knows_what_differs_from_the_commit(monkeypatch, tmp_path):
    def git(*words):
        subprocess.run(
            ["git", "-c", "user.name=n", "-c", "user.email=e", *words],
            cwd=tmp_path,
            check=True,
            capture_output=True,
        )

    monkeypatch.setattr(portable, "ROOT", tmp_path)
    assert portable.revision() is None
    git("init")
    (tmp_path / "a").write_text("1")
    git("add", "a")
    git("commit", "-m", "one")
    seen = [portable.revision()]
    (tmp_path / "a").write_text("2")
    seen.append(portable.revision())
    (tmp_path / "b").write_text("3")
    seen.append(portable.revision())
    assert len(set(seen)) == 3 and re.fullmatch("[0-9a-f]{40}", seen[0])
    (tmp_path / "b").unlink()
    git("checkout", "a")
    assert portable.revision() == seen[0]


def test_records_are_ignored_by_git():
    ignored = (ROOT / ".gitignore").read_text().split()
    assert f"/{portable.RECORDS.name}/" in ignored and ".venv*/" in ignored


def test_threads_of_the_runner():
    "One unless TEST_THREADS says otherwise, and nonsense is refused"
    ask = (
        "import sys; sys.path.insert(0, 'tools'); import test_all; "
        "print(test_all.environment('.')['OMP_NUM_THREADS'], test_all.WORKERS)"
    )
    for threads, answer in ((None, "1 2"), ("1", "1 2"), ("4", "4 1")):
        env = {k: v for k, v in os.environ.items() if k != "TEST_THREADS"} | (
            {"TEST_THREADS": threads} if threads else {}
        )
        p = subprocess.run(
            [sys.executable, "-c", ask], cwd=ROOT, env=env, text=True, capture_output=True
        )
        assert p.stdout.strip() == answer, p.stderr
    p = subprocess.run(
        [sys.executable, "tools/test_all.py"],
        cwd=ROOT,
        env=os.environ | {"TEST_THREADS": "many"},
        text=True,
        capture_output=True,
    )
    assert (
        p.returncode == 1
        and "TEST_THREADS: expected a number of threads ≥ 1, got 'many'" in p.stderr
    )


BEGUN = """
import os, sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

sys.path.insert(0, "tools")
import test_all

os.environ.update(test_all.environment(os.getcwd()))
start = get_context("forkserver")
start.set_forkserver_preload(test_all.LOADED)
with ProcessPoolExecutor(1, start) as pool:
    there = pool.submit(eval, "set(__import__('sys').modules)").result()
print([name for name in test_all.LOADED if name not in there])
"""


def test_notebooks_begin_with_what_is_loaded_for_them():
    "The process that they are forked from says nothing of a module that it cannot import"
    p = subprocess.run([sys.executable, "-c", BEGUN], cwd=ROOT, text=True, capture_output=True)
    assert p.stdout.strip() == "[]", p.stdout + p.stderr


def test_the_workflow_runs_every_setting():
    jobs = yaml.safe_load((ROOT / ".github/workflows/test.yaml").read_text())["jobs"]
    matrix = jobs["portable"]["strategy"]["matrix"]["include"]
    # the job `test` is native
    assert sorted(row["setting"] for row in matrix) == sorted(set(NAMES) - {"native"})
    python = {row["setting"]: row["python"] for row in matrix}
    assert python["oldest"] == portable.required()[0]
