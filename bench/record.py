"What every result says about how it was made, and how it is written."

import argparse
import ast
import fcntl
import hashlib
import json
import os
import platform
import statistics
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from itertools import product
from math import inf
from multiprocessing import get_context
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def revision():
    "The commit; a plus where nsgf_nb had changes that were not committed"
    run = lambda *a: subprocess.run(a, capture_output=True, text=True, cwd=ROOT).stdout.strip()
    return run("git", "rev-parse", "--short", "HEAD") + (
        "+" if run("git", "status", "--porcelain", "nsgf_nb") else ""
    )


def facts(*packages, device=None):
    "Machine, versions (of torch and of the packages that are installed), date and revision"
    import torch

    have = {}
    for p in packages:
        with suppress(PackageNotFoundError):
            have[p] = version(p)
    cuda = device is not None and torch.device(device).type == "cuda"
    return dict(
        machine=torch.cuda.get_device_name(device)
        if cuda
        else f"{platform.machine()}, {os.cpu_count()} cores",
        system=platform.system(),
        python=platform.python_version(),
        torch=torch.__version__,
        date=str(date.today()),
        revision=revision(),
    ) | ({"versions": have} if packages else {})


def find_table(path, name, source):
    "A table that is not part of the project, or one sentence that says where it comes from"
    folder = os.environ.get("NSGF_DATA")
    file = path or (folder and Path(folder) / name)
    if not file or not Path(file).is_file():
        sys.exit(f"--data: expected the file {Path(name).name} ({source}), got {file}")
    return Path(file)


def results_of(file, out):
    "Results that are there already, and the sha256 of the table that all of them must be of"
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    known = json.loads(out.read_text()) if out.exists() else dict(rows=[], sha256=digest)
    if known["sha256"] != digest:
        sys.exit(f"{out}: expected results of the same file, got those of another sha256")
    return known["rows"], digest


def write(path, result):
    "JSON under a temporary name, then renamed"
    tmp = Path(path).with_suffix(".tmp")
    tmp.write_text(json.dumps(result, indent=1))
    os.replace(tmp, path)


@contextmanager
def locked(path, **empty):
    """What a JSON file holds, for one process at a time.

    What is changed inside is written, with the facts.
    """
    path = Path(path)
    with open(path.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        result = json.loads(path.read_text()) if path.exists() else empty
        before = json.dumps(result)
        yield result
        if json.dumps(result) != before:
            write(path, result | facts())


# --- tables that grow, a row for each run ---------------------------------------------------------


def rows_of(path):
    "All rows; none, where there is no file yet"
    with locked(path, rows=[]) as result:
        return result["rows"]


def has_row(path, key):
    "Is there a row with these values?"
    return any(key.items() <= row.items() for row in rows_of(path))


def add_rows(path, *rows, **about):
    "More rows, and what is said of all of them"
    with locked(path, rows=[]) as result:
        result["rows"] += rows
        result.update(about)


def run_all(call, todo, jobs):
    "Calls with these arguments, each in a process of its own; one that fails is heard of"
    with ProcessPoolExecutor(jobs, get_context("spawn")) as pool:
        for run in [pool.submit(call, *arguments) for arguments in todo]:
            run.result()


def show_means(path, problems, methods, names):
    "A line a problem and a method: the mean over the seeds of each number that its rows have"
    rows = rows_of(path)
    for problem, method in product(problems, methods):
        those = [r for r in rows if (r["problem"], r["method"]) == (problem, method)]
        known = [k for k in names if those and k in those[0]]
        means = [f"{k} {statistics.mean(r[k] for r in those):.3f}" for k in known]
        if those:
            print(f"{problem:<20} {method:<20}", *means, f"{len(those)} seeds")


def interval(values, level=0.95):
    "Mean and its interval, by Student's law."
    from scipy.stats import t

    n, mean = len(values), statistics.mean(values)
    if n < 2:
        return dict(mean=mean, low=-inf, high=inf)
    half = float(t.ppf((1 + level) / 2, n - 1)) * statistics.stdev(values) / n**0.5
    return dict(mean=mean, low=mean - half, high=mean + half)


def table_options(doc, seeds):
    "The options of a script that fills a table"
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=seeds)
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--show", action="store_true", help="the table of what is there")
    return parser


