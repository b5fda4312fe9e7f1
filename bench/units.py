"""Variants of NSGF at equal cost, held against the gates.

    python bench/units.py                            all that is not in the file yet
    python bench/units.py --problems 8gaussians --seeds 55
    python bench/units.py --show                     the table of what is there

They differ in what the network says, how steps are weighed, step sizes and blurs; all else is the
default. The variants of a problem and seed with the same step sizes and blurs train on the same
pool. Rows that are in bench/results/units.json already are kept, so a stopped run goes on. The
seeds are not those of any other figure of this repository.
"""

import statistics
import tempfile
from itertools import product
from pathlib import Path

from record import add_rows, has_row, revision, rows_of, run_all, table_options

OUT = Path(__file__).parent / "results/units.json"
PROBLEMS = "8gaussians", "checkerboard"
POOLS = {  # step sizes and blurs, and the variants that train on such a pool
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


def fitted(problem, seed, variant, folder):
    "One fit and its gate, as a row; the pool is that of the folder, where there is one"
    from nsgf_nb.data import get_sampler
    from nsgf_nb.distances import gate
    from nsgf_nb.flow import NSGF
    from nsgf_nb.runs.report import endless

    pool, more = VARIANTS[variant]
    target, code = get_sampler(problem), revision()
    flow = NSGF(num_steps=10, device="cpu", **POOLS[pool], **more)
    flow.fit(target, seed=seed, workdir=folder, progress=False)
    found, last = gate(target, endless(flow), seed=seed + 2000), flow.history[-1]
    told = dict(problem=problem, seed=seed, variant=variant, revision=code)
    told |= dict(iterations=flow.iterations, seconds=last["seconds"])
    told |= {name: last[name] for name in ("loss", "val", "floor")}
    told["passes"] = flow.pool.passes.float().sum(1).mean().item()
    return told | dict(gate=vars(found) | dict(passed=found.passed))


def several(problem, seed, pool):
    "All variants of a pool, one after the other"
    import torch

    torch.set_num_threads(1)
    key = dict(problem=problem, seed=seed)
    with tempfile.TemporaryDirectory() as folder:
        for variant, (of, _) in VARIANTS.items():
            if of != pool or has_row(OUT, key | dict(variant=variant)):
                continue
            row = fitted(problem, seed, variant, folder)
            add_rows(OUT, row, threads_per_fit=1)
            told = f"{row['gate']['verdict']} {row['gate']['ratio']:.3f}"
            print(f"{problem:13} seed {seed:3} {variant:9} {told}", flush=True)


def show():
    "Ratios of all seeds, by problem and variant"
    rows = rows_of(OUT)
    for problem, variant in product(PROBLEMS, VARIANTS):
        mine = [r for r in rows if (r["problem"], r["variant"]) == (problem, variant)]
        if mine:
            ratios = [r["gate"]["ratio"] for r in mine]
            told = " ".join(f"{ratio:.3f}" for ratio in ratios)
            print(f"{problem:13} {variant:9} mean {statistics.mean(ratios):.3f}  {told}")


def main():
    parser = table_options(__doc__, [50, 51, 52, 53, 54])
    parser.add_argument("--problems", nargs="+", default=PROBLEMS, choices=PROBLEMS)
    a = parser.parse_args()
    if a.show:
        return show()
    run_all(several, product(a.problems, a.seeds, POOLS), a.jobs)


if __name__ == "__main__":
    main()
