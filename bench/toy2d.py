"""The paper's table on the plane: all methods, six problems, 1 to 100 network calls.

    python bench/toy2d.py --part trials    four learning rates for each method, on a validation
                                           seed (20 minutes on one core)
    python bench/toy2d.py --part final     the table, with the settings that the trials chose
                                           (2 hours on one core, 3 seeds; --seeds 0 1 2 3 4 for 5)
    python bench/toy2d.py --part compare   the comparison with OT-CFM anew, from the rows here
    python bench/toy2d.py --part pictures  samples for the figure of tutorial 20 (5 minutes)
    python bench/toy2d.py --quick          the table of the networks, small and without a record:
                                           300 gradient steps, one seed (10 minutes on two cores)

All methods have the paper's network, three layers of 256, and the same number of gradient steps.
Each fit is a row of bench/results/toy2d.json, written when it is done; rows that are there are
kept, so a stopped run goes on. Flows that others are made from stay in --folder. Times are CPU
seconds of one thread.
Trials draw from seed 90, final runs from --seeds; samples are judged against draws that no fit has
seen.
"""

import argparse
import json
import math
import statistics
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
from record import ROOT, locked, modules, revision, write

PROBLEMS = {
    "8gaussians": ("8gaussians", None),
    "8gaussians → moons": ("moons", "8gaussians"),
    "moons": ("moons", None),
    "scurve": ("scurve", None),
    "checkerboard": ("checkerboard", None),
    "swissroll": ("swissroll", None),
}
NFES = (1, 2, 5, 10, 100)
RATES = (1e-3, 3e-3, 9e-3, 2.7e-2)
TRIED_ON, TRIAL_SEED = ("8gaussians", "checkerboard"), 90
EMPTY = dict(rows=[], trials=[])
# the second are made from the first
TRIED = (
    ("FM", "NSGF", "OT-CFM", "SD-CFM", "interpolant", "bridge", "generator", "neural plan"),
    ("2-RF", "one step"),
)
ONE_CALL = ("one step", "generator")
ORDER = [
    "NSGF",
    "NSGF, any steps",
    "OT-CFM",
    "SD-CFM",
    "FM",
    "bridge",
    "neural plan",
    "interpolant",
    "DDIM",
    "DDPM",
    "2-RF",
    "3-RF",
    "one step",
    "generator",
    "OT-CFM, same time",
    "FM, same time",
    "Sinkhorn particles",
    "energy particles",
    "sliced particles",
]


class Judge:
    "Distances of samples to a target, and its floors on the same draws"

    def __init__(self, name, seed, n=1000, pairs=5):
        from nsgf_nb.core import make_generator
        from nsgf_nb.data import get_sampler, points_and_labels
        from nsgf_nb.distances import mmd, w2

        self.target, self.n, self.pairs, self.seed = get_sampler(name), n, pairs, seed
        draw = lambda kind, r: points_and_labels(
            self.target, n, make_generator(seed, f"judge {kind}", r)
        )[0]
        self.y, other = ([draw(kind, r) for r in range(pairs)] for kind in ("target", "floor"))
        self.sigma = self.y[0].std(0).square().mean().sqrt()
        self.floor = dict(
            w2=[w2(a, b) for a, b in zip(other, self.y)],
            mmd=[mmd(a, b) for a, b in zip(other, self.y)],
        )
        self.floor["sinkhorn"] = self._divergence(other)

    def _divergence(self, xs):
        from nsgf_nb.sinkhorn import sinkhorn_divergence

        return [
            sinkhorn_divergence(a[:300] / self.sigma, b[:300] / self.sigma, 0.1, tol=1e-4).item()
            for a, b in zip(xs[:2], self.y)
        ]

    def __call__(self, x):
        from nsgf_nb.distances import component_gate, mmd, w2

        xs = x[: self.n * self.pairs].split(self.n)
        out = dict(
            w2=[w2(a, b) for a, b in zip(xs, self.y)],
            mmd=[mmd(a, b) for a, b in zip(xs, self.y)],
            sinkhorn=self._divergence(xs),
        )
        square = lambda v: statistics.mean(z * z for z in v)
        mean = (
            {k: statistics.mean(v) for k, v in out.items()}
            | {f"{k}_sd": statistics.stdev(v) for k, v in out.items()}
            | {f"{k}_floor": statistics.mean(v) for k, v in self.floor.items()}
        )
        ratio, tv = math.sqrt(square(out["w2"]) / square(self.floor["w2"])), None
        # raw W2 counts modes: component by component instead
        if self.target.component and self.target.name.startswith("8gaussians"):
            g = component_gate(self.target, x, seed=self.seed)
            ratio, tv = g.ratio, g.tv
        return mean | dict(ratio=ratio if math.isfinite(ratio) else None, tv=tv)


