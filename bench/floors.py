"""A549 cells at four times in ten dimensions: what W1 can and cannot tell about a method.

    python bench/floors.py [--data emt.csv] [--seeds 0 1 2 3 4] [--out FILE]

The table (`samples,x1,…,x10`, 3133 cells) is that of the repository
zhenyiizhang/CytoBridge-NeurIPS, `data/emt.csv`. Without `--data` it is looked for in
`$NSGF_DATA/emt/emt.csv`. A seed cuts the cells of each time in two halves: one to fit, one to
compare with. Rows that are in the file already are kept.
"""

import argparse
import json
import time
from pathlib import Path

import torch
from cells import affine
from record import facts, find_table, modules, results_of, write

SOURCE = "github.com/zhenyiizhang/CytoBridge-NeurIPS, data/emt.csv"
SHRINK = 0.7  # of the deviations of the cloud that is made small on purpose
FLOW = dict(method="ot-cfm", iterations=2000)


def shrunk(x):
    "Cells moved towards their mean"
    return x.mean(0) + SHRINK * (x - x.mean(0))


def marks(fitted, seed):
    "Clouds that need no fit, by time and name"
    from nsgf_nb.core import make_generator

    times = list(fitted.points)
    first = fitted.points[times[0]].float()
    for t in times[1:]:
        own = fitted.points[t].float()
        drawn = torch.randint(
            len(own), (len(own),), generator=make_generator(seed, "again", int(t))
        )
        yield t, "floor: the other half", own
        order = torch.randperm(len(own), generator=make_generator(seed, "fewer", int(t)))
        yield t, "floor with as many cells as at first", own[order[: len(first)]]
        yield t, "the other half, drawn again", own[drawn]
        yield t, f"the other half, shrunk to {SHRINK}", shrunk(own)
        yield t, "first cells, unmoved", first
        yield t, "first cells, shifted to the mean", first - first.mean(0) + own.mean(0)
        yield t, "first cells, affine map", affine(first, own)


def learned(fitted, seed):
    "A flow through all times, from the first cells"
    from nsgf_nb import Trajectory

    times = list(fitted.points)
    model = Trajectory(FLOW, device="cpu").fit(fitted, seed=seed, progress=False)
    first = fitted.points[times[0]].float()
    for t, x in zip(times[1:], model.sample(x0=first, times=times[1:])):
        yield t, "OT-CFM", x


def row(seed, t, name, x, rest, seconds):
    "Distances of a cloud to the half that was kept aside, and its variance over that one's"
    from nsgf_nb.distances import energy_distance
    from nsgf_nb.evaluation.times import w1

    y = rest.points[t].float()
    spread = (x.var(0).sum() / y.var(0).sum()).item()
    found = dict(w1=w1(x, y), energy=energy_distance(x, y), variance=spread)
    print(
        f"seed {seed} time {t:g} {name:32} W1 {found['w1']:.3f} variance {spread:.2f}", flush=True
    )
    return dict(seed=seed, time=t, method=name, seconds=seconds) | found


def of_seed(cells, seed, known):
    "The rows of one split whose names are not known yet"
    from nsgf_nb.evaluation.times import hold_out

    fitted, rest = hold_out(cells, 0.5, seed)
    clouds = [cloud for cloud in marks(fitted, seed) if cloud[1] not in known]
    out = [row(seed, t, name, x, rest, 0.0) for t, name, x in clouds]
    if "OT-CFM" in known:
        return out
    begun = time.perf_counter()
    found = list(learned(fitted, seed))
    seconds = time.perf_counter() - begun
    return out + [row(seed, t, name, x, rest, seconds) for t, name, x in found]


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--data", type=Path)
    p.add_argument("--out", type=Path, default=Path(__file__).parent / "results/floors.json")
    p.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    a = p.parse_args()
    file = find_table(a.data, "emt/emt.csv", SOURCE)
    torch.set_num_threads(1)
    from nsgf_nb import snapshots

    rows, digest = results_of(file, a.out)
    cells = snapshots(file, "samples", standardise=False)
    for seed in a.seeds:
        known = {r["method"] for r in rows if r["seed"] == seed}
        if new := of_seed(cells, seed, known):
            rows += new
            made = {}
            if "OT-CFM" not in known:  # clouds without a fit leave the facts of the fits
                used = modules("family.trajectory", "evaluation.times")
                made = facts("POT") | dict(modules=used)
            before = json.loads(a.out.read_text()) if a.out.exists() else {}
            write(a.out, before | made | dict(source=SOURCE, sha256=digest, rows=rows))


if __name__ == "__main__":
    main()
