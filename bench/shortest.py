"""The shortest way to the gate: networks, learning rates, numbers of steps.

    python bench/shortest.py                      NSGF on 8gaussians, all candidates of the plane
    python bench/shortest.py --methods generator bridge --problems moons --only "64 × 6"
    python bench/shortest.py --problems digits    variance and energy distance, where no gate is
    python bench/shortest.py --show               the table of what is there

A candidate is a network of some width and some layers, a largest learning rate, and a share of
STEPS, which are those of the paper's network of 3 × 256 ("before": that network, 2e-3, all steps).
All candidates of a seed have the same pool, whose seconds are told apart. Seeds from 100 on are
for choosing, 0 to 4 for the figure. CPU seconds of one thread. Problems and distances are those of
bench/equal_seconds.py.
Rows that are in bench/results/shortest.json already are kept.
"""

import statistics
import time
from contextlib import contextmanager
from functools import partial
from itertools import product
from pathlib import Path

import torch
from equal_seconds import CALLS, PROBLEMS, judged
from record import add_rows, has_row, rows_of, run_all, table_options, with_words

OUT = Path(__file__).parent / "results/shortest.json"
STEPS = {
    "NSGF": 16000,
    "FM": 16000,
    "OT-CFM": 16000,
    "SD-CFM": 16000,
    "bridge": 8000,
    "generator": 4000,
    "mmd": 4000,
}
DIGITS = {  # width, layers, learning rate, share of the steps; and what else differs
    "before": (512, 4, 2e-3, 1.0),
    "512 × 4, 4e-3, 1": (512, 4, 4e-3, 1.0),
    "512 × 4, 2e-3, .5": (512, 4, 2e-3, 0.5),
    "512 × 4, 1e-3, .5": (512, 4, 1e-3, 0.5),
    "256 × 6, 2e-3, .5": (256, 6, 2e-3, 0.5),
    "256 × 4, 2e-3, .5": (256, 4, 2e-3, 0.5),
}
PLANE = {
    "before": (256, 3, 2e-3, 1.0),
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
    "64 × 6, 4e-3, 1": (64, 6, 4e-3, 1.0),
    "96 × 6, 8e-3, .31": (96, 6, 8e-3, 0.3125),
    "64 × 6, 1e-2, .31": (64, 6, 1e-2, 0.3125),
    "64 × 8, 8e-3, .31": (64, 8, 8e-3, 0.3125),
    "48 × 8, 1e-2, .5": (48, 8, 1e-2, 0.5),
    # NSGF alone has a pool; the network is 64 × 6
    "half the pool": (64, 6, 8e-3, 0.5, dict(pool_size=24576)),
    "half the pool, .38": (64, 6, 8e-3, 0.375, dict(pool_size=24576)),
    "groups of 1024": (64, 6, 8e-3, 0.5, dict(group=1024)),
    "half the pool in groups of 1024": (64, 6, 8e-3, 0.5, dict(group=1024, pool_size=24576)),
}


def methods():
    "How a model of each method is made"
    from nsgf_nb import NSGF, EnergyFlow, SchrodingerBridge, SinkhornGenerator, StraightFlow

    return {
        "NSGF": NSGF,
        "FM": StraightFlow,
        "OT-CFM": partial(StraightFlow, "ot"),
        "SD-CFM": partial(StraightFlow, "semidiscrete"),
        "generator": SinkhornGenerator,
        "bridge": SchrodingerBridge,
        "mmd": partial(EnergyFlow, "mmd"),
    }


def model_of(method, candidate, shape):
    "A model that is not fitted"
    from nsgf_nb.learning.nets import MLP

    width, layers, lr, share, *rest = candidate
    network = MLP(shape, hidden=width, layers=layers)
    options = dict(network=network, lr=lr, iterations=round(share * STEPS[method]), device="cpu")
    return methods()[method](**options, **dict(*rest))


def pool_of(model):
    "What pools differ in"
    return getattr(model, "pool_size", None), getattr(model, "group", None)


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


def fitted(method, words, problem, seed):
    "One fit, its seconds and how good its samples are"
    torch.set_num_threads(1)
    target, source = PROBLEMS[problem]
    shape, candidates = ((1, 8, 8), DIGITS) if problem == "digits" else ((2,), PLANE)
    torch.manual_seed(seed)  # the weights of a network are drawn before the fit
    model, begin = model_of(method, candidates[words], shape), time.process_time()
    with kept_pool((method, problem, seed, *pool_of(model))) as pool:
        model.fit(target, source, seed=seed, progress=False)
    seconds = time.process_time() - begin - (0 if pool["again"] else pool["seconds"])
    told = dict(method=method, problem=problem, candidate=words, seed=seed)
    told |= dict(seconds=seconds, pool_seconds=pool["seconds"])
    return told | judged(model, problem, CALLS.get(method, (10,))[-1], seed)


def several(method, problem, seed, only):
    "All candidates of a seed, each noted when it is there"
    for words in with_words(DIGITS if problem == "digits" else PLANE, only):
        if has_row(OUT, dict(method=method, problem=problem, candidate=words, seed=seed)):
            continue
        row = fitted(method, words, problem, seed)
        add_rows(OUT, row)
        said = {k: round(row[k], 4) for k in ("ratio", "high", "variance", "mmd") if k in row}
        print(method, problem, seed, f"[{words}] {row['seconds']:.0f} s", said, flush=True)


def mean_of(rows, name):
    "Mean and standard deviation of a number, as text; nothing where it is not known"
    known = [row[name] for row in rows if name in row]
    if not known:
        return ""
    spread = f" ± {statistics.stdev(known):.3f}" if len(known) > 1 else ""
    return f"{name} {statistics.mean(known):.3f}{spread}"


def show():
    "What is there, by method, problem and candidate"
    rows = rows_of(OUT)
    names = "method", "problem", "candidate"
    for key in sorted({tuple(row[k] for k in names) for row in rows}):
        those = [row for row in rows if tuple(row[k] for k in names) == key]
        means = (mean_of(those, k) for k in ("ratio", "variance", "mmd", "mmd_floor"))
        seconds = statistics.mean(row["seconds"] for row in those)
        print(*key, f"{seconds:.0f} s", *filter(None, means), f"{len(those)} seeds", sep=", ")


def main():
    parser = table_options(__doc__, [100, 101, 102])
    parser.add_argument("--methods", nargs="+", default=["NSGF"], choices=methods())
    parser.add_argument("--problems", nargs="+", default=["8gaussians"], choices=PROBLEMS)
    parser.add_argument("--only", nargs="+", help="candidates that have one of these words")
    a = parser.parse_args()
    if a.show:
        return show()
    run_all(several, product(a.methods, a.problems, a.seeds, [a.only]), a.jobs)


if __name__ == "__main__":
    main()