def network(seed):
    "The paper's network for the plane, with the weights of a seed"
    from nsgf_nb.core import keep_random_state
    from nsgf_nb.learning.nets import MLP

    with keep_random_state(seed):
        return MLP((2,), hidden=256, layers=3)


def fitted(method, problem, seed, rate, steps, folder):
    "A flow, and the CPU seconds of its fit; from the folder where it is there"
    from nsgf_nb.family.bridge import SchrodingerBridge
    from nsgf_nb.family.generator import SinkhornGenerator
    from nsgf_nb.family.neural_plan import NeuralPlan
    from nsgf_nb.flow import NSGF
    from nsgf_nb.learning.model import Flow
    from nsgf_nb.matching.interpolants import Interpolant, OneStep
    from nsgf_nb.straight import StraightFlow

    file = folder / f"{method} {problem} {seed} {rate} {steps}.safetensors"
    if file.exists():
        return Flow.load(file), json.loads(file.with_suffix(".json").read_text())
    shared = dict(network=network(seed), iterations=steps, lr=rate[0], ema=1 - 2.5 / steps)
    of = lambda name: fitted(name, problem, seed, rate[1:], steps, folder)[0]
    pool = dict(pool_size=24576) if steps > 1000 else dict(pool_size=6144, group=1024)
    flow = {
        "NSGF 5": lambda: NSGF(5, **shared, **pool),
        "NSGF 10": lambda: NSGF(10, **shared, **pool),
        "NSGF, any steps": lambda: NSGF(10, jitter=True, **shared, **pool),
        "FM": lambda: StraightFlow(**shared),
        "OT-CFM": lambda: StraightFlow("ot", **shared),
        "SD-CFM": lambda: StraightFlow("semidiscrete", **shared),
        "bridge": lambda: SchrodingerBridge(**shared),
        "generator": lambda: SinkhornGenerator(**shared),
        "neural plan": lambda: NeuralPlan(**shared | dict(network="potentials")),
        "interpolant": lambda: Interpolant(**shared),
        "2-RF": lambda: StraightFlow(of("FM"), **shared),
        "3-RF": lambda: StraightFlow(of("2-RF"), **shared),
        "one step": lambda: OneStep(of("2-RF"), **shared),
    }[method]()
    target, source = PROBLEMS[problem]
    start = time.process_time()
    flow.fit(target, source, seed=seed, progress=False)
    seconds = time.process_time() - start
    flow.save(file)
    file.with_suffix(".json").write_text(json.dumps(seconds))
    return flow, seconds


# Whose trials the learning rates come from, of a method and of the flows that it is made from; of
# the others their own.
CHAIN = {
    "NSGF, any steps": ("NSGF",),
    "2-RF": ("2-RF", "FM"),
    "3-RF": ("2-RF", "2-RF", "FM"),
    "one step": ("one step", "2-RF", "FM"),
}


def rates(method, chosen):
    return tuple(chosen[m] for m in CHAIN.get(method, (method,)))


def scores(flow, judge, nfes, seed):
    "A score for each number of calls"
    out = {}
    for nfe in nfes:
        x = flow.sample(
            20_000 if judge.target.name.startswith("8gaussians") else judge.n * judge.pairs,
            num_steps=nfe,
            seed=seed,
        )
        assert flow.nfe == nfe
        out[str(nfe)] = judge(x)
    return out


