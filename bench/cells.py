"""Mouse blood cells on days 2, 4 and 6: distances to cells held out, and day 4 left out.

    python bench/cells.py --data lineage.csv [--seeds 0 1 2 3 4] [--methods OT-CFM] [--out FILE]

The table (`day,x1,x2`, 10 998 cells of the lineage-tracing experiment of Weinreb et al. 2020) is
that of the repository yutongo/TIGON, `Input/Lineage.npy`. Without `--data` it is looked for in
`$NSGF_DATA/haematopoiesis/lineage.csv`. 70 % of the cells of each day are fitted to; the split has
a seed of its own. A seed is that of the fit and of the 1000 cells of each day that distances are
taken between. Rows that are in the file already are kept.
"""

import argparse
import sys
import time
from pathlib import Path

import torch
from record import facts, find_table, modules, results_of, revision, write

N, HELD_OUT, SPLIT = 1000, 0.3, 0
BLUR, GRID = 0.2, 24  # of the plan that growth is read from; fields of the map, in each direction
USED = ("family.trajectory", "family.growth", "evaluation.times", "straight", "flow")
METHODS = {
    "OT-CFM": dict(method="ot-cfm", iterations=2000),
    "NSGF": dict(method="nsgf", iterations=2000),
}
SOURCE = "github.com/yutongo/TIGON, Input/Lineage.npy, as a CSV file with the columns day, x1, x2"


def power(m, p):
    "A power of a symmetric positive matrix"
    values, vectors = torch.linalg.eigh(m)
    return vectors @ values.pow(p).diag() @ vectors.T


def affine(x, y):
    "x moved by the optimal map between the Gaussians with the moments of x and of y"
    x, y = x.double(), y.double()
    s, t = torch.cov(x.T), torch.cov(y.T)
    half, inverse = power(s, 0.5), power(s, -0.5)
    matrix = inverse @ power(half @ t @ half, 0.5) @ inverse
    return ((x - x.mean(0)) @ matrix + y.mean(0)).float()


def draws(fitted, held, seed):
    "1000 cells of each day, by day: to start from or compare with, and held out"
    from nsgf_nb.core import make_generator

    generator = lambda what, t: make_generator(seed, what, int(t))
    own = {t: fitted[t](N, generator("fitted", t)) for t in fitted}
    own[2] = fitted.points[2][:N].float()
    rest = {t: held[t](N, generator("held out", t)) for t in (4, 6)}
    return own, rest


def marks(own, rest, fitted, seed):
    "Distances that need no fit, by day"
    from nsgf_nb.core import make_generator

    first = own[2]
    for t in (4, 6):
        again = fitted[t](N, make_generator(seed, "again", t))
        yield t, "floor: other cells of the day", again, rest[t]
        yield t, "unmoved", first, rest[t]
        shifted = first - first.mean(0) + own[t].mean(0)
        yield t, "shifted by the difference of means", shifted, rest[t]
        yield t, "affine map", affine(first, fitted.points[t].float()), rest[t]


def nearest(x, cells):
    "Mean distance to the nearest of some cells"
    return torch.cdist(x.float(), cells.float()).amin(1).mean().item()


def row(seed, method, day, left_out, x, y, known, seconds=0.0):
    "Distances to cells y that were held out, and to the nearest cell of the fit on that day"
    from nsgf_nb.distances import w2
    from nsgf_nb.evaluation.times import w1

    out = dict(seed=seed, method=method, day=day, left_out=left_out, w1=w1(x, y), w2=w2(x, y))
    out |= dict(nearest=nearest(x, known), nearest_held_out=nearest(y, known))
    where = "left out" if left_out else "fitted"
    print(
        f"seed {seed} day {day} {where:8} {method:36} W1 {out['w1']:.3f} W2 {out['w2']:.3f}"
        f" {seconds:5.0f} s",
        flush=True,
    )
    return out | dict(seconds=seconds)


def without_fit(fitted, held, seed):
    "Marks of all days, and the predictions of day 4 from days 2 and 6"
    from nsgf_nb.core import make_generator
    from nsgf_nb.straight import assign

    own, rest = draws(fitted, held, seed)
    known = fitted.points
    out = [
        row(seed, what, t, False, x, y, known[t])
        for t, what, x, y in marks(own, rest, fitted, seed)
    ]
    x, z = own[2], own[6]
    random = torch.randperm(N, generator=make_generator(seed, "pairs"))
    for what, middle in (
        ("floor: other cells of the day", fitted[4](N, make_generator(seed, "again", 4))),
        ("midpoints of the optimal plan", (x + z[assign(x, z)]) / 2),
        ("midpoints of random pairs", (x + z[random]) / 2),
        ("unmoved", x),
    ):
        out.append(row(seed, what, 4, True, middle, rest[4], known[4]))
    return out


