"""NSGF, flow matching, OT-CFM and a generator of one call on the 2-D problems, and their gates.

    python bench/gates.py                            all that is not in the file yet
    python bench/gates.py --problems moons --seeds 3 4
    python bench/gates.py --show                     the table of what is there

Every row is a fit with the defaults of the class: NSGF(num_steps=10), StraightFlow(),
StraightFlow("ot"), SinkhornGenerator(). The three flows have the same network, gradient steps,
learning rate and calls. Pairs are added until the half width of the interval is .08, and all
methods of a problem and a seed take the same starts and are held against the same targets. Times
are CPU seconds of one thread. Rows that are in bench/results/gates.json already are kept, so a
stopped run goes on.
"""

import statistics
import time
from itertools import product
from pathlib import Path

from record import add_rows, facts, has_row, rows_of, run_all, table_options

OUT = Path(__file__).parent / "results/gates.json"
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
METHODS = ("NSGF", "FM", "OT-CFM", "generator")


def model_of(method):
    "A model that is not fitted, with the defaults of its class"
    from nsgf_nb import NSGF, SinkhornGenerator, StraightFlow

    return {
        "NSGF": lambda: NSGF(num_steps=10, device="cpu"),
        "FM": lambda: StraightFlow(device="cpu"),
        "OT-CFM": lambda: StraightFlow("ot", device="cpu"),
        "generator": lambda: SinkhornGenerator(device="cpu"),
    }[method]()


def fitted(method, problem, seed):
    "One fit and its gate, as a row"
    import torch

    from nsgf_nb.core import make_generator
    from nsgf_nb.data import get_sampler
    from nsgf_nb.distances import distances, gate
    from nsgf_nb.runs.report import endless

    torch.set_num_threads(1)
    # now: the code may change while this runs
    code = {k: v for k, v in facts().items() if k in ("revision", "date", "torch")}
    name, source = PROBLEMS[problem]
    target, flow, begin = get_sampler(name), model_of(method), time.process_time()
    flow.fit(target, source, seed=seed, progress=False)
    seconds, last = time.process_time() - begin, flow.history[-1]
    found = gate(target, endless(flow), seed=seed + 2000, half_width=0.08)
    x = flow.sample(20_000, seed=seed + 1000)
    told = dict(problem=problem, method=method, seed=seed, **code)
    told |= dict(gradient_steps=flow.iterations, nfe=flow.nfe, seconds=seconds)
    told |= {name: last.get(name) for name in ("loss", "floor", "val")}
    fresh = target(20_000, make_generator(seed, "variance"))
    told["variance"] = (x.var(0).sum() / fresh.var(0).sum()).item()
    told["gate"] = vars(found) | dict(passed=found.passed)
    return told | dict(distances=distances(target, x, seed=seed + 3000))


def one(method, problem, seed):
    "A fit that is not in the file yet"
    key = dict(problem=problem, method=method, seed=seed)
    if has_row(OUT, key):
        return
    row = fitted(method, problem, seed)
    add_rows(OUT, row, threads_per_fit=1)
    told = f"{row['gate']['verdict']} {row['gate']['ratio']:.2f}"
    print(f"{problem:20} {method:9} seed {seed} {row['seconds']:5.0f} s  {told}", flush=True)


def show():
    "Ratios of all seeds, by problem and method"
    rows = rows_of(OUT)
    for problem, method in product(PROBLEMS, METHODS):
        mine = [r for r in rows if (r["problem"], r["method"]) == (problem, method)]
        if mine:
            ratios = " ".join(f"{r['gate']['ratio']:.3f}" for r in mine)
            seconds = statistics.median(r["seconds"] for r in mine)
            print(f"{problem:20} {method:9} {seconds:5.0f} s  {ratios}")


def main():
    parser = table_options(__doc__, [0, 1])
    parser.add_argument("--problems", nargs="+", default=list(PROBLEMS), choices=PROBLEMS)
    parser.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS)
    a = parser.parse_args()
    if a.show:
        return show()
    run_all(one, product(a.methods, a.problems, a.seeds), a.jobs)


if __name__ == "__main__":
    main()