def networks(problem, seed, steps, folder, chosen, put):
    "All rows of a problem and a seed that have a network"
    from nsgf_nb.matching.interpolants import DDIM, DDPM
    from nsgf_nb.straight import StraightFlow

    judge, start = (
        Judge(PROBLEMS[problem][0], seed + 5000, pairs=5 if steps > 1000 else 2),
        seed + 1000,
    )

    def row(method, make):
        put(problem, seed, method, make)

    def plain(method, name=None, nfes=NFES):
        flow, seconds = fitted(name or method, problem, seed, rates(method, chosen), steps, folder)
        return dict(seconds=seconds, gradient_steps=steps, scores=scores(flow, judge, nfes, start))

    def nsgf():
        parts = [plain("NSGF", f"NSGF {k}", (k,)) for k in (5, 10)]
        return dict(
            seconds=parts[1]["seconds"],
            gradient_steps=steps,
            scores=parts[0]["scores"] | parts[1]["scores"],
        )

    row("NSGF", nsgf)
    for method in ("NSGF, any steps", "FM", "OT-CFM", "SD-CFM", "interpolant", "2-RF", "3-RF"):
        row(method, lambda: plain(method))
    row("bridge", lambda: plain("bridge", nfes=NFES[2:]))
    row("neural plan", lambda: plain("neural plan", nfes=NFES[3:]))
    for method in ONE_CALL:
        row(method, lambda: plain(method, nfes=(1,)))

    def diffusion(kind):  # the interpolant's network with another sampler
        known, seconds = fitted(
            "interpolant", problem, seed, rates("interpolant", chosen), steps, folder
        )
        flow = kind()
        flow.velocity, flow.source = known.velocity, known.source
        return dict(seconds=seconds, gradient_steps=steps, scores=scores(flow, judge, NFES, start))

    if PROBLEMS[problem][1] is None:
        for kind in (DDIM, DDPM):
            row(kind.__name__, lambda: diffusion(kind))

    # as many steps as fit into the time that NSGF took, pool included
    def same_time(method, coupling):
        long, own = (
            fitted(m, problem, seed, rates(r, chosen), steps, folder)[1]
            for m, r in (("NSGF 10", "NSGF"), (method, method))
        )
        more = round(steps * long / own)
        flow, begin = (
            StraightFlow(
                coupling,
                network=network(seed),
                iterations=more,
                lr=chosen[method],
                ema=1 - 2.5 / more,
            ),
            time.process_time(),
        )
        flow.fit(*PROBLEMS[problem], seed=seed, progress=False)
        return dict(
            seconds=time.process_time() - begin,
            gradient_steps=more,
            scores=scores(flow, judge, (5, 10), start),
        )

    row("FM, same time", lambda: same_time("FM", "independent"))
    row("OT-CFM, same time", lambda: same_time("OT-CFM", "ot"))
    if steps > 1000:
        particles(problem, seed, judge, row)


def particles(problem, seed, judge, row):
    "Flows without a network: 1000 particles to 1000 points, which are all they know of the target"
    from nsgf_nb.core import make_generator
    from nsgf_nb.estimator import SinkhornVelocity
    from nsgf_nb.motion.functionals import directions, energy_velocity, sliced_wasserstein_velocity
    from nsgf_nb.particles import particle_flow
    from nsgf_nb.sets.ends import ends, group_clouds

    source, target, _, _, sigma = ends(*PROBLEMS[problem], seed)
    fresh = make_generator(seed, "slices")
    kinds = {
        "Sinkhorn": (SinkhornVelocity(0.1 * sigma.item()), None, (5, 10)),
        "energy": (energy_velocity, 0.1, (100,)),
        "sliced": (
            lambda x, y: sliced_wasserstein_velocity(x, y, directions(2, 32, fresh)),
            None,
            (10, 100),
        ),
    }
    for name, (velocity, eta, counts) in kinds.items():

        def run():
            begin, out = time.process_time(), {}
            for steps in counts:
                x = torch.cat(
                    [
                        particle_flow(
                            *group_clouds(source, target, 1000, seed, b)[:2], velocity, steps, eta
                        )
                        for b in range(
                            20 if judge.target.name.startswith("8gaussians") else judge.pairs
                        )
                    ]
                )
                out[str(steps)] = judge(x)
            return dict(seconds=time.process_time() - begin, gradient_steps=0, scores=out)

        row(f"{name} particles", run)


