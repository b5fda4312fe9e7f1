"The benchmark for a GPU runs to its end without one."

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def test_quick_on_a_cpu(tmp_path):
    "Every part, small; what needs Triton on a GPU has no rows"
    out = tmp_path / "results" / "gpu.json"
    command = [sys.executable, ROOT / "bench/gpu.py", "--quick", "--device", "cpu", "--out", out]
    said = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert said.returncode == 0, said.stderr[-2000:]
    parts = json.loads(out.read_text())
    assert all(part["complete"] and "failed" not in part for part in parts.values())
    empty = {name for name, part in parts.items() if not part["rows"]}
    assert empty == {"blocks", "solves"}
    assert {row["method"] for row in parts["images"]["rows"]} == {"floor", "NSGF++", "OT-CFM", "FM"}
    every = parts["certificate"]["rows"][-1]
    assert every["count"] == 20 and not every["false_promises"] and not every["exceptions"]
