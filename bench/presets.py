"""What the word "quick" costs: CPU seconds and gates beside those of the defaults, three seeds.

    python bench/presets.py

Goes on where it was stopped; writes results/presets.json. One thread, an hour.
"""

import json
import statistics
import time
from pathlib import Path

import torch
from record import facts, write

from nsgf_nb import NSGF, SinkhornGenerator, StraightFlow
from nsgf_nb.data import get_sampler
from nsgf_nb.distances import gate
from nsgf_nb.runs.report import endless

OUT = Path(__file__).parent / "results/presets.json"
SEEDS = (0, 1, 2)
SETS = ("moons", "8gaussians")
WORDS = ("quick", "defaults")
MODELS = {
    "nsgf": (NSGF, {}),
    "ot-cfm": (StraightFlow, dict(coupling="ot")),
    "generator": (SinkhornGenerator, {}),
}


def fitted(method, word, name, seed):
    "CPU seconds of a fit, ratio and upper end of its gate"
    cls, options = MODELS[method]
    flow = cls.preset(word, **options) if word == "quick" else cls(**options)
    target = get_sampler(name)
    begin = time.process_time()
    flow.fit(target, seed=seed, progress=False)
    seconds = time.process_time() - begin
    found = gate(target, endless(flow), seed=seed)
    return dict(seconds=seconds, ratio=found.ratio, high=found.high, verdict=found.verdict)


def row(method, word, name, runs):
    "All seeds of a fit in one row"
    return dict(
        method=method,
        word=word,
        set=name,
        seeds=list(SEEDS),
        seconds=statistics.median(run["seconds"] for run in runs),
        ratios=[run["ratio"] for run in runs],
        high=max(run["high"] for run in runs),
        verdicts=[run["verdict"] for run in runs],
    )


def main():
    torch.set_num_threads(1)
    rows = json.loads(OUT.read_text())["rows"] if OUT.exists() else []
    known = {(r["word"], r["method"], r["set"]) for r in rows}
    for word in WORDS:
        for method in MODELS:
            for name in SETS:
                if (word, method, name) in known:
                    continue
                runs = [fitted(method, word, name, seed) for seed in SEEDS]
                rows.append(row(method, word, name, runs))
                write(OUT, facts() | dict(rows=rows))
                print(rows[-1], flush=True)


if __name__ == "__main__":
    main()
