"""NSGF++ beside flow matching and OT-CFM on images: the choices on digits, the settings and the final runs on MNIST.

    python bench/mnist.py --part digits [--seeds 3]      ablations of NSGF++ on the 8 × 8 digits (10 minutes on one core)
    python bench/mnist.py --part trials                  short runs of the settings in TRIALS, the same number for each method (40 minutes on one core)
    python bench/mnist.py --part final [--folder runs/mnist] [--methods FM OT-CFM NSGF++]   equal CPU time, scores, samples
    python bench/mnist.py --part ship [--folder runs/mnist]    the weights of the package, in bfloat16

Each part goes on where it was stopped: rows that bench/results/digits.json or mnist.json hold are kept, an unfinished fit is resumed. Times are CPU seconds of
one thread, so that other work on the machine does not count. Trials are judged against training images with samples of seed 90, final runs against the test set with
samples of seed 0. The images are read from $NSGF_DATA (else ./data)."""
import argparse, json, os, time, warnings
from pathlib import Path

import torch

from record import ROOT, facts, write

RESULTS = ROOT/"bench"/"results"
NFES = (5, 10, 20)


def read(path): return json.loads(path.read_text()) if path.exists() else {}


def cpu(f):
    "What f returns, and the CPU seconds that it took"
    start = time.process_time()
    return f(), time.process_time() - start


def calls(flow, nfe, solver):
    "Arguments of sample for so many calls of the velocity networks; None where that cannot be"
    first = flow.sinkhorn.num_steps if hasattr(flow, "sinkhorn") else 0
    steps, rest = divmod(nfe - first, 1 if solver == "euler" else 2)
    return None if rest or steps < 1 else dict(num_steps=steps, solver=solver)


# --- digits --------------------------------------------------------------------------------------------------------------------------

BASE = dict(T=1, step_size=.2, start="sinkhorn", relative_blur=.15, self_term="same", coupling="ot")
ABLATIONS = {"FM": None, "OT-CFM": None} | {f"T = {T}, start {start}": dict(T=T, start=start) for T in (1, 3, 5) for start in ("source", "sinkhorn")} | {
    "blur .05": dict(relative_blur=.05), "blur .5": dict(relative_blur=.5), "blur 1": dict(relative_blur=1.), "self term masked": dict(self_term="masked"),
    "self term two_batch": dict(self_term="two_batch"), "independent pairs": dict(coupling="independent")}


def digits_split():
    "1297 digits to train on, 500 to test with"
    from nsgf_nb.core import make_generator
    from nsgf_nb.data import get_sampler
    x, _ = get_sampler("digits")(1797, make_generator(0, "split"))
    return x[:1297], x[1297:]


def digits_flow(name, change, iterations=4000, first=1000):
    from nsgf_nb.plusplus import NSGFPlusPlus
    from nsgf_nb.straight import StraightFlow
    shared = dict(batch_size=128, lr=2e-3)
    if change is None: return StraightFlow("ot" if name == "OT-CFM" else "independent", iterations=iterations, **shared)
    c = BASE | change
    return NSGFPlusPlus(dict(num_steps=c["T"], step_size=c["step_size"], relative_blur=c["relative_blur"], self_term=c["self_term"], group=512, pool_size=8192, iterations=first, **shared),
                        dict(coupling=c["coupling"], iterations=iterations - first, **shared), start=c["start"])


def digits(seeds):
    from nsgf_nb.core import make_generator
    from nsgf_nb.distances import w2
    file = RESULTS/"digits.json"
    train, test = digits_split()
    pick = lambda z, r: z[torch.randperm(len(z), generator=make_generator(r, "pick"))[:500]]
    floor = [w2(pick(train, r), test) for r in range(5)]
    out = facts() | dict(floor=floor, base=BASE, rows=read(file).get("rows", {}))
    for name, change in ABLATIONS.items():
        for seed in range(seeds):
            if f"{name}/{seed}" in out["rows"]: continue
            flow = digits_flow(name, change)
            _, seconds = cpu(lambda: flow.fit(train, seed=seed, progress=False))
            row = {str(nfe): w2(flow.sample(500, seed=1000 + seed, **calls(flow, nfe, "euler")), test) for nfe in (6, 10, 20)}
            out["rows"][f"{name}/{seed}"] = dict(w2=row, seconds=seconds); write(file, out)
            print(f"{name:24} seed {seed}   W2 " + ", ".join(f"{v:.3f} at {k}" for k, v in row.items()) + f"   floor {sum(floor)/5:.3f}   {seconds:.0f} s", flush=True)


# --- MNIST ---------------------------------------------------------------------------------------------------------------------------

COMMON = dict(batch_size=128)
TRIAL = 500                                                                  # optimiser steps in all of a trial


def two_phases(T, step_size, start, coupling, total, first, lr=2e-3, ema=.99, **pool):
    "Arguments of NSGFPlusPlus with so many steps in all, the first phase taking `first` of them"
    return dict(sinkhorn=dict(num_steps=T, step_size=step_size, relative_blur=.15, group=1024, iterations=first, lr=lr, ema=.98, **COMMON) | dict(pool_size=8192) | pool,
                straight=dict(coupling=coupling, iterations=total - first, lr=lr, ema=ema, **COMMON), start=start)


TRIALS = {"FM": {f"lr {lr:g}": dict(coupling="independent", lr=lr, iterations=TRIAL, ema=.99, **COMMON) for lr in (1e-3, 2e-3, 4e-3)},
          "OT-CFM": {f"lr {lr:g}": dict(coupling="ot", lr=lr, iterations=TRIAL, ema=.99, **COMMON) for lr in (1e-3, 2e-3, 4e-3)},
          "NSGF++": {f"T = {T}, step {e:g}, start {s}, {c}": two_phases(T, e, s, c, TRIAL, f) for T, e, s, c, f in TRIED}}
def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--part", choices=("digits", "trials", "final", "ship"), required=True)
    p.add_argument("--seeds", type=int, default=3)
    p.add_argument("--folder", type=Path, default=Path("runs/mnist"))
    p.add_argument("--methods", nargs="+", default=["FM", "OT-CFM", "NSGF++"])
    a = p.parse_args()
    torch.set_num_threads(1); warnings.simplefilter("ignore")
    if a.part == "digits": digits(a.seeds)


if __name__ == "__main__": main()
