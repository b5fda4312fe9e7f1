"What the notebooks record, text and figures, is what their code prints and draws today"

import base64
import io
import json
import math
import re
import shutil
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
# they record runs of hours, and carry a stamp
TUTORIALS = sorted((ROOT / "nbs" / "tutorials").glob("*.ipynb"))
NOTEBOOKS = sorted(
    p
    for p in (ROOT / "nbs").rglob("*.ipynb")
    if p not in TUTORIALS and not any(part[0] in "._" for part in p.relative_to(ROOT).parts)
)
NUMBER = re.compile(r"(?<![\w.])[-+]?\d+(?:\.\d*)?(?:e[-+]?\d+)?", re.I)
sys.path[:0] = [str(ROOT / "tools"), str(ROOT / "bench")]


def locked():
    "Packages whose version is not that of requirements-lock.txt"
    for line in (ROOT / "requirements-lock.txt").read_text().splitlines():
        name, eq, v = line.partition("==")
        if not eq:
            continue
        try:
            here = version(name)
        except PackageNotFoundError:
            continue
        if here.split("+")[0] != v.split("+")[0]:
            yield f"{name} {here} instead of {v}"


def printed(cell):
    parts = [
        o.get("text")
        or o.get("data", {}).get("text/markdown")
        or o.get("data", {}).get("text/plain", "")
        for o in cell["outputs"]
        if "image/png" not in o.get("data", {}) and o.get("name") != "stderr"
    ]
    return "".join("".join(p) for p in parts)


def drawn(cell):
    pngs = [o["data"]["image/png"] for o in cell["outputs"] if "image/png" in o.get("data", {})]
    return [Image.open(io.BytesIO(base64.b64decode("".join(p)))) for p in pngs]


def tolerance(source):
    """Of the numbers of a cell, relative: two digits unless the cell says otherwise.

    `#| tol:` gives another, `#| deterministic` none; seconds may be anything.
    """
    if re.search(r"^#\| *deterministic\b", source, re.M):
        return 0.0
    if m := re.search(r"^#\| *tol: *(\S+)", source, re.M):
        return float(m[1])
    return math.inf if "perf_counter" in source or "process_time" in source else 0.02


def alike(a, b, tol):
    "The same words, and numbers within a relative tolerance; what is below 1e-6 is rounding"
    if not tol:
        return a == b
    if NUMBER.sub("#", a).split() != NUMBER.sub("#", b).split():
        return False
    numbers = zip(map(float, NUMBER.findall(a)), map(float, NUMBER.findall(b)))
    return all(math.isclose(x, y, rel_tol=min(tol, 1e300), abs_tol=1e-6) for x, y in numbers)


def test_comparison_of_numbers():
    assert (
        alike("W2 1.00 of 3", "W2  1.01 of 3", 0.02)
        and not alike("W2 1.00", "W2 1.03", 0.02)
        and not alike("W2 1.00", "W3 1.00", 0.02)
    )
    assert (
        alike("1.00 s", "9.00 s", math.inf)
        and not alike("1.0000", "1.0001", 0.0)
        and alike("3e-9", "0.0", 0.02)
    )
    assert (
        tolerance("#| tol: .2\nf()") == 0.2
        and tolerance("#| deterministic\nf()") == 0
        and tolerance("f()") == 0.02
        and tolerance("time.perf_counter()") == math.inf
    )


def same_size(a, b):
    return a.size == b.size


def same_picture(a, b):
    return (
        np.abs(
            np.asarray(a.convert("RGB"), dtype=float) - np.asarray(b.convert("RGB"), dtype=float)
        ).mean()
        < 1
    )


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.name)
def test_recorded_outputs_are_fresh(path, tmp_path, monkeypatch):
    import nbtext

    monkeypatch.setenv("NSGF_PICTURES", str(tmp_path / "nbs/images"))

    shutil.copytree(ROOT / "nbs", tmp_path / "nbs", ignore=shutil.ignore_patterns("data", ".*"))
    for folder in ("bench/results", "tools", "nsgf_nb"):
        shutil.copytree(
            ROOT / folder,
            tmp_path / folder,
            ignore=shutil.ignore_patterns("node_modules", "__pycache__"),
        )
    nb = json.loads(path.read_text(encoding="utf-8"))
    for c in nb["cells"]:
        if re.search(r"^#\| *cuda\b", "".join(c["source"]), re.M):
            c["source"], c["outputs"] = "", []
    copy = tmp_path / path.relative_to(ROOT)
    copy.write_text(json.dumps(nb))
    pictures = [
        name
        for c in nb["cells"]
        if c["cell_type"] == "code"
        for name in re.findall(r'pictures / "([\w.-]+)"', "".join(c["source"]))
    ]
    for name in pictures:
        (tmp_path / "nbs/images" / name).unlink()
    nbtext.run(copy)
    other = "; ".join(locked()) or "the versions are those of requirements-lock.txt"
    for old, new in zip(nb["cells"], json.loads(copy.read_text())["cells"]):
        if old["cell_type"] != "code" or not old["outputs"]:
            continue
        source = "".join(old["source"])
        assert alike(printed(old), printed(new), tolerance(source)), (
            f"recorded:\n{printed(old)}\nnow:\n{printed(new)}\n({other})"
        )
        a, b = drawn(old), drawn(new)
        assert len(a) == len(b) and all(map(same_size, a, b)), (
            f"figures of another number or size are drawn by\n{source}"
        )
        if math.isfinite(tolerance(source)):
            assert all(map(same_picture, a, b)), f"another figure is drawn by\n{source}\n({other})"
    for name in pictures:
        a, b = (Image.open(root / "nbs/images" / name) for root in (ROOT, tmp_path))
        assert (
            same_size(a, b)
            and getattr(a, "n_frames", 1) == getattr(b, "n_frames", 1)
            and same_picture(a, b)
        ), f"nbs/images/{name} is not what {path.name} draws"


def stamped(path):
    "Revision and modules of a recorded tutorial, from its outputs"
    text = "\n".join(
        printed(c)
        for c in json.loads(path.read_text(encoding="utf-8"))["cells"]
        if c["cell_type"] == "code"
    )
    facts = re.search(
        r"Recorded at revision (?P<revision>\w+)\+? on (?P<date>[\d-]+), (?P<machine>[^*]+?), "
        r"Python .*? in (?P<seconds>\d+) s",
        text,
    )
    return facts and facts.groupdict() | dict(
        modules=dict(re.findall(r"`([\w.]+):([0-9a-f]{12})`", text))
    )


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda p: p.name)
def test_tutorials_carry_their_stamp(path):
    "Revision, date, machine, seconds, and the hashes of the modules they used"
    facts = stamped(path)
    assert facts and facts["modules"] and int(facts["seconds"]) > 0


def test_a_stamp_names_modules_that_are_imported_when_they_are_needed():
    "The compiled solver makes the numbers, and no line of the estimator imports it by name"
    from record import modules

    assert {"solver.fast", "solver.compiled"} <= set(modules("estimator"))


@pytest.mark.slow
@pytest.mark.parametrize("path", TUTORIALS, ids=lambda p: p.name)
def test_tutorials_are_of_the_present_code(path):
    """Comments and docstrings may change.

    After any other change a tutorial is recorded again, or its result confirmed (bench/record.py).
    """
    from record import changed

    facts = stamped(path)
    assert not changed(facts["modules"]), (
        f"recorded at {facts['revision']}; these modules have changed since: "
        f"{', '.join(changed(facts['modules']))}"
    )