def with_fit(fitted, held, seed, picture, method):
    "A trajectory through all days, and one that has not seen day 4"
    from nsgf_nb import Trajectory

    own, rest = draws(fitted, held, seed)
    out = []
    for left_out, cells in ((False, fitted), (True, fitted.without(4))):
        start = time.perf_counter()
        model = Trajectory(METHODS[method], device="cpu").fit(cells, seed=seed, progress=False)
        seconds = time.perf_counter() - start
        days = (4,) if left_out else (4, 6)
        for day, x in zip(days, model.sample(x0=own[2], times=days)):
            out.append(row(seed, method, day, left_out, x, rest[day], fitted.points[day], seconds))
        if (seed, method, left_out) == (0, "OT-CFM", False):
            keep_picture(model, own[2][:150], picture)
    return out


def keep_picture(model, x, file):
    "Paths of some samples, and the velocity on them; the cells themselves are not kept"
    from safetensors.torch import save_file

    days = torch.linspace(2.2, 6, 20)
    paths = model.sample(x0=x, times=days.tolist())
    velocity = torch.stack([model.velocity(z, float(t)) for z, t in zip(paths, days)])
    save_file(dict(days=days, paths=paths, velocity=velocity.detach().contiguous()), file)


def grown(x, y, low, high):
    "Relative growth of cells x: its quantiles, and its mean in the fields of a grid"
    from nsgf_nb import growth

    found = growth(x.double(), y.double(), BLUR)
    place = ((x - low) / (high - low) * GRID).long().clamp(0, GRID - 1)
    field = place[:, 0] * GRID + place[:, 1]
    count = torch.bincount(field, minlength=GRID**2)
    total = torch.bincount(field, weights=found, minlength=GRID**2)
    mean = torch.where(count >= 5, total / count, torch.nan).view(GRID, GRID)
    steps = torch.tensor([0.05, 0.25, 0.5, 0.75, 0.95]).double()
    return dict(
        quantiles=found.quantile(steps).tolist(),
        grid=[[None if v != v else round(v, 4) for v in line] for line in mean.tolist()],
    )


def growth_of_days(fitted):
    "Growth from each day to the next, by the semi-relaxed plan"
    every = torch.cat(list(fitted.points.values()))
    low, high = every.amin(0), every.amax(0)
    out = {"blur": BLUR, "low": low.tolist(), "high": high.tolist()}
    for first, second in ((2, 4), (4, 6)):
        out[f"{first} to {second}"] = grown(fitted.points[first], fitted.points[second], low, high)
    return out


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    results = Path(__file__).parent / "results"
    p.add_argument("--data", type=Path)
    p.add_argument("--out", type=Path, default=results / "cells.json")
    p.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    p.add_argument("--methods", nargs="+", choices=[*METHODS, "marks"], default=["marks", *METHODS])
    a = p.parse_args()
    file = find_table(a.data, "haematopoiesis/lineage.csv", SOURCE)
    torch.set_num_threads(1)
    from nsgf_nb import snapshots
    from nsgf_nb.evaluation.times import hold_out

    rows, digest = results_of(file, a.out)
    fitted, held = hold_out(snapshots(file, standardise=False), HELD_OUT, SPLIT)
    grew = growth_of_days(fitted)
    picture = a.out.with_name(f"{a.out.stem}-paths.safetensors")
    for seed in a.seeds:
        for part in a.methods:
            if (seed, part) in {(r["seed"], r["part"]) for r in rows}:
                continue
            if part == "marks":
                new = without_fit(fitted, held, seed)
            else:
                new = with_fit(fitted, held, seed, picture, part)
            code = revision()
            rows += [r | dict(part=part, revision=code) for r in new]
            write(
                a.out,
                dict(
                    facts(),
                    modules=modules(*USED),
                    sha256=digest,
                    source=SOURCE,
                    threads=1,
                    n=N,
                    held_out=HELD_OUT,
                    split=SPLIT,
                    fitted={t: len(x) for t, x in fitted.points.items()},
                    methods=METHODS,
                    growth=grew,
                    rows=sorted(rows, key=lambda r: r["seed"]),
                ),
            )


if __name__ == "__main__":
    sys.exit(main())
