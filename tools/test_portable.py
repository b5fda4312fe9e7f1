"""The suite of tools/test_all.py under six settings of processor, threads and versions.

    python tools/test_portable.py              every setting that has not finished at this revision
    python tools/test_portable.py NAME ...     these settings only
    python tools/test_portable.py --again ...  finished ones too

The last line is `N settings passed, M failed, K skipped`.
What finished is kept in .portable/: NAME.json has the counts, NAME.log all that was printed.
"""

import argparse
import configparser
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RECORDS = ROOT / ".portable"
OLDEST = ROOT / ".venv-oldest"
COUNTS = re.compile(r"^(\d+) passed, (\d+) failed, (\d+) skipped$")


@dataclass(frozen=True)
class Setting:
    "One way to run the suite"

    name: str
    says: str  # what is special about it
    threads: int = 1  # of torch and its libraries, in every process
    environment: dict = field(default_factory=dict)
    needs: tuple = ()  # capabilities of torch, one of which the processor must have
    oldest: bool = False  # Python and torch are the oldest that settings.ini allows


# ATEN_ chooses the instructions of torch's own kernels, MKL_ those of MKL (products, solvers),
# ONEDNN_ those of oneDNN (convolutions, bfloat16), NUMBA_ the processor that the compiled solver
# is made for.
SETTINGS = [
    Setting("native", "what this processor has, 1 thread"),
    Setting(
        "compatible",
        "only instructions that every processor has, 1 thread",
        environment={
            "ATEN_CPU_CAPABILITY": "default",
            "MKL_CBWR": "COMPATIBLE",
            "ONEDNN_MAX_CPU_ISA": "SSE41",
            "NUMBA_CPU_NAME": "generic",
        },
    ),
    Setting(
        "avx2",
        "AVX2 at most, 1 thread",
        environment={
            "ATEN_CPU_CAPABILITY": "avx2",
            "MKL_ENABLE_INSTRUCTIONS": "AVX2",
            "ONEDNN_MAX_CPU_ISA": "AVX2",
            "NUMBA_CPU_NAME": "haswell",
        },
        needs=("AVX2", "AVX512"),
    ),
    Setting("threads-2", "2 threads", threads=2),
    Setting("threads-4", "4 threads", threads=4),
    Setting("oldest", "the oldest Python and torch, 1 thread", oldest=True),
]
CHOSEN_HERE = (
    "ATEN_CPU_CAPABILITY",
    "MKL_CBWR",
    "MKL_ENABLE_INSTRUCTIONS",
    "ONEDNN_MAX_CPU_ISA",
    "NUMBA_CPU_NAME",
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
)


class CannotBeHad(Exception):
    "Why a setting is skipped, in one line"


def output(*command):
    "What a command prints, or None where it fails or is missing"
    try:
        p = subprocess.run(command, cwd=ROOT, text=True, capture_output=True)
    except OSError:
        return None
    return p.stdout if p.returncode == 0 else None


def revision():
    "The commit, and a hash of what differs from it; None outside of a git repository"
    head = output("git", "rev-parse", "HEAD")
    if head is None:
        return None
    digest = hashlib.sha256(output("git", "diff", "HEAD", "--binary").encode())
    new_files = output("git", "ls-files", "--others", "--exclude-standard", "-z").split("\0")
    for name in sorted(filter(None, new_files)):
        digest.update(name.encode() + (ROOT / name).read_bytes())
    unchanged = digest.hexdigest() == hashlib.sha256().hexdigest()
    return head.strip() if unchanged else f"{head.strip()}+{digest.hexdigest()[:12]}"


def required():
    "Oldest Python and oldest torch that settings.ini allows, as text: 3.10 and 2.6"
    ini = configparser.ConfigParser(delimiters=["="])
    ini.read(ROOT / "settings.ini", encoding="utf-8")
    torch = re.search(r"\btorch>=([\d.]+)", ini["DEFAULT"]["requirements"])[1]
    return ini["DEFAULT"]["min_python"], torch


def find_python(version):
    "A Python of this minor version: on the path, of pyenv, of uv or where PYTHON_OLDEST says"
    candidates = [os.environ.get("PYTHON_OLDEST"), f"python{version}"]
    pyenv = output("pyenv", "root")
    if pyenv:
        folders = sorted(Path(pyenv.strip(), "versions").glob(f"{version}*"))
        candidates += [str(folder / "bin" / "python") for folder in folders]
    from_uv = output("uv", "python", "find", version)
    if from_uv:
        candidates.append(from_uv.strip())
    ask = "import sys; print('%d.%d' % sys.version_info[:2])"
    for candidate in filter(None, candidates):
        answer = output(candidate, "-c", ask)
        if answer and answer.strip() == version:
            return candidate
    raise CannotBeHad(f"no Python {version} was found: name one in PYTHON_OLDEST")


