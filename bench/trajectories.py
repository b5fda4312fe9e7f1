"""Trajectory inference: cells of five times of a branching process, one time left out.

    python bench/trajectories.py [--out FILE] [--seeds 80 81 82] [--dims 5 50]

NSGF stands beside OT-CFM. For each dimension, seed and inner time j: fit from time j-1 to time j+1
(1000 cells each), and hold the flow's marginal half way against 1000 other cells of time j. Half
way is step 5 of 10 for all: natural time 1/2 for NSGF, time 1/2 for OT-CFM. The same network (MLP
3 × 128), batches of 128 and number of steps for all. One thread; rows that are in the file already
(bench/results/trajectories.json) are kept.
"""

import argparse
import json
import sys
import time
import warnings
from pathlib import Path

import torch
from record import facts, modules, revision, write

TIMES, CELLS, SMALL, STEPS = (0.0, 0.25, 0.5, 0.75, 1.0), 1000, 0.3, 10
METHODS = ("NSGF", "OT-CFM")


def centre(s, branch):
    "The plane of the process: a stem that bends, then two branches; s (n,), branch (n,) in {0, 1}."
    late = (s - 0.3).clamp(min=0)
    return torch.stack(
        [4 * s - 1.5 * s.square(), 0.8 * s + torch.where(branch == 1, -4.0, 2.5) * late**1.3], 1
    )


def cells(n, s, d, generator, frame, noise=0.15):
    """n cells of time s in d dimensions, and their branches.

    30 % go down; noise in all directions; cells of one time differ in age.
    """
    branch = (torch.rand(n, generator=generator) < SMALL).long()
    age = (s + 0.04 * torch.randn(n, generator=generator)).clamp(min=0)
    x = torch.cat(
        [centre(age, branch) + 0.1 * torch.randn(n, 2, generator=generator), torch.zeros(n, d - 2)],
        1,
    )
    return (x + noise * torch.randn(n, d, generator=generator)) @ frame.T, branch


def frame_of(d, generator):
    "A random rotation."
    q, r = torch.linalg.qr(torch.randn(d, d, generator=generator))
    return q * r.diagonal().sign()


def flows(seed, d, iterations):
    from nsgf_nb.core import keep_random_state
    from nsgf_nb.flow import NSGF
    from nsgf_nb.learning.nets import MLP
    from nsgf_nb.straight import StraightFlow

    with keep_random_state(seed):
        nets = {m: MLP((d,), hidden=128) for m in METHODS}
    sinkhorn = dict(
        num_steps=STEPS, group=500, pool_size=3000, iterations=iterations, batch_size=128, lr=2e-3
    )
    return {
        # down to .05, the default, takes a thousand passes and more a step at d = 5
        "NSGF": NSGF(network=nets["NSGF"], relative_blur=(0.5, 0.2), **sinkhorn),
        "OT-CFM": StraightFlow(
            "ot",
            num_steps=STEPS,
            network=nets["OT-CFM"],
            iterations=iterations,
            batch_size=128,
            lr=2e-3,
        ),
    }


def one(d, seed, iterations):
    "All left-out times of a process"
    from nsgf_nb.core import make_generator
    from nsgf_nb.distances import w2
    from nsgf_nb.straight import assign

    frame = frame_of(d, make_generator(seed, "frame", d))
    draw = lambda j, what: cells(CELLS, TIMES[j], d, make_generator(seed, what, j), frame)[0]
    out, plane = [], frame[:, :2]
    for j in (1, 2, 3):
        before, after, test = draw(j - 1, "train"), draw(j + 1, "train"), draw(j, "test")
        ends = torch.stack([centre(torch.tensor([TIMES[j]]), torch.tensor([b]))[0] for b in (0, 1)])

        def row(method, x, seconds=0.0):
            small = (torch.cdist(x @ plane, ends).argmin(1) == 1).float().mean().item()
            out.append(
                dict(
                    d=d,
                    seed=seed,
                    left_out=TIMES[j],
                    method=method,
                    w2=w2(x, test),
                    w2_plane=w2(x @ plane, test @ plane),
                    small_branch=small,
                    seconds=seconds,
                )
            )
            print(
                f"d = {d:2} seed {seed} t = {TIMES[j]:.2f} {method:22} W2 {out[-1]['w2']:.3f}  "
                f"in the plane {out[-1]['w2_plane']:.3f}  {seconds:3.0f} s",
                flush=True,
            )

        row("floor", draw(j, "floor"))
        row("earlier cells", before)
        row("later cells", after)
        row("linear, optimal pairs", (before + after[assign(before, after)]) / 2)
        row(
            "linear, random pairs",
            (before + after[torch.randperm(CELLS, generator=make_generator(seed, "pairs", j))]) / 2,
        )
        for method, flow in flows(seed, d, iterations).items():
            start = time.perf_counter()
            with warnings.catch_warnings():
                # at d = 50 the flow is transport between minibatches
                warnings.filterwarnings("ignore", "the self plan")
                flow.fit(after, before, seed=seed, progress=False)
            seconds = time.perf_counter() - start
            if method.startswith("NSGF"):
                row(
                    method + ", particles",
                    torch.cat([flow.pool.path(b)[STEPS // 2] for b in range(2)]),
                )
            row(method, flow.sample(x0=before, return_path=True)[STEPS // 2], seconds)
    return out


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument(
        "--out", type=Path, default=Path(__file__).parent / "results" / "trajectories.json"
    )
    p.add_argument("--seeds", type=int, nargs="+", default=[80, 81, 82])
    p.add_argument("--dims", type=int, nargs="+", default=[5, 50])
    p.add_argument("--iterations", type=int, default=1000)
    a = p.parse_args()
    torch.set_num_threads(1)
    rows = json.loads(a.out.read_text())["rows"] if a.out.exists() else []
    done, code = {(r["d"], r["seed"]) for r in rows}, revision()
    for seed in a.seeds:
        for d in a.dims:
            if (d, seed) in done:
                continue
            rows += [
                dict(r, revision=code, iterations=a.iterations) for r in one(d, seed, a.iterations)
            ]
            write(
                a.out,
                dict(
                    facts(),
                    modules=modules("flow", "straight", "distances"),
                    threads=1,
                    cells=CELLS,
                    hidden=128,
                    rows=sorted(rows, key=lambda r: (r["d"], r["seed"], r["left_out"])),
                ),
            )


if __name__ == "__main__":
    sys.exit(main())