def with_words(names, only):
    "The names that have one of some words; all, where none is asked for"
    return [name for name in names if not only or any(word in name for word in only)]


# --- stamps: what a recorded tutorial was made with -----------------------------------------------


def _source(module, at=None):
    "Text of a module of nsgf_nb, now or at a commit; None where it is not there"
    name = f"nsgf_nb/{module.replace('.', '/')}.py"
    if at is None:
        return (ROOT / name).read_text(encoding="utf-8") if (ROOT / name).exists() else None
    run = subprocess.run(["git", "show", f"{at}:{name}"], capture_output=True, text=True, cwd=ROOT)
    return run.stdout if run.returncode == 0 else None


def _code(tree):
    "The tree without docstrings: what they and comments say changes no number"
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if (
            isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))
            and body
            and isinstance(body[0], ast.Expr)
            and isinstance(body[0].value, ast.Constant)
        ):
            node.body = body[1:] or [ast.Pass()]
    return ast.dump(tree)


def _imports(name, tree, at):
    "Modules of nsgf_nb that a module imports, with dots and without the package's name"
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "compiled_module":
            yield from (a.value for a in node.args if isinstance(a, ast.Constant))
        if isinstance(node, ast.Import):
            yield from (
                a.name.removeprefix("nsgf_nb.") for a in node.names if a.name.startswith("nsgf_nb.")
            )
        if not isinstance(node, ast.ImportFrom):
            continue
        if node.level:
            above = name.split(".")[: -node.level]
        elif (node.module or "").split(".")[0] == "nsgf_nb":
            above = []
        else:
            continue
        inner = (node.module or "").removeprefix("nsgf_nb").strip(".")
        target = ".".join([*above, *filter(None, [inner])])
        if _source(target, at) is not None:
            yield target
        else:
            candidates = [".".join(filter(None, [target, a.name])) for a in node.names]
            yield from (c for c in candidates if _source(c, at) is not None)


def modules(*names, at=None):
    "Hashes of the code of modules of nsgf_nb and of all that they import, now or at a commit"
    found, todo = {}, list(names)
    while todo:
        name = todo.pop()
        if name in found:
            continue
        text = _source(name, at)
        if text is None:
            raise FileNotFoundError(f"nsgf_nb.{name}: no such module" + (f" at {at}" if at else ""))
        tree = ast.parse(text)
        todo += _imports(name, tree, at)
        found[name] = hashlib.sha256(_code(tree).encode()).hexdigest()[:12]
    return dict(sorted(found.items()))


def changed(hashes):
    "Names of the modules that have another hash today"
    now = modules(*(name for name in hashes if _source(name) is not None))
    return [name for name, h in hashes.items() if now.get(name) != h]


class stamp(dict):
    """What a tutorial says of its recording: facts, seconds and the modules it used.

    It is shown as a line, with the hashes folded below.
    """

    def __init__(self, *names, seconds, at=None, **more):
        super().__init__(facts() | dict(seconds=seconds, modules=modules(*names, at=at)) | more)

    @classmethod
    def of(cls, result, seconds):
        "The stamp of a result that a script has written: facts(), with modules=modules(…)"
        keys = ("machine", "system", "python", "torch", "date", "revision", "modules", "checked")
        new = cls.__new__(cls)
        dict.update(new, {k: result[k] for k in keys if k in result}, seconds=seconds)
        return new

    def __repr__(self):
        return f"recorded at revision {self['revision']} on {self['date']}"

    def _repr_markdown_(self):
        hashes = " ".join(f"`{k}:{v}`" for k, v in (self.get("checked") or self)["modules"].items())
        line = (
            f"Recorded at revision {self['revision']} on {self['date']}, {self['machine']}, "
            f"Python {self['python']}, torch {self['torch']}, in {self['seconds']:.0f} s."
        )
        if "checked" in self:
            c = self["checked"]
            line += f" Checked again at {c['revision']} on {c['date']}: {c['how']}."
        return f"""*{line}*

<details><summary>The {hashes.count(":")} modules it used</summary>

{hashes}

</details>"""


def confirm(path, how, *names):
    "Note in a result that the code has changed since and the numbers stand, and how that is known"
    result = json.loads(Path(path).read_text())
    result["checked"] = dict(
        revision=revision(), date=str(date.today()), how=how, modules=modules(*names)
    )
    write(path, result)
