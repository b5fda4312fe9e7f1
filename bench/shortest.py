"""The shortest way to the gate in the plane: networks, learning rates, numbers of steps.

    python bench/shortest.py                            NSGF on 8gaussians, all candidates
    python bench/shortest.py --method generator bridge --set moons --only "64 × 6"
    python bench/shortest.py --show                     the table of what is there

A candidate is a network of some width and some layers, a largest learning rate, and the share of
the method's own number of optimiser steps; "today" leaves all as it is. All candidates of a seed
have the same pool, whose seconds are told apart. Seeds from 100 on are for choosing, 0 to 4 for
the figure. CPU seconds of one thread. Rows that are in bench/results/shortest.json already are
kept.
"""

import argparse
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from itertools import product
from multiprocessing import get_context
from pathlib import Path

import torch
from record import locked

OUT = Path(__file__).parent / "results/shortest.json"
CANDIDATES = {  # width, layers, learning rate, share of the steps
    "today": None,
    "256 × 3, 4e-3, .5": (256, 3, 4e-3, 0.5),
    "128 × 3, 1e-2, .62": (128, 3, 1e-2, 0.625),
    "128 × 4, 4e-3, .5": (128, 4, 4e-3, 0.5),
    "128 × 4, 6e-3, .5": (128, 4, 6e-3, 0.5),
    "128 × 4, 1e-2, .5": (128, 4, 1e-2, 0.5),
    "128 × 4, 8e-3, .38": (128, 4, 8e-3, 0.375),
    "128 × 5, 6e-3, .38": (128, 5, 6e-3, 0.375),
    "96 × 5, 8e-3, .5": (96, 5, 8e-3, 0.5),
    "64 × 6, 8e-3, .5": (64, 6, 8e-3, 0.5),
    "64 × 6, 8e-3, 1": (64, 6, 8e-3, 1.0),
    "96 × 6, 8e-3, .31": (96, 6, 8e-3, 0.3125),
    "64 × 6, 1e-2, .31": (64, 6, 1e-2, 0.3125),
    "64 × 8, 8e-3, .31": (64, 8, 8e-3, 0.3125),
    "48 × 8, 1e-2, .5": (48, 8, 1e-2, 0.5),
}


def methods():
    "How a model of each method is made"
    from nsgf_nb import NSGF, EnergyFlow, SchrodingerBridge, SinkhornGenerator, StraightFlow

    return {
        "NSGF": NSGF,
        "FM": StraightFlow,
        "OT-CFM": lambda **options: StraightFlow("ot", **options),
        "SD-CFM": lambda **options: StraightFlow("semidiscrete", **options),
        "generator": SinkhornGenerator,
        "bridge": SchrodingerBridge,
        "mmd": lambda **options: EnergyFlow("mmd", **options),
    }


def model_of(method, candidate):
    "A model that is not fitted"
    from nsgf_nb.learning.nets import MLP

    make = methods()[method]
    if candidate is None:
        return make(device="cpu")
    width, layers, lr, share = candidate
    network, own = MLP((2,), hidden=width, layers=layers), make().iterations
    return make(network=network, lr=lr, iterations=round(share * own), device="cpu")


_pools = {}  # of a process: pool and CPU seconds by method, set and seed


@contextmanager
def kept_pool(key):
    "The pool of a key is made once; yields a dictionary that gets its seconds."
    from nsgf_nb.learning import pooled

    original, taken = pooled.build_pool, dict(seconds=0.0, again=False)

    def kept(*args, **options):
        taken["again"] = key in _pools
        if not taken["again"]:
            begin = time.process_time()
            _pools[key] = original(*args, **options), time.process_time() - begin
        pool, taken["seconds"] = _pools[key]
        return pool

    pooled.build_pool = kept
    try:
        yield taken
    finally:
        pooled.build_pool = original


def fitted(method, words, name, seed):
    "One fit and its gate"
    from nsgf_nb.data import get_sampler
    from nsgf_nb.distances import gate
    from nsgf_nb.runs.report import endless

    torch.set_num_threads(1)
    model, begin = model_of(method, CANDIDATES[words]), time.process_time()
    with kept_pool((method, name, seed)) as pool:
        model.fit(name, seed=seed, progress=False)
    seconds = time.process_time() - begin - (0 if pool["again"] else pool["seconds"])
    found = gate(get_sampler(name), endless(model), seed=seed)
    return dict(
        method=method,
        candidate=words,
        set=name,
        seed=seed,
        pool_seconds=pool["seconds"],
        seconds=seconds,
        ratio=found.ratio,
        high=found.high,
        verdict=found.verdict,
    )


def several(method, name, seed, candidates):
    "All candidates of a seed, each noted when it is there"
    for words in candidates:
        with locked(OUT, rows=[]) as result:
            done = {(r["method"], r["candidate"], r["set"], r["seed"]) for r in result["rows"]}
        if (method, words, name, seed) in done:
            continue
        row = fitted(method, words, name, seed)
        with locked(OUT, rows=[]) as result:
            result["rows"].append(row)
        said = f"{row['ratio']:.3f} up to {row['high']:.3f}, {row['seconds']:.0f} s"
        print(f"{method}, {name}, seed {seed}, {words}: {said}", flush=True)


def show():
    "Mean ratio, its spread and the seconds of each candidate, by method and set"
    with locked(OUT, rows=[]) as result:
        rows = result["rows"]
    for key in sorted({(r["method"], r["set"], r["candidate"]) for r in rows}):
        those = [r for r in rows if (r["method"], r["set"], r["candidate"]) == key]
        ratios, seconds = ([r[k] for r in those] for k in ("ratio", "seconds"))
        spread = statistics.stdev(ratios) if len(ratios) > 1 else 0
        numbers = f"{statistics.mean(ratios):.3f} ± {spread:.3f}, {statistics.mean(seconds):.0f} s"
        print(f"{key[0]:<10} {key[1]:<13} {key[2]:<20} {numbers}, {len(those)} seeds")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--method", nargs="+", default=["NSGF"], help="names of methods")
    parser.add_argument("--set", nargs="+", default=["8gaussians"], help="targets in the plane")
    parser.add_argument("--seeds", type=int, nargs="+", default=[100, 101, 102])
    parser.add_argument("--only", nargs="+", help="candidates that have one of these words")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--show", action="store_true", help="the table of what is there")
    a = parser.parse_args()
    if a.show:
        return show()
    chosen = [c for c in CANDIDATES if not a.only or any(word in c for word in a.only)]
    with ProcessPoolExecutor(a.jobs, get_context("spawn")) as pool:
        todo = product(a.method, a.set, a.seeds)
        for run in [pool.submit(several, *what, chosen) for what in todo]:
            run.result()


if __name__ == "__main__":
    main()
