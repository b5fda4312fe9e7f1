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


def test_figures_come_from_a_gpu_alone():
    command = [sys.executable, ROOT / "bench/gpu.py", "--device", "cpu"]
    said = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert said.returncode == 2 and "expected one of CUDA, or --quick" in said.stderr


def test_a_part_without_a_row_leaves_the_record(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "bench")
    import gpu

    def fails(device, quick):
        raise RuntimeError("no such program")
        yield

    known = dict(rows=[dict(n=1)], complete=True)
    monkeypatch.setattr(gpu, "_result", dict(pairs=known))
    monkeypatch.setattr(gpu, "_out", tmp_path / "gpu.json")
    monkeypatch.setattr(gpu, "PARTS", dict(pairs=fails))
    assert not gpu.run_part("pairs", gpu.torch.device("cpu"), True, 0.0)
    assert json.loads((tmp_path / "gpu.json").read_text()) == dict(pairs=known)
