"What the notebooks record, text and figures, is what their code prints and draws today"
import base64
import io
import json
import math
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted(p for p in (ROOT / "nbs").glob("[01]*.ipynb"))  # tutorials (20 and up) record runs of hours
NUMBER = re.compile(r"[-+]?\d+(?:\.\d*)?(?:e[-+]?\d+)?", re.I)
sys.path.insert(0, str(ROOT / "tools"))


def printed(cell):
    parts = [o.get("text") or o.get("data", {}).get("text/plain", "") for o in cell["outputs"] if "image/png" not in o.get("data", {}) and o.get("name") != "stderr"]
    return "".join("".join(p) for p in parts)


def drawn(cell):
    pngs = [o["data"]["image/png"] for o in cell["outputs"] if "image/png" in o.get("data", {})]
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode("".join(p)))).convert("RGB"), dtype=float) for p in pngs]


def alike(a, b):
    "The same words, numbers within 2 %; what is below 1e-6 is rounding"
    if NUMBER.sub("#", a).split() != NUMBER.sub("#", b).split(): return False
    numbers = zip(map(float, NUMBER.findall(a)), map(float, NUMBER.findall(b)))
    return all(math.isclose(x, y, rel_tol=.02, abs_tol=1e-6) for x, y in numbers)


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.name)
def test_recorded_outputs_are_fresh(path, tmp_path):
    import nbtext

    shutil.copytree(ROOT / "nbs", tmp_path / "nbs", ignore=shutil.ignore_patterns("data", ".*"))
    shutil.copytree(ROOT / "bench" / "results", tmp_path / "bench" / "results")
    nb = json.loads(path.read_text(encoding="utf-8"))
    for c in nb["cells"]:
        if re.search(r"^#\| *cuda\b", "".join(c["source"]), re.M): c["source"], c["outputs"] = "", []
    copy = tmp_path / "nbs" / path.name
    copy.write_text(json.dumps(nb))
    nbtext.run(copy)
    for old, new in zip(nb["cells"], json.loads(copy.read_text())["cells"]):
        if old["cell_type"] != "code" or not old["outputs"] or "perf_counter" in "".join(old["source"]): continue  # seconds are never the same twice
        assert alike(printed(old), printed(new)), f"recorded:\n{printed(old)}\nnow:\n{printed(new)}"
        a, b = drawn(old), drawn(new)
        assert len(a) == len(b)
        for x, y in zip(a, b): assert x.shape == y.shape and np.abs(x - y).mean() < 1, f"another figure is drawn by\n{''.join(old['source'])}"
