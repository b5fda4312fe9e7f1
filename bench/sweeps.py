"""Does a converged field make a better model than a few Sinkhorn sweeps, at equal seconds?

    python bench/sweeps.py                     all that is not in the file yet
    python bench/sweeps.py --models NSGF --problems moons --blurs 0.2 --clouds 256 --seeds 0
    python bench/sweeps.py --seconds 15

The one-step generator is trained by the velocity of its clouds, NSGF by that of the groups of its
pool. Here that velocity comes from converged plans, or from plans after 1, 5 or 20 sweeps in the
log domain that start from zero, in float32, as they are written in a few lines. All else is the
same: network, points of a cloud or group, blur, reuse of goals, seeds, CPU seconds of one thread,
in which the pool of NSGF is made, too. A fit is a row of bench/results/sweeps.json; rows that are
there are kept, so a stopped run goes on. Each is judged by the gate where there is one, and by the
variance and the energy distance beside its floor: the generator with one call, NSGF with ten.
"""

import argparse
import math
import warnings
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from unittest import mock

import torch
from equal_seconds import PROBLEMS, compile_solver, fit_for, judged
from record import ROOT, add_rows, facts, has_row, modules

from nsgf_nb import NSGF
from nsgf_nb.family.generator import SinkhornGenerator

RESULT = ROOT / "bench" / "results" / "sweeps.json"
SWEEPS = (0, 1, 5, 20)  # 0: converged
CALLS = {"generator": 1, "NSGF": 10}


def ends_after(x, y, eps, sweeps):
    "The mean end of each x in the plan after some sweeps: rows are exact, columns as they come."
    C = torch.cdist(x, y).square() / 2
    log_a, log_b = -math.log(len(x)), -math.log(len(y))
    g = torch.zeros_like(y[:, 0])
    for _ in range(sweeps):
        f = -eps * torch.logsumexp((g - C) / eps + log_b, 1)
        g = -eps * torch.logsumexp((f[:, None] - C) / eps + log_a, 0)
    return torch.softmax((g - C) / eps, 1) @ y


class SweptVelocity:
    "A velocity after a few sweeps, in place of a converged one"

    def __init__(self, blur, self_term="same", tol=1e-2, sweeps=1):
        self.eps, self.sweeps = blur**2, sweeps

    def __call__(self, x, y, x_self=None):
        "The velocity of x, of any shape, to y; points of a second batch repel, or those of x."
        flat, y, other = (z.flatten(1) for z in (x, y, x if x_self is None else x_self))
        towards = ends_after(flat, y, self.eps, self.sweeps)
        return (towards - ends_after(flat, other, self.eps, self.sweeps)).view_as(x)


class Swept(SinkhornGenerator):
    "A generator whose plans stop after a few sweeps"

    sweeps = 1

    def velocity_at(self, blur):
        return SweptVelocity(blur, sweeps=self.sweeps)


def generator(sweeps, blur, cloud):
    "A function of the number of iterations: a generator that is not fitted."
    settings = dict(relative_blur=blur, cloud=cloud, batch_size=min(256, cloud), reuse=8)

    def model(n):
        if not sweeps:
            return SinkhornGenerator(**settings, iterations=n)
        swept = Swept(**settings, iterations=n)
        swept.sweeps = sweeps
        return swept

    return model


def nsgf(sweeps, blur, group):
    "The same of an NSGF."
    return lambda n: NSGF(relative_blur=blur, group=group, pool_size=8192, iterations=n)


MODELS = {"generator": generator, "NSGF": nsgf}


def velocity_of_pools(sweeps):
    "The pool of an NSGF that is fitted inside has such a velocity."
    if not sweeps:
        return nullcontext()
    return mock.patch("nsgf_nb.flow.SinkhornVelocity", partial(SweptVelocity, sweeps=sweeps))


def one(model, problem, sweeps, blur, cloud, seed, seconds):
    "The row of a fit."
    with velocity_of_pools(sweeps):
        make = MODELS[model](sweeps, blur, cloud)
        fitted, spent, n = fit_for(make, problem, seed, seconds)
    return dict(seconds=spent, iterations=n) | judged(fitted, problem, CALLS[model], seed)


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    p.add_argument("--problems", nargs="+", choices=PROBLEMS, default=["moons", "digits"])
    p.add_argument("--sweeps", nargs="+", type=int, default=list(SWEEPS))
    p.add_argument("--blurs", nargs="+", type=float, default=[0.05, 0.2, 0.5])
    p.add_argument("--clouds", nargs="+", type=int, default=[64, 256])
    p.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    p.add_argument("--seconds", type=float, default=30.0)
    p.add_argument("--out", type=Path, default=RESULT)
    args = p.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    compile_solver()
    grid = [
        dict(model=model, problem=problem, sweeps=k, blur=blur, cloud=cloud, seed=seed)
        for seed in args.seeds
        for model in args.models
        for problem in args.problems
        for blur in args.blurs
        for cloud in args.clouds
        for k in args.sweeps
    ]
    for case in grid:
        key = case | dict(asked=args.seconds)
        if has_row(args.out, key):
            continue
        row = key | one(**case, seconds=args.seconds) | dict(revision=facts()["revision"])
        add_rows(args.out, row, modules=modules("family.generator", "flow"))
        said = {k: round(row[k], 3) for k in ("ratio", "variance", "mmd", "mmd_floor") if k in row}
        print(case, f"{row['seconds']:.0f} s, {row['iterations']} steps", said, flush=True)


if __name__ == "__main__":
    main()
