"""Variants of NSGF at equal cost, held against the gates.

    python bench/units.py [--out FILE] [--seeds 50 51 52 53 54] [--problems 8gaussians checkerboard]
                          [--iterations 6000] [--jobs 1]

They differ in what the network says, how steps are weighed, step sizes and blurs. The variants of
a problem and seed train with the same number of steps on groups of 1024; those with the same step
sizes and blurs on the same pool. Rows that are in the file already (bench/results/units.json) are
kept, so a stopped run goes on. The seeds are not those of any other figure of this repository.
"""

import argparse
import json
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

from record import facts, revision, write

POOLS = {
    "annealed": {},
    "η = .4": dict(step_size=0.4),
    "blur .1": dict(relative_blur=0.1),
    "blur .25": dict(relative_blur=0.25),
}
VARIANTS = {
    "step": ("annealed", dict(unit="step")),
    "v": ("annealed", dict(unit="v")),
    "u": ("annealed", dict(unit="u")),
    "η = .4": ("η = .4", {}),
    "blur .1": ("blur .1", {}),
    "blur .25": ("blur .25", {}),
}


def one(problem, seed, iterations):
    "All variants of a problem and a seed, one after the other"
    import torch

    from nsgf_nb.data import get_sampler
    from nsgf_nb.distances import gate
    from nsgf_nb.flow import NSGF
    from nsgf_nb.runs.report import endless

    torch.set_num_threads(1)
    code, target, out = dict(revision=revision()), get_sampler(problem), []
    for pool, settings in POOLS.items():
        with tempfile.TemporaryDirectory() as folder:
            for variant, (of, more) in VARIANTS.items():
                if of != pool:
                    continue
                flow, start = (
                    NSGF(num_steps=10, group=1024, iterations=iterations, **settings, **more),
                    time.perf_counter(),
                )
                # the pool in the folder is made once
                flow.fit(target, seed=seed, workdir=folder, progress=False)
                g, last = gate(target, endless(flow), seed=seed + 2000), flow.history[-1]
                out.append(
                    dict(
                        problem=problem,
                        seed=seed,
                        variant=variant,
                        **code,
                        iterations=iterations,
                        seconds=last["seconds"],
                        passes=flow.pool.passes.float().sum(1).mean().item(),
                        loss=last["loss"],
                        val=last["val"],
                        floor=last["floor"],
                        gate=vars(g) | dict(passed=g.passed),
                    )
                )
                print(
                    f"{problem:13} seed {seed:3} {variant:9} {time.perf_counter() - start:4.0f} "
                    f"s  {g.ratio:.3f} [{g.low:.3f}, {g.high:.3f}] tv {g.tv}",
                    flush=True,
                )
    return out


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "units.json")
    p.add_argument("--seeds", type=int, nargs="+", default=[50, 51, 52, 53, 54])
    p.add_argument("--problems", nargs="+", default=["8gaussians", "checkerboard"])
    p.add_argument("--iterations", type=int, default=6000)
    p.add_argument("--jobs", type=int, default=1)
    a = p.parse_args()
    rows = json.loads(a.out.read_text())["rows"] if a.out.exists() else []
    done = {(r["problem"], r["seed"]) for r in rows if r["iterations"] == a.iterations}
    todo = [(q, s) for s in a.seeds for q in a.problems if (q, s) not in done]
    with ProcessPoolExecutor(a.jobs) as pool:
        for future in as_completed([pool.submit(one, *t, a.iterations) for t in todo]):
            rows += future.result()
            write(
                a.out,
                dict(
                    facts(),
                    threads_per_fit=1,
                    rows=sorted(
                        rows,
                        key=lambda r: (r["problem"], r["seed"], list(VARIANTS).index(r["variant"])),
                    ),
                ),
            )


if __name__ == "__main__":
    sys.exit(main())