def trial(problem, method, rate, steps, folder, chosen):
    "One short look at a learning rate: the ratio to the floor at 10 calls, or at the one there is"
    nfe, name = (1 if method in ONE_CALL else 10), "NSGF 10" if method == "NSGF" else method
    flow, seconds = fitted(
        name,
        problem,
        TRIAL_SEED,
        (rate, *rates(method, chosen | {method: rate})[1:]),
        steps,
        folder,
    )
    return dict(
        seconds=seconds,
        **Judge(PROBLEMS[problem][0], TRIAL_SEED + 5000)(
            flow.sample(20_000, num_steps=nfe, seed=TRIAL_SEED + 1000)
        ),
    )


def worker(task):
    "One task in a process of its own; rows go into the file as they are done"
    torch.set_num_threads(1)
    kind, problem, key, steps, folder, out, chosen = task
    code = dict(revision=revision())

    def add(kind, r):
        with locked(out, **EMPTY) as table:
            table[kind].append(r)
            table["modules"] = modules(
                "flow", "matching.interpolants", "motion.functionals", "distances"
            )

    def put(problem, seed, method, make):
        with locked(out, **EMPTY) as table:
            if any(
                (r["problem"], r["seed"], r["method"]) == (problem, seed, method)
                for r in table["rows"]
            ):
                return
        r = dict(problem=problem, seed=seed, method=method, **code, **make())
        add("rows", r)
        print(
            f"{problem:20} seed {seed}  {method:18} {r['seconds']:6.0f} s  "
            + "  ".join(f"{k}: {v['ratio'] or math.nan:.2f}" for k, v in r["scores"].items()),
            flush=True,
        )

    if kind == "final":
        return networks(problem, key, steps, folder, chosen, put)
    for rate in RATES:
        with locked(out, **EMPTY) as table:
            if any(
                (r["problem"], r["method"], r["lr"]) == (problem, key, rate)
                for r in table["trials"]
            ):
                continue
        r = dict(
            problem=problem,
            method=key,
            lr=rate,
            **code,
            **trial(problem, key, rate, steps, folder, chosen),
        )
        add("trials", r)
        print(
            f"trial {problem:13} {key:12} lr {rate:g}  {r['seconds']:5.0f} s  "
            f"{r['ratio'] or math.nan:.3f}",
            flush=True,
        )


def choose(trials):
    "The learning rate with the least mean of log ratios, for each method"
    score = lambda m, lr: statistics.mean(
        math.log(r["ratio"] or 99) for r in trials if (r["method"], r["lr"]) == (m, lr)
    )
    return {
        m: min(sorted({r["lr"] for r in trials if r["method"] == m}), key=lambda lr: score(m, lr))
        for m in {r["method"] for r in trials}
    }


# 97.5 % quantiles, by degrees of freedom
STUDENT = {
    1: 12.71,
    2: 4.303,
    3: 3.182,
    4: 2.776,
    5: 2.571,
}


def compare(rows, nfe, leave_out=(), base="OT-CFM"):
    """Ratio to OT-CFM: method → (geometric mean over problems, low, high, problems).

    Seeds of one problem are averaged, since they share what the problem does to a method; the 95 %
    interval is Student's over the problems, which are few and differ.
    """
    out = {}
    for method in ORDER:
        logs = []
        for problem in PROBLEMS:
            of = lambda m: {
                r["seed"]: r["scores"][str(nfe)]["ratio"] or 99
                for r in rows
                if (r["method"], r["problem"]) == (m, problem) and str(nfe) in r["scores"]
            }
            ours, theirs = of(method), of(base)
            shared = ours.keys() & theirs.keys()
            if problem not in leave_out and shared:
                logs.append(statistics.mean(math.log(ours[s] / theirs[s]) for s in sorted(shared)))
        if method == base or len(logs) < 2:
            continue
        mean = statistics.mean(logs)
        half = STUDENT[len(logs) - 1] * statistics.stdev(logs) / len(logs) ** 0.5
        out[method] = [math.exp(mean), math.exp(mean - half), math.exp(mean + half), len(logs)]
    return out


