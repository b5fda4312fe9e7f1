"""Fields learned from four energies, on the six problems of bench/toy2d.py, and their gates.

    python bench/energies.py [--seeds 0 1 2] [--problems moons …] [--energies kale …] [--jobs 1]
    python bench/energies.py --show        the table of what is there

Sinkhorn is NSGF, the others are EnergyFlow. All have ten network calls, the same network, the same
number of simulated particles, and the same number of optimiser steps; --quick takes a tenth of
these and writes no record. Sizes of groups are those of the lesson: a critic wants many points.
Every fit is a row of bench/results/energies.json, written when it is done; rows that are there are
kept, so a stopped run goes on. Times are CPU seconds of one thread.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from record import ROOT, locked, modules, revision
from toy2d import PROBLEMS

ENERGIES = ("sinkhorn", "mmd", "kale", "lipschitz")
GROUPS = dict(sinkhorn=1024, mmd=256, kale=256, lipschitz=1024)
BUDGET = dict(pool_size=4096, iterations=4000)
QUICK = dict(pool_size=3072, iterations=400)


def model(energy, budget):
    "Unfitted, with ten calls"
    from nsgf_nb.family.energy_flow import EnergyFlow
    from nsgf_nb.flow import NSGF

    shared = dict(num_steps=10, group=GROUPS[energy], device="cpu", **budget)
    return NSGF(**shared) if energy == "sinkhorn" else EnergyFlow(energy, **shared)


def row(problem, energy, seed, budget, half_width):
    "One fit and its gate"
    from nsgf_nb.data import get_sampler
    from nsgf_nb.distances import gate
    from nsgf_nb.runs.report import endless

    target, source = PROBLEMS[problem]
    flow, first, begin = model(energy, budget), [], time.process_time()
    started = lambda _: first or first.append(time.process_time())
    flow.fit(target, source, seed=seed, progress=False, callbacks=[started])
    seconds = time.process_time() - begin
    passed = gate(get_sampler(target), endless(flow), seed=seed + 2000, half_width=half_width)
    return dict(
        problem=problem,
        energy=energy,
        seed=seed,
        revision=revision(),
        seconds=seconds,
        seconds_until_first_row=first[0] - begin,
        budget=budget,
        nfe=flow.nfe,
        gate=vars(passed) | dict(passed=passed.passed),
    )


def worker(task):
    "One row in a process of its own, written when it is done"
    import torch

    torch.set_num_threads(1)
    out, key, budget, half_width = task
    r = row(*key, budget, half_width)
    with locked(out, rows=[]) as table:
        table["rows"].append(r)
        table["modules"] = modules("flow", "family.energy_flow", "distances")
    ratio, low, high = (r["gate"][k] for k in ("ratio", "low", "high"))
    print(
        f"{r['problem']:20} {r['energy']:10} seed {r['seed']}  {r['seconds']:5.0f} s  "
        f"{r['gate']['verdict']} {ratio:.2f} [{low:.2f}, {high:.2f}]",
        flush=True,
    )


def show(rows):
    "Ratio to the floor, mean over seeds, from the least to the largest"
    print(f"\n{'':10}" + "".join(f"{p:>22}" for p in PROBLEMS) + f"{'CPU s':>8}")
    for energy in ENERGIES:
        mine = [r for r in rows if r["energy"] == energy]
        cells = []
        for problem in PROBLEMS:
            v = [r["gate"]["ratio"] for r in mine if r["problem"] == problem]
            cells.append(f"{statistics.mean(v):.2f} ({min(v):.2f}–{max(v):.2f})" if v else "–")
        seconds = f"{statistics.mean(r['seconds'] for r in mine):.0f}" if mine else "–"
        print(f"{energy:10}" + "".join(f"{c:>22}" for c in cells) + f"{seconds:>8}")


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--out", type=Path, default=ROOT / "bench" / "results" / "energies.json")
    p.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    p.add_argument("--problems", nargs="+", default=list(PROBLEMS), choices=list(PROBLEMS))
    p.add_argument("--energies", nargs="+", default=list(ENERGIES), choices=ENERGIES)
    p.add_argument("--jobs", type=int, default=1)
    p.add_argument("--quick", action="store_true")
    p.add_argument("--show", action="store_true")
    a = p.parse_args()
    if a.quick:
        a.out = Path(tempfile.mkdtemp(prefix="energies-")) / "energies.json"
    there = lambda: json.loads(a.out.read_text())["rows"] if a.out.exists() else []
    done = {(r["problem"], r["energy"], r["seed"]) for r in there()}
    keys = [(q, e, s) for s in a.seeds for q in a.problems for e in a.energies]
    budget, half_width = (QUICK, 0.2) if a.quick else (BUDGET, None)
    todo = [(a.out, key, budget, half_width) for key in keys if key not in done]
    if not a.show:
        with ProcessPoolExecutor(a.jobs) as pool:
            list(pool.map(worker, todo))
    show(there())


if __name__ == "__main__":
    sys.exit(main())
