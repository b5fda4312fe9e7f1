"""All checks of the project: gates, notebooks, tests and the site.

Usage, in the root of the project:
    python tools/test_all.py         all but what carries the flag slow or cuda
    python tools/test_all.py FLAG    only what carries FLAG: slow or cuda

The last line is `N passed, M failed, K skipped`, in which each check is counted once.
The environment variable TEST_THREADS is the number of threads of torch and its libraries in each
process: 1 unless it is set.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path

ROOT, BIN = Path(__file__).resolve().parent.parent, Path(sys.executable).parent
FLAGS = ("slow", "cuda")
THREADS = os.environ.get("TEST_THREADS", "1")
WORKERS = 2 if THREADS == "1" else 1  # steps at a time, on two cores
# Seconds after which a step hangs. No measure of speed: the longest took seven minutes on two
# cores that six processes shared.
HANGS = {None: 3600, "slow": 6 * 3600, "cuda": 6 * 3600}
COUNTS = re.compile(r"(\d+) (passed|failed|skipped|deselected|errors?)")
README = """
import sys
sys.path.insert(0, "tools")
from readme import readme
sys.stdout.write(readme()[0])
"""
COPIED = ("nbs", "nsgf_nb", "tests", "bench", "tools")
COPIED_FILES = ("settings.ini", "pyproject.toml", "setup.py")
NOT_COPIED = (".*", "__pycache__", "node_modules", "data", "results", "reference.safetensors")
FORMATTED = ("nbs", "tests", "bench", "tools", "setup.py")
# what most notebooks load, and takes longer than many of them
LOADED = (
    "torch._dynamo",
    "matplotlib.pyplot",
    "nbdev.test",
    "numba",
    "ot",
    "sklearn.datasets",
    "tools.warm",
)
INTERPRETED = 'os.environ["TRITON_INTERPRET"]'


@dataclass
class Result:
    "What one step has to say"

    name: str
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    text: str = ""
    seconds: float = 0.0

    def show(self):
        verdict = "FAIL" if self.failed else "ok" if self.passed else "skip"
        note = "" if self.failed or "\n" in self.text else self.text
        print(f"{verdict:4} {self.seconds:6.1f} s  {self.name}  {note}".rstrip(), flush=True)
        if self.failed:
            lines = self.text.rstrip().splitlines()
            print("\n".join("     | " + line for line in lines), flush=True)


def verdict(name, complaints, note=""):
    "A step that passes when nobody complains"
    text = "\n".join(complaints) or note
    return Result(name, passed=not complaints, failed=bool(complaints), text=text)


def environment(cwd):
    kept = {k: v for k, v in os.environ.items() if k not in ("IN_TEST", "MKL_NUM_THREADS")}
    own = {
        "OMP_NUM_THREADS": THREADS,
        "PYTHONPATH": str(cwd),
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
    }
    if THREADS != "1":
        own["OMP_WAIT_POLICY"] = "passive"  # threads that wait give their core to others
    return kept | own


def run(*cmd, cwd=ROOT, timeout=HANGS[None]):
    "Exit status, standard output and all output of a command of this environment"
    env = environment(cwd)
    try:
        p = subprocess.run(
            cmd,
            cwd=cwd,
            env=env,
            text=True,
            capture_output=True,
            timeout=timeout,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        return 124, "", f"still running after {timeout} s: {' '.join(map(str, cmd))}"
    return p.returncode, p.stdout, p.stdout + p.stderr


def notebooks(root=ROOT):
    return sorted(
        p
        for p in (root / "nbs").rglob("*.ipynb")
        if not any(part[0] in "._" for part in p.relative_to(root).parts)
    )


def changed(copy, folder, pattern):
    "The files of `folder` that differ between the project and a copy of it"
    names = {
        p.relative_to(r)
        for r in (ROOT, copy)
        for p in (r / folder).rglob(pattern)
        if not any(part[0] == "." for part in p.relative_to(r).parts)
    }

    def same(name):
        both = (ROOT / name, copy / name)
        if not all(p.exists() for p in both):
            return False
        return both[0].read_bytes() == both[1].read_bytes()

    return [n.as_posix() for n in sorted(names) if not same(n)]


def clean(copy):
    "gate: notebooks are clean"
    rc, _, text = run("nbdev_clean", cwd=copy)
    if rc:
        return [text]
    return [f"{n} is not clean: run `make export`" for n in changed(copy, "nbs", "*.ipynb")]


def exported(copy):
    "gate: nsgf_nb is what the notebooks export"
    # a module whose notebook is gone would survive an export
    for p in (copy / "nsgf_nb").rglob("*.py"):
        if p != copy / "nsgf_nb/__init__.py":
            p.unlink()
    for command in (["nbdev_export"], [sys.executable, "tools/docstrings.py", "nsgf_nb"]):
        rc, _, text = run(*command, cwd=copy)
        if rc:
            return [text]
    stale, gone = "stale, run `make export`", "no notebook exports it, delete it"
    names = changed(copy, "nsgf_nb", "*.py")
    return [f"{n}: {stale if (copy / n).exists() else gone}" for n in names]


def readme(copy):
    "gate: README.md is nbs/index.ipynb"
    rc, text, both = run(sys.executable, "-c", README, cwd=copy)
    if rc:
        return [both]
    path = ROOT / "README.md"
    same = path.exists() and path.read_text(encoding="utf-8") == text
    return [] if same else ["README.md is stale: run `make export`"]


def sidebar(copy):
    "gate: nbs/sidebar.yml is what the folders say"
    rc, _, text = run(sys.executable, "tools/sidebar.py", cwd=copy)
    if rc:
        return [text]
    return [f"{n} is stale: run `make export`" for n in changed(copy, "nbs", "sidebar.yml")]


def api(copy):
    "gate: nbs/api.ipynb is what the package offers"
    rc, _, text = run(sys.executable, "tools/api.py", cwd=copy)
    if rc:
        return [text]
    return [f"{n} is stale: run `make export`" for n in changed(copy, "nbs", "api.ipynb")]


def form(copy):
    "gate: the form (ruff)"
    rc, _, text = run("ruff", "format", "--check", "--quiet", *FORMATTED, cwd=copy)
    complaints = text.splitlines() if rc else []
    rc, _, text = run(
        "ruff", "check", "--quiet", "--output-format", "concise", *FORMATTED, "nsgf_nb", cwd=copy
    )
    return complaints + (text.splitlines() if rc else [])


def layers(copy):
    "gate: imports go down"
    rc, _, text = run(sys.executable, "tools/layers.py", "--short", cwd=copy)
    return text.splitlines() if rc else []


def readable(copy):
    "gate: the notebooks read well"
    return run(sys.executable, "tools/nbread.py", "nbs", "--short", cwd=copy)[2].splitlines()


def code_of(path):
    "The sources of the code cells of a notebook"
    cells = json.loads(path.read_text())["cells"]
    return ["".join(c["source"]) for c in cells if c["cell_type"] == "code"]


def flagged(path):
    "How many cells of a notebook carry each flag"
    cells = code_of(path)
    return {f: sum(bool(re.search(rf"^\s*#\s?\|\s*{f}\b", s, re.M)) for s in cells) for f in FLAGS}


def alone(path, flag, log):
    "What the process of a notebook does: `nbdev_test`, with all that it says in a file"
    os.chdir(ROOT)
    out = os.open(log, os.O_WRONLY | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(out, stream)
    from execnb.shell import CaptureShell
    from nbdev.test import nbdev_test

    # its hook formats what a cell ends with and drops it: a figure would be drawn twice
    CaptureShell.displayhook_class.compute_format_data = lambda hook, result: ({}, {})
    nbdev_test(path=str(path), n_workers=0, flags=flag or "")


def in_process(path, flag, timeout):
    """Exit status and output of a notebook.

    Its process is forked from one that has loaded what takes longer than many a notebook. One that
    asks for Triton's interpreter has to do so before Triton is there, and begins with nothing.
    """
    if any(INTERPRETED in cell for cell in code_of(path)):
        start = get_context("spawn")
    else:
        start = get_context("forkserver")
        start.set_forkserver_preload(LOADED)
    with tempfile.NamedTemporaryFile("w+") as log:
        p = start.Process(target=alone, args=(path, flag, log.name))
        p.start()
        p.join(timeout)
        if p.is_alive():
            p.kill()
            p.join()
            return 124, f"still running after {timeout} s"
        log.seek(0)
        return p.exitcode, log.read()


def notebook(path, flag):
    "One notebook in a process of its own; cells that its flags leave out are counted as skipped"
    name = path.relative_to(ROOT).as_posix()
    left_out = sum(n for f, n in flagged(path).items() if f != flag)
    first = "".join(json.loads(path.read_text())["cells"][0]["source"])
    if re.search(r"^skip_exec: *true", first, re.M):
        return Result(name, skipped=1)
    rc, text = in_process(path, flag, HANGS[flag])
    complaints = [] if rc == 0 and "Success." in text else [text]
    r = verdict(name, complaints, f"({left_out} cells skipped)" if left_out else "")
    r.skipped = left_out
    return r


def counted(out):
    "What the last line of an output counts: `2 passed, 1 skipped`"
    last = out.strip().splitlines()[-1] if out.strip() else ""
    return {k: int(n) for n, k in COUNTS.findall(last)}


def tests(flag):
    chosen = flag or " and ".join(f"not {f}" for f in FLAGS)
    pytest = (sys.executable, "-m", "pytest", "-q", "--tb=short")
    rc, out, text = run(*pytest, "-m", chosen, timeout=HANGS[flag])
    last = {k.rstrip("s"): n for k, n in counted(out).items()}
    failed = last.get("failed", 0) + last.get("error", 0)
    nothing = flag and rc == 5  # no test carries the flag
    return Result(
        "tests",
        last.get("passed", 0),
        failed or int(rc != 0 and not nothing),
        last.get("skipped", 0) + (0 if flag else last.get("deselected", 0)),
        text,
    )


def site(copy):
    "The site, built from the copy; then as pandoc and as Chromium see it, where they are"
    katex = ROOT / "tools/site/node_modules/katex/dist"
    if not find_spec("smalldocs"):
        return Result("site", skipped=1, text="(no smalldocs: it needs Python 3.11)")
    if not katex.exists():
        return Result("site", skipped=1, text="(no KaTeX: `make docs` installs it with npm)")
    rc, _, text = run(sys.executable, "tools/docs.py", "_site", katex, cwd=copy)
    if rc:
        return Result("site", failed=1, text=text)
    r, checks = Result("site", passed=1), ["parity.py"]
    if shutil.which("chromedriver"):
        checks.append("check_site.py")
    else:
        r.skipped, r.text = 1, "(not looked at: no chromedriver)"
    for check in checks:
        rc, out, text = run(sys.executable, f"tools/{check}", "_site", cwd=copy)
        counts = counted(out)
        r.passed += counts.get("passed", 0)
        r.failed += counts.get("failed", 0) or int(rc != 0)
        if rc:
            r.text += text
    return r


def timed(name, step):
    start = time.time()
    try:
        r = step()
    except Exception as e:
        r = Result(name, failed=1, text=f"{type(e).__name__}: {e}")
    r.seconds = time.time() - start
    r.show()
    return r


def copy_of_project(to):
    "What the gates and the site write, they write there: the project stays as it is"
    for name in COPIED:
        ignore = shutil.ignore_patterns(*NOT_COPIED)
        shutil.copytree(ROOT / name, to / name, ignore=ignore)
    for name in COPIED_FILES:
        shutil.copy(ROOT / name, to)
    return to


GATES = (clean, exported, readme, api, sidebar, readable, form, layers)


def gate(check, copy):
    "The result of a gate, shown"
    return timed(check.__doc__, lambda: verdict(check.__doc__, check(copy)))


def check_arguments(flag):
    "End with one sentence where this cannot run"
    if flag not in (None, *FLAGS):
        sys.exit(__doc__)
    if not THREADS.isdecimal() or int(THREADS) < 1:
        sys.exit(f"TEST_THREADS: expected a number of threads ≥ 1, got {THREADS!r}")
    no_cuda = "import sys, torch; sys.exit(not torch.cuda.is_available())"
    if flag == "cuda" and run(sys.executable, "-c", no_cuda)[0]:
        sys.exit("no CUDA device here")


def beside_notebooks():
    "The files in nbs/ that are no notebooks, with their bytes"
    files = [p for p in (ROOT / "nbs").rglob("*") if p.is_file() and p.suffix != ".ipynb"]
    visible = [p for p in files if not any(x[0] in "._" for x in p.relative_to(ROOT).parts)]
    return {p.relative_to(ROOT).as_posix(): p.read_bytes() for p in visible}


def named(results):
    "What failed, a line each: the end of a long output is what is seen first"
    for r in (r for r in results if r.failed):
        said = re.findall(r"^(?:FAILED|ERROR) .*", r.text, re.M)
        print("\n".join(said or [f"FAILED {r.name}"]))


def tidy(before):
    "running the notebooks leaves the project as it was"
    after = beside_notebooks()
    differ = {n for n in before.keys() | after.keys() if before.get(n) != after.get(n)}
    return verdict(tidy.__doc__, [f"{n}: another file than before" for n in sorted(differ)])


def steps(flag, copy):
    "Name and call of all that follows the gates"
    found = [("tests", lambda: tests(flag))]
    if not flag:
        found.append(("site", lambda: site(copy)))
    paths = [p for p in notebooks() if not flag or flagged(p)[flag]]
    # the long ones first, so that both workers end together
    paths.sort(key=lambda p: "tutorials" not in p.parts)
    return found + [(p.name, lambda p=p: notebook(p, flag)) for p in paths]


def main(flag=None):
    check_arguments(flag)
    # a script's background job inherits that Ctrl-C is ignored, and what it starts from it
    signal.signal(signal.SIGINT, signal.default_int_handler)
    start = time.time()
    # before the process starts from which notebooks are forked: its torch reads the number of
    # threads once
    os.environ.update(environment(ROOT))
    with tempfile.TemporaryDirectory() as tmp, ThreadPoolExecutor(WORKERS) as pool:
        copy = copy_of_project(Path(tmp) / ROOT.name)
        before = beside_notebooks()
        results = [] if flag else [gate(g, copy) for g in GATES]
        results += pool.map(lambda s: timed(*s), steps(flag, copy))
    results.append(timed(tidy.__doc__, lambda: tidy(before)))
    if not flag and not notebooks():
        results.append(verdict("notebooks", ["no notebook was found"]))
    named(results)
    total = {k: sum(getattr(r, k) for r in results) for k in ("passed", "failed", "skipped")}
    print(f"in {time.time() - start:.0f} s")
    print(", ".join(f"{n} {k}" for k, n in total.items()))
    return total["failed"] or not total["passed"]


if __name__ == "__main__":
    sys.exit(bool(main(*sys.argv[1:])))
