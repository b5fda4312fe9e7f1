"""How good is the advice? Its regret against the best of nine settings, on draws it has not seen.

    python bench/advise.py                     all that is not in the file yet
    python bench/advise.py --sets moons        some sets
    python bench/advise.py --repeats 16        advices a set
    python bench/advise.py --flows             fits of NSGF with the advice and without, and no more

A user's data are 1024 points of each side, drawn anew for each advice. The grid has three relative
blurs and three self terms, in groups of 256, the most that the advice may take. What is wanted is
the velocity at the blur that this advice says its points determine: of normal points in closed
form, of the others that of 4096 new points (towards all 1797 images of the digits). The best of the
grid is chosen on one set of shuffles; it and the advice are then judged on another one, different
for each advice, by bias² + variance. Regret is what the advice has more of, over what the best has;
a second regret is that against the best of all 21 settings that `advise` tries itself. Rows go to
bench/results/advise.json, one an advice; those that are there are kept. One thread.
"""

import argparse
import time
import warnings
from pathlib import Path

import torch
from record import ROOT, facts, interval, locked, modules

RESULT = ROOT / "bench" / "results" / "advise.json"
SETS = ("moons", "8gaussians", "digits", "normal16")
GRID = (0.1, 0.35, 1.0)  # relative blurs, of which the second is not far from NSGF's first
SELF_TERMS = ("same", "masked", "two_batch")
FIRST = 100  # number of the first repeat; those before were looked at while advise was written
USER, JUDGE, GROUP = 1024, 4096, 256


def moments(d=16):
    "Of the two Gaussians: N(0, I) and N(1/2, B), deviations from .3 to 1.5."
    mean, scale = torch.zeros(d).double(), torch.linspace(0.3, 1.5, d).double()
    return mean, torch.eye(d).double(), mean + 0.5, torch.diag(scale.square())


def draw(name, n, seed):
    "A sample of the source and one of the target, flat."
    from nsgf_nb.core import make_generator
    from nsgf_nb.data import points_and_labels
    from nsgf_nb.sets.ends import ends

    gen = make_generator(seed, f"advise {name}", n)
    if name == "normal16":
        _, _, b, B = moments()
        x, y = (torch.randn(n, 16, generator=gen) for _ in range(2))
        return x, (b + y.double() @ B.sqrt()).float()
    e = ends(name, None, 0)
    x, _ = points_and_labels(e.source, n, gen)
    y, _ = points_and_labels(e.target, min(n, e.target.num_points or n), gen)
    return x.flatten(1), y.flatten(1)


class Judge:
    "Knows the wanted velocity of new points, and what a setting makes of it."

    def __init__(self, name):
        from nsgf_nb.transport.scale import inner_length

        self.name = name
        self.x, self.y = draw(name, JUDGE, 10**6)
        self.length = inner_length(self.x, self.y)
        self.goals, self.found = {}, {}

    def goal(self, r):
        "The wanted velocity at a relative blur."
        from nsgf_nb.estimator import SinkhornVelocity
        from nsgf_nb.velocity import gaussian_velocity

        blur = r * self.length
        if r not in self.goals and self.name == "normal16":
            c, L = gaussian_velocity(*moments(), blur**2)
            self.goals[r] = (c + self.x.double() @ L.T).float()
        elif r not in self.goals:
            self.goals[r] = SinkhornVelocity(blur, self_term="masked", tol=1e-2)(self.x, self.y)
        return self.goals[r]

    def error(self, wanted, r, self_term, group, seed):
        "Bias² + variance over |v|²."
        from nsgf_nb.evaluation.bias import batch_errors

        key = wanted, r, self_term, group, seed
        if key not in self.found:
            goal, blur = self.goal(wanted), r * self.length
            size = goal.square().sum(1).mean().item()
            told = batch_errors(self.x, self.y, goal, blur, group, (self_term,), seed=seed)
            self.found[key] = told[self_term].total / size
        return self.found[key]

    def best(self, wanted, blurs, seed):
        "The setting of a grid with the least error on the shuffles of a seed."
        grid = [(r, s) for r in blurs for s in SELF_TERMS]
        return min(grid, key=lambda setting: self.error(wanted, *setting, GROUP, seed))


