"""NSGF, flow matching and OT-CFM on the 2-D problems, held against their gates.

    python bench/gates.py [--out FILE] [--seeds 0] [--problems moons …] [--jobs 2]

All have the same network, gradient steps, learning rate and calls. Every row is a fit with the
defaults of the class (NSGF(num_steps=10), StraightFlow(), StraightFlow("ot")); pairs are added
until the half width of the interval is .04, and all methods of a problem and a seed take the same
starts and are held against the same targets. Rows that are in the file already
(bench/results/gates.json) are kept, so a stopped run goes on; --again makes them anew.
"""

import argparse
import json
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

from record import facts, write

PROBLEMS = {
    "8gaussians": ("8gaussians", None),
    "moons": ("moons", None),
    "checkerboard": ("checkerboard", None),
    "scurve": ("scurve", None),
    "swissroll": ("swissroll", None),
    "pinwheel": ("pinwheel", None),
    "circles": ("circles", None),
    "8gaussians → moons": ("moons", "8gaussians"),
}
METHODS = ("NSGF", "FM", "OT-CFM")


def row(problem, method, seed):
    import torch

    from nsgf_nb.data import get_sampler
    from nsgf_nb.distances import distances, gate
    from nsgf_nb.flow import NSGF
    from nsgf_nb.runs.report import endless
    from nsgf_nb.straight import StraightFlow

    torch.set_num_threads(1)
    # now: the code may change while this runs
    code = {k: v for k, v in facts().items() if k in ("revision", "date", "torch")}
    target, source = PROBLEMS[problem]
    flow = {
        "NSGF": lambda: NSGF(num_steps=10),
        "FM": lambda: StraightFlow("independent"),
        "OT-CFM": lambda: StraightFlow("ot"),
    }[method]()
    begin, first = time.perf_counter(), []
    flow.fit(
        target,
        source,
        seed=seed,
        progress=False,
        callbacks=[lambda r: first or first.append(r["seconds"])],
    )
    seconds = time.perf_counter() - begin
    x = flow.sample(20_000, seed=seed + 1000)
    sampler = get_sampler(target)
    g, d = (
        gate(sampler, endless(flow), seed=seed + 2000, half_width=0.04),
        distances(sampler, x, seed=seed + 3000),
    )
    return dict(
        problem=problem,
        method=method,
        seed=seed,
        **code,
        nfe=flow.nfe,
        gradient_steps=flow.iterations,
        seconds=seconds,
        seconds_training=flow.history[-1]["seconds"],
        loss=flow.history[-1]["loss"],
        floor=flow.history[-1].get("floor"),
        val=flow.history[-1].get("val"),
        gate=vars(g) | dict(passed=g.passed),
        distances=d,
    )


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "gates.json")
    p.add_argument("--seeds", type=int, nargs="+", default=[0])
    p.add_argument("--problems", nargs="+", default=list(PROBLEMS), choices=list(PROBLEMS))
    p.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    p.add_argument("--jobs", type=int, default=2)
    p.add_argument("--again", action="store_true", help="make rows anew that are in the file")
    a = p.parse_args()
    before = json.loads(a.out.read_text()) if a.out.exists() else dict(rows=[])
    # older rows have them at the top only
    rows = [{k: before[k] for k in ("date", "torch")} | r for r in before["rows"]]
    done = set() if a.again else {(r["problem"], r["method"], r["seed"]) for r in rows}
    todo = [
        (q, m, s) for s in a.seeds for m in a.methods for q in a.problems if (q, m, s) not in done
    ]
    with ProcessPoolExecutor(a.jobs) as pool:
        for future in as_completed([pool.submit(row, *t) for t in todo]):
            r = future.result()
            key = r["problem"], r["method"], r["seed"]
            rows = [old for old in rows if (old["problem"], old["method"], old["seed"]) != key] + [
                r
            ]
            write(
                a.out,
                dict(
                    facts(),
                    threads_per_fit=1,
                    rows=sorted(
                        rows,
                        key=lambda r: (
                            list(PROBLEMS).index(r["problem"]),
                            METHODS.index(r["method"]),
                            r["seed"],
                        ),
                    ),
                ),
            )
            print(
                f"{r['problem']:20} {r['method']:7} seed {r['seed']}  {r['seconds']:5.0f} s  "
                f"{r['gate']['verdict']} {r['gate']['ratio']:.2f} [{r['gate']['low']:.2f}, "
                f"{r['gate']['high']:.2f}]",
                flush=True,
            )


if __name__ == "__main__":
    sys.exit(main())