def oldest_python():
    "The interpreter of .venv-oldest, which is made where it is missing or older than settings.ini"
    interpreter, done = OLDEST / "bin" / "python", OLDEST / "installed"
    sources = [ROOT / "settings.ini", ROOT / "setup.py", ROOT / "pyproject.toml"]
    newest = max(source.stat().st_mtime for source in sources)
    if done.exists() and done.stat().st_mtime > newest:
        return str(interpreter)
    version, torch = required()
    python = find_python(version)
    print(f"{OLDEST.name}: Python {version} with torch {torch}, some minutes", flush=True)
    shutil.rmtree(OLDEST, ignore_errors=True)
    pip = [interpreter, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    # torchvision names the torch that it was built for, so pip takes the one that matches
    for command in (
        [python, "-m", "venv", OLDEST],
        [*pip, "--editable", ".[dev]", f"torch=={torch}"],
    ):
        p = subprocess.run(list(map(str, command)), cwd=ROOT, text=True, capture_output=True)
        if p.returncode:
            lines = [line for line in p.stderr.splitlines() if line.strip()]
            why = lines[-1] if lines else f"exit status {p.returncode}"
            raise CannotBeHad(f"Python {version} with torch {torch} could not be installed: {why}")
    done.touch()
    return str(interpreter)


def interpreter_of(setting):
    "The Python that runs this setting; raises CannotBeHad"
    if setting.oldest:
        return oldest_python()
    if setting.needs:
        capability = output(
            sys.executable, "-c", "import torch; print(torch.backends.cpu.get_cpu_capability())"
        )
        if capability is None:
            raise CannotBeHad(f"{sys.executable} has no torch to ask for the processor")
        if capability.strip() not in setting.needs:
            raise CannotBeHad(f"the processor has none of {', '.join(setting.needs)}")
    return sys.executable


def run_suite(interpreter, setting, log):
    "Run the suite, print what it prints and keep it in a file; passed, failed and skipped"
    environment = {k: v for k, v in os.environ.items() if k not in CHOSEN_HERE}
    environment |= setting.environment | {"TEST_THREADS": str(setting.threads)}
    command = [interpreter, "tools/test_all.py"]
    last = ""
    piped = dict(text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    with (
        subprocess.Popen(command, cwd=ROOT, env=environment, **piped) as suite,
        log.open("w", encoding="utf-8") as file,
    ):
        for last in suite.stdout:
            print(last, end="", flush=True)
            file.write(last)
    counts = COUNTS.match(last.strip())
    passed, failed, skipped = map(int, counts.groups()) if counts else (0, 0, 0)
    if suite.returncode and not failed:
        failed = 1  # it ended without its last line, or ran nothing
    return dict(passed=passed, failed=failed, skipped=skipped)


def finished(setting):
    "The record of this setting at the present revision, or None"
    now, file = revision(), RECORDS / f"{setting.name}.json"
    if now is None or not file.exists():
        return None
    record = json.loads(file.read_text(encoding="utf-8"))
    return record if record["revision"] == now else None


def keep(setting, record):
    "Write a record; a file that is half written is never seen"
    file = RECORDS / f"{setting.name}.json"
    half = file.with_suffix(".tmp")
    half.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    half.replace(file)


def run_setting(setting, again):
    "Run a setting, or take its record; passed, failed or skipped"
    record = None if again else finished(setting)
    if record is None:
        try:
            interpreter = interpreter_of(setting)
        except CannotBeHad as why:
            print(f"== {setting.name}: skipped, {why}", flush=True)
            return "skipped"
        print(f"== {setting.name}: {setting.says}", flush=True)
        before, start = revision(), time.time()
        counts = run_suite(interpreter, setting, RECORDS / f"{setting.name}.log")
        record = dict(revision=before, **counts, seconds=round(time.time() - start))
        unchanged = revision() == before
        if unchanged:
            keep(setting, record)
        known = "" if unchanged else ", not kept: files were changed meanwhile"
    else:
        known = ", finished before (--again runs it again)"
    verdict = "failed" if record["failed"] else "passed"
    print(
        f"== {setting.name}: {verdict}, {record['passed']} passed, {record['failed']} failed, "
        f"{record['skipped']} skipped in {record['seconds']} s{known}",
        flush=True,
    )
    return verdict


def main(words=None):
    names = [setting.name for setting in SETTINGS]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", nargs="*", help=f"of {', '.join(names)}; all of them by default")
    parser.add_argument("--again", action="store_true", help="run finished settings again")
    options = parser.parse_args(words)
    for name in options.name:
        if name not in names:
            parser.error(f"name: expected one of {', '.join(names)}, got {name!r}")
    RECORDS.mkdir(exist_ok=True)
    chosen = [setting for setting in SETTINGS if setting.name in (options.name or names)]
    verdicts = [run_setting(setting, options.again) for setting in chosen]
    counts = {verdict: verdicts.count(verdict) for verdict in ("passed", "failed", "skipped")}
    print(
        f"{counts['passed']} settings passed, {counts['failed']} failed, "
        f"{counts['skipped']} skipped"
    )
    return counts["failed"] > 0 or counts["passed"] == 0


if __name__ == "__main__":
    sys.exit(main())