def one(judge, repeat):
    "An advice on new data, and what became of it."
    from nsgf_nb import advise
    from nsgf_nb.evaluation.bias import RELATIVE_BLURS

    x, y = draw(judge.name, USER, repeat)
    begun = time.process_time()
    advice = advise(x, y, max_group=GROUP, seed=repeat, show=False)
    seconds = time.process_time() - begun
    wanted = advice.wanted.relative_blur
    chosen, fresh = 10**6, 10**7 + repeat  # seeds of shuffles
    best, finest = (judge.best(wanted, blurs, chosen) for blurs in (GRID, RELATIVE_BLURS))
    on_fresh = lambda setting: judge.error(wanted, *setting, GROUP, fresh)
    mine = judge.error(wanted, advice.relative_blur, advice.self_term, advice.group, fresh)
    return dict(
        set=judge.name,
        repeat=repeat,
        wanted=wanted,
        apart=advice.wanted.apart,
        advice=advice.settings(),
        told=advice.share(),
        best=best,
        finest=finest,
        error=mine,
        error_usual=on_fresh((0.5, "same")),
        error_best=on_fresh(best),
        regret=mine / on_fresh(best) - 1,
        regret_finest=mine / on_fresh(finest) - 1,
        seconds=seconds,
    )


def fitted(name, what):
    "A short fit of NSGF, and how far its samples are from new points, beside the floor."
    from nsgf_nb import NSGF, advise, mmd
    from nsgf_nb.data import get_sampler

    x, y = draw(name, USER, 0)
    advice = advise(x, y, max_group=GROUP, seed=0, show=False)
    options = dict(group=GROUP) if what == "usual" else advice.settings()
    begun = time.process_time()
    flow = NSGF(**options, pool_size=16 * GROUP, iterations=2000)
    flow.fit(get_sampler(name), seed=0, progress=False)
    seconds = time.process_time() - begun
    samples = flow.sample(3200, seed=1).flatten(1)
    row = dict(set=name, what=what, options=options, arrival=advice.arrival, seconds=seconds)
    tests = [draw(name, 1600, 10**6 + k)[1] for k in range(4)]
    halves = [(t[:800], t[800:]) for t in tests]
    of = lambda pairs: [mmd(p, q) for p, q in pairs]
    row["mmd"] = interval(of(zip(samples.split(800), (h[0] for h in halves))))
    row["floor"] = interval(of(halves))
    row["variance"] = (samples.var(0).sum() / torch.cat(tests).var(0).sum()).item()
    return row


def summary(rows):
    "Of each set: regrets, and what the usual setting has more of."
    out = {}
    for name in dict.fromkeys(r["set"] for r in rows):
        mine = [r for r in rows if r["set"] == name]
        out[name] = dict(
            repeats=len(mine),
            regret=interval([r["regret"] for r in mine]),
            regret_finest=interval([r["regret_finest"] for r in mine]),
            usual=interval([r["error_usual"] / r["error"] - 1 for r in mine]),
        )
    return out


def flows(args):
    "Fits that are not in the file yet."
    for name in args.sets:
        for what in ("usual", "advice"):
            with locked(args.out, rows=[], flows=[]) as result:
                if any(
                    (r["set"], r["what"]) == (name, what) for r in result.setdefault("flows", [])
                ):
                    continue
            row = fitted(name, what) | dict(revision=facts()["revision"])
            with locked(args.out, rows=[], flows=[]) as result:
                result.setdefault("flows", []).append(row)
            print(row, flush=True)


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    p.add_argument("--repeats", type=int, default=8)
    p.add_argument("--out", type=Path, default=RESULT)
    p.add_argument("--flows", action="store_true")
    args = p.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", "the self plan is the identity")
    if args.flows:
        flows(args)
        return
    for name in args.sets:
        judge = None
        for repeat in range(FIRST, FIRST + args.repeats):
            with locked(args.out, rows=[]) as result:
                if any(r["set"] == name and r["repeat"] == repeat for r in result["rows"]):
                    continue
            judge = judge or Judge(name)
            row = one(judge, repeat) | dict(revision=facts()["revision"])
            with locked(args.out, rows=[]) as result:
                result["rows"].append(row)
                result["summary"] = summary(result["rows"])
                result["modules"] = modules("evaluation.advice")
            print(
                f"{name:11} {repeat:2} wanted {row['wanted']:g}, {row['advice']}: "
                f"{row['error']:.4f}, best {row['best']}, finest {row['finest']}, "
                f"regret {row['regret']:+.3f}, {row['regret_finest']:+.3f}, "
                f"usual {row['error_usual']:.3f}, {row['seconds']:.0f} s",
                flush=True,
            )
    with locked(args.out, rows=[]) as result:
        for name, s in result.get("summary", {}).items():
            for key in ("regret", "regret_finest", "usual"):
                low, high = s[key]["low"], s[key]["high"]
                print(f"{name:11} {key:13} {s[key]['mean']:+.3f} [{low:+.3f}, {high:+.3f}]")


if __name__ == "__main__":
    main()