def comparisons(rows):
    "With all problems, and without the one that the defaults of NSGF were found on"
    return dict(
        compare={str(n): compare(rows, n) for n in (5, 10)},
        compare_others={str(n): compare(rows, n, leave_out=("8gaussians",)) for n in (5, 10)},
    )


def show(table):
    "The table that a reader wants first: ratio to the floor at 10 calls, mean over seeds"
    for nfe in (5, 10):
        print(
            f"\nW2 over its floor at {nfe} calls (8gaussians: component by component), "
            f"mean over seeds\n{'':18}"
            + "".join(f"{p[:13]:>15}" for p in PROBLEMS)
            + f"{'to OT-CFM':>24}"
        )
        against = compare(table["rows"], nfe)
        for m in ORDER:
            cells = [
                [
                    r["scores"][str(nfe)]["ratio"] or math.inf
                    for r in table["rows"]
                    if (r["problem"], r["method"]) == (p, m) and str(nfe) in r["scores"]
                ]
                for p in PROBLEMS
            ]
            if not any(cells):
                continue
            print(
                f"{m:18}"
                + "".join(f"{statistics.mean(c):15.2f}" if c else f"{'–':>15}" for c in cells)
                + (
                    "  {:.2f} [{:.2f}, {:.2f}]".format(*against[m][:3]).rjust(24)
                    if m in against
                    else ""
                )
            )


def pictures(seed, steps, folder, chosen, out):
    "800 samples each with five calls, for the figure of tutorial 20"
    from safetensors.torch import save_file

    points = {}
    for problem in TRIED_ON:
        for method in ("NSGF", "OT-CFM", "FM", "interpolant", "2-RF"):
            flow = fitted(
                "NSGF 5" if method == "NSGF" else method,
                problem,
                seed,
                rates(method, chosen),
                steps,
                folder,
            )[0]
            points[f"{problem} {method}"] = (
                flow.sample(800, num_steps=5, seed=seed + 1000).half().contiguous()
            )
    save_file(points, out.with_name("toy2d-samples.safetensors"))


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument(
        "--part", choices=("trials", "final", "compare", "pictures", "all"), default="all"
    )
    p.add_argument("--out", type=Path, default=ROOT / "bench" / "results" / "toy2d.json")
    p.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    p.add_argument("--problems", nargs="+", default=list(PROBLEMS), choices=list(PROBLEMS))
    p.add_argument("--steps", type=int, default=2500)
    p.add_argument("--jobs", type=int, default=2)
    p.add_argument("--folder", type=Path, default=ROOT / "runs" / "toy2d")
    p.add_argument("--quick", action="store_true")
    a = p.parse_args()
    if a.quick:
        a.steps, a.seeds, a.folder = 300, [0], Path(tempfile.mkdtemp(prefix="toy2d-"))
        a.out = a.folder / "toy2d.json"
    if a.part == "compare":
        table = json.loads(a.out.read_text())
        write(a.out, table | comparisons(table["rows"]))
        return show(table)
    a.folder.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(a.jobs) as pool:
        run = lambda tasks: [f.result() for f in [pool.submit(worker, t) for t in tasks]]
        trials = lambda: json.loads(a.out.read_text())["trials"] if a.out.exists() else []
        if a.part in ("trials", "all") and not a.quick:
            first, then = TRIED
            run(
                [
                    ("trials", q, m, a.steps, a.folder, a.out, {m: 0})
                    for m in first
                    for q in TRIED_ON
                ]
            )
            for m in then:
                run(
                    [("trials", q, m, a.steps, a.folder, a.out, choose(trials())) for q in TRIED_ON]
                )
        chosen = dict.fromkeys(sum(TRIED, ()), 9e-3) if a.quick else choose(trials())
        if a.part in ("final", "all"):
            run(
                [
                    ("final", q, s, a.steps, a.folder, a.out, chosen)
                    for s in a.seeds
                    for q in a.problems
                ]
            )
    table = json.loads(a.out.read_text())
    if not a.quick and a.part in ("pictures", "all"):
        pictures(a.seeds[0], a.steps, a.folder, chosen, a.out)
    if not a.quick:
        write(a.out, table | dict(chosen=chosen, steps=a.steps, **comparisons(table["rows"])))
    show(table)


if __name__ == "__main__":
    sys.exit(main())
