"""What a truncated kernel saves in flows of many points in the plane, on one thread of a CPU.

    python bench/truncated.py [--points 4200 6144 12288] [--out FILE]

A flow is ten steps from a normal cloud to a problem of the plane, with the blurs and the tolerance
of `NSGF`. It is computed with truncated kernels and with those that were taken before: stored ones
where they fit into a gigabyte, else streamed ones. Both find the same map, up to the tolerance.
CPU seconds, one flow after the other; the first call of each kind is not counted.
The results are in bench/results/truncated.json.
"""

import argparse
import math
import time
from pathlib import Path
from unittest import mock

import torch
from record import ROOT, facts, write

RESULT = ROOT / "bench" / "results" / "truncated.json"
BLURS = {"8gaussians": (2.1, 0.21), "moons": (0.42, 0.042)}  # first and last
STEPS = 10


def clouds(name, n):
    "A normal cloud with the mean and the deviation of the target, and the target"
    from nsgf_nb.core import make_generator
    from nsgf_nb.data import get_sampler, points_and_labels

    y = points_and_labels(get_sampler(name), n, make_generator(0, "y"))[0]
    deviation = (y - y.mean(0)).square().mean().sqrt()
    return y.mean(0) + deviation * torch.randn(n, 2, generator=make_generator(0, "x")), y


def flow(name, n):
    "CPU seconds, passes, and where the points end"
    from nsgf_nb.estimator import SinkhornVelocity
    from nsgf_nb.particles import particle_flow

    first, last = BLURS[name]
    blurs = [first * (last / first) ** (k / (STEPS - 1)) for k in range(STEPS)]
    velocities = [SinkhornVelocity(blur, tol=1e-2) for blur in blurs]
    x, y = clouds(name, n)
    began = time.process_time()
    end, infos = particle_flow(x, y, velocities, STEPS, return_info=True)
    seconds = time.process_time() - began
    return seconds, sum(i.n_iter for i in infos), end, all(i.converged for i in infos)


def without_truncation():
    "Kernels as they were before"
    from nsgf_nb.core import compiled_module
    from nsgf_nb.solver import streamed, truncated

    others = lambda name: None if name == "solver.truncated" else compiled_module(name)
    return (
        mock.patch("nsgf_nb.estimator.compiled_module", others),
        mock.patch.object(truncated, "TruncatedKernel", streamed.LoopKernel),
    )


def compared(name, n):
    "One row"
    seconds, passes, end, converged = flow(name, n)
    choice, kernel = without_truncation()
    with choice, kernel:
        before, passes_before, same, converged_before = flow(name, n)
    apart = (end - same).square().sum(1).mean().sqrt().item() / math.sqrt(2)
    return dict(
        problem=name,
        points=n,
        truncated=seconds,
        before=before,
        passes=passes,
        passes_before=passes_before,
        converged=converged and converged_before,
        apart=apart,
    )


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--points", type=int, nargs="+", default=[4200, 6144, 12288])
    parser.add_argument("--out", type=Path, default=RESULT)
    a = parser.parse_args()
    torch.set_num_threads(1)
    compared("moons", 4200)  # loads and compiles
    rows = []
    for n in a.points:
        for name in BLURS:
            row = compared(name, n)
            rows.append(row)
            print(
                f"{name:10} {n:6} points: {row['truncated']:5.1f} s, before {row['before']:5.1f}, "
                f"{row['before'] / row['truncated']:.1f} times; {row['passes']} and "
                f"{row['passes_before']} passes, {row['apart']:.1e} apart"
            )
            write(a.out, facts("numpy", "numba") | dict(rows=rows))


if __name__ == "__main__":
    main()
