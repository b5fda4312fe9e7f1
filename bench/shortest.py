"""The shortest way to the gate for NSGF in the plane: networks, learning rates, numbers of steps.

    python bench/shortest.py [--set 8gaussians] [--seeds 100 101 102] [--only WORDS] [--jobs 2]

Each candidate is fitted with the same pools, whose seconds are told apart. Seeds from 100 on are
for choosing, 0 to 4 for the figure. CPU seconds of one thread. Rows that are in
bench/results/shortest.json already are kept.
"""

import argparse
import time
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from multiprocessing import get_context
from pathlib import Path

import torch
from record import locked

OUT = Path(__file__).parent / "results/shortest.json"
CANDIDATES = {  # width, layers, learning rate, optimiser steps
    "today": (256, 3, 2e-3, 16000),
    "256 × 3, 4e-3, 8000": (256, 3, 4e-3, 8000),
    "128 × 3, 1e-2, 10000": (128, 3, 1e-2, 10000),
    "128 × 4, 4e-3, 8000": (128, 4, 4e-3, 8000),
    "128 × 4, 6e-3, 8000": (128, 4, 6e-3, 8000),
    "128 × 4, 1e-2, 8000": (128, 4, 1e-2, 8000),
    "128 × 4, 8e-3, 6000": (128, 4, 8e-3, 6000),
    "128 × 5, 6e-3, 6000": (128, 5, 6e-3, 6000),
    "96 × 5, 8e-3, 8000": (96, 5, 8e-3, 8000),
    "64 × 6, 8e-3, 8000": (64, 6, 8e-3, 8000),
    "96 × 6, 8e-3, 5000": (96, 6, 8e-3, 5000),
    "64 × 6, 1e-2, 5000": (64, 6, 1e-2, 5000),
    "64 × 8, 8e-3, 5000": (64, 8, 8e-3, 5000),
    "48 × 8, 1e-2, 8000": (48, 8, 1e-2, 8000),
}


_pools = {}  # of a process: pool and CPU seconds by set and seed


def fitted(words, name, seed):
    "One fit and its gate; a process makes each pool once"
    from nsgf_nb import NSGF
    from nsgf_nb.data import get_sampler
    from nsgf_nb.distances import gate
    from nsgf_nb.learning import pooled
    from nsgf_nb.learning.nets import MLP
    from nsgf_nb.runs.report import endless

    torch.set_num_threads(1)
    original, taken = pooled.build_pool, {}

    def kept(*args, **options):
        key = name, seed
        if key not in _pools:
            begin = time.process_time()
            _pools[key] = original(*args, **options), time.process_time() - begin
        pool, taken["seconds"] = _pools[key]
        return pool

    pooled.build_pool = kept
    width, layers, lr, steps = CANDIDATES[words]
    flow = NSGF(network=MLP((2,), hidden=width, layers=layers), lr=lr, iterations=steps)
    known, begin = (name, seed) in _pools, time.process_time()
    try:
        flow.fit(name, seed=seed, progress=False)
    finally:
        pooled.build_pool = original
    seconds = time.process_time() - begin - (0 if known else taken["seconds"])
    found = gate(get_sampler(name), endless(flow), seed=seed)
    return dict(
        candidate=words,
        set=name,
        seed=seed,
        pool_seconds=taken["seconds"],
        seconds=seconds,
        ratio=found.ratio,
        high=found.high,
        verdict=found.verdict,
    )


def several(name, seed, candidates):
    "All candidates of a seed, each noted when it is there"
    for words in candidates:
        with locked(OUT, rows=[]) as result:
            done = {(r["candidate"], r["set"], r["seed"]) for r in result["rows"]}
        if (words, name, seed) in done:
            continue
        row = fitted(words, name, seed)
        with locked(OUT, rows=[]) as result:
            result["rows"].append(row)
        said = f"{row['ratio']:.3f} up to {row['high']:.3f}, {row['seconds']:.0f} s"
        print(f"{name}, seed {seed}, {words}: {said}", flush=True)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--set", nargs="+", default=["8gaussians"], help="targets in the plane")
    parser.add_argument("--seeds", type=int, nargs="+", default=[100, 101, 102])
    parser.add_argument("--only", nargs="+", help="candidates that have one of these words")
    parser.add_argument("--jobs", type=int, default=2)
    a = parser.parse_args()
    chosen = [c for c in CANDIDATES if not a.only or any(word in c for word in a.only)]
    with ProcessPoolExecutor(a.jobs, get_context("spawn")) as pool:
        runs = [pool.submit(several, n, s, chosen) for n, s in product(a.set, a.seeds)]
        for run in runs:
            run.result()


if __name__ == "__main__":
    main()
