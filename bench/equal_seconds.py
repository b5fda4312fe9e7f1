"""Models of few calls at equal seconds: the generator, the bridge, and what they stand beside.

    python bench/equal_seconds.py                       all that is not in the file yet
    python bench/equal_seconds.py --problems digits     some problems
    python bench/equal_seconds.py --methods generator   some methods
    python bench/equal_seconds.py --seeds 0 1 2 --seconds 60

Each fit takes about --seconds CPU seconds of one thread, what comes before its first step (a pool,
a plan, another model) included: a short fit tells how long a step takes, and the iterations
follow. The distilled model and the flow that it is distilled from have half of it each. A fit is a
row of bench/results/equal_seconds.json, written when it is done; rows that are there are kept, so a
stopped run goes on. Samples are judged against draws that no fit has seen, with the floor of the
same draws beside.
"""

import argparse
import statistics
import time
import warnings
from pathlib import Path

import torch
from record import ROOT, add_rows, facts, has_row, modules
from toy2d import PROBLEMS as PLANE

RESULT = ROOT / "bench" / "results" / "equal_seconds.json"
PROBLEMS = PLANE | dict(digits=("digits", None))
CALLS = {
    "generator": (1,),
    "one step": (1,),
    "NSGF": (10,),
    "OT-CFM": (1, 10),
    "SD-CFM": (1, 10),
    "bridge": (10, 50),
    "bridge, whole set": (10, 50),
}
GENERATOR = dict(relative_blur=(0.3, 0.05), cloud=1024, reuse=8)
DIGITS = dict(relative_blur=0.3, cloud=256, reuse=4)  # 1700 points, all in 6 batches


def model_of(method, problem, other=None):
    "A function of the number of iterations: a model that is not fitted."
    from nsgf_nb import NSGF, OneStep, SchrodingerBridge, SinkhornGenerator, StraightFlow

    digits = problem == "digits"
    return {
        "generator": lambda n: SinkhornGenerator(**(DIGITS if digits else GENERATOR), iterations=n),
        "one step": lambda n: OneStep(coupling=other, iterations=n),
        "NSGF": lambda n: NSGF(
            **(dict(pool_size=4096, group=512) if digits else dict(pool_size=16384)), iterations=n
        ),
        "OT-CFM": lambda n: StraightFlow("ot", iterations=n),
        "SD-CFM": lambda n: StraightFlow("semidiscrete", iterations=n),
        "bridge": lambda n: SchrodingerBridge(iterations=n),
        "bridge, whole set": lambda n: SchrodingerBridge("semidiscrete", iterations=n),
    }[method]


def timed(make, n, problem, seed):
    "A fit of n iterations, its CPU seconds, and those until the first row of its history."
    target, source = PROBLEMS[problem]
    first, begun = [], time.process_time()
    told = lambda row: first or first.append(time.process_time() - begun)
    model = make(n).fit(target, source, seed=seed, progress=False, callbacks=[told])
    return model, time.process_time() - begun, first[0]


def compile_solver():
    "A first solve compiles, where that has not been done yet; no fit shall pay for it."
    from nsgf_nb import SinkhornVelocity

    for d in (2, 64):
        x, y = torch.randn(2, 256, d)
        SinkhornVelocity(0.5)(x, y)


def fit_for(make, problem, seed, seconds):
    "A fit that takes about so many seconds, what it took, and its iterations."
    few = 800
    _, spent, before = timed(make, few, problem, seed)
    step = (spent - before) / few
    n = max(few, int((seconds - before) / step))
    model, spent, _ = timed(make, n, problem, seed)
    return model, spent, n


def drawing(model, calls):
    "A function of a number and a seed: samples of a model; calls=None: as many as it likes."
    many = calls is not None and model.grid(None, "euler")[1] < 1  # a model of one call knows
    steps = dict(num_steps=calls) if many else {}
    return lambda n, seed: model.sample(n, seed=seed, **steps).flatten(1)


def judged(model, problem, calls, seed):
    "The gate, variance and energy distance of samples, each with its floor."
    from nsgf_nb.core import make_generator
    from nsgf_nb.data import get_sampler, points_and_labels
    from nsgf_nb.distances import gate, mmd, w2

    target, draw = get_sampler(PROBLEMS[problem][0]), drawing(model, calls)
    n = 800 if problem == "digits" else 1000
    x = draw(20 * n, seed + 1000)
    out = dict(w2=[], w2_floor=[], mmd=[], mmd_floor=[])
    for r in range(4):
        both, _ = points_and_labels(target, 2 * n, make_generator(seed, "judge", r))
        y, again = both.flatten(1).split(n)
        for name, z in (("", x[r * n : (r + 1) * n]), ("_floor", again)):
            out[f"w2{name}"].append(w2(z, y))
            out[f"mmd{name}"].append(mmd(z, y))
    row = {k: statistics.mean(v) for k, v in out.items()}
    count = target.num_points or 20 * n
    whole, _ = points_and_labels(target, count, make_generator(seed, "variance"))
    row["variance"] = (x.var(0).sum() / whole.flatten(1).var(0).sum()).item()
    if problem != "digits":
        number = lambda generator: torch.randint(2**31, (), generator=generator).item()
        told = gate(target, lambda n, generator: draw(n, number(generator)), seed=seed)
        row |= dict(ratio=told.ratio, low=told.low, high=told.high, tv=told.tv)
    return row


def one(method, problem, seed, seconds):
    "Rows of a fit: one for each number of calls."
    other, before = None, 0.0
    if method == "one step":
        seconds = seconds / 2
        other, before, _ = fit_for(model_of("NSGF", problem), problem, seed, seconds)
    model, spent, n = fit_for(model_of(method, problem, other), problem, seed, seconds)
    told = dict(method=method, problem=problem, seed=seed, seconds=before + spent, iterations=n)
    return [told | dict(calls=c) | judged(model, problem, c, seed) for c in CALLS[method]]


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--problems", nargs="+", choices=PROBLEMS, default=list(PROBLEMS))
    p.add_argument("--methods", nargs="+", choices=CALLS, default=list(CALLS))
    p.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    p.add_argument("--seconds", type=float, default=30.0)
    p.add_argument("--out", type=Path, default=RESULT)
    args = p.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    compile_solver()
    for seed in args.seeds:
        for problem in args.problems:
            for method in args.methods:
                key = dict(method=method, problem=problem, seed=seed, asked=args.seconds)
                if has_row(args.out, key):
                    continue
                rows = one(method, problem, seed, args.seconds)
                made = dict(asked=args.seconds, revision=facts()["revision"])
                of = modules("family.generator", "family.bridge", "flow")
                add_rows(args.out, *[row | made for row in rows], modules=of)
                for row in rows:
                    said = {k: row[k] for k in ("calls", "ratio", "variance", "mmd") if k in row}
                    print(problem, method, seed, f"{row['seconds']:.0f} s", said, flush=True)


if __name__ == "__main__":
    main()
