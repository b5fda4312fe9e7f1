"""Generators of the flow family that learn from samples, at equal CPU seconds, on six problems.

    python bench/generators.py                              all that is not in the file yet
    python bench/generators.py --problems moons --methods INDM --seeds 0 --seconds 10
    python bench/generators.py --show                       the table of what is there

The implicit steps of JKOFlow, a diffusion, INDM, a one-step generator, and GEBM, which weighs the
samples of such a generator. (NSGF with the same seconds is in bench/equal_seconds.py.) Short fits
tell what a step costs, and the number of steps follows; GEBM shares its seconds between generator
and weights. Only the generator knows the problem between two sets, the others start at a normal
law. Samples are judged by the gate, by variance and by energy distance with its floor; methods with
a density also by -log p of points that no fit has seen (a bound where they know no more). A run is
a row of bench/results/generators.json, written when it is done; rows that are there are kept, so a
stopped run goes on. Seconds are those of one thread.
"""

import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import torch
from record import ROOT, add_rows, has_row, modules, revision, run_all, show_means, table_options
from toy2d import PROBLEMS

RESULT = ROOT / "bench" / "results" / "generators.json"
POINTS = 20_000  # of the target, for methods that want a table


@dataclass(frozen=True)
class Fitted:
    "What a method hands in."

    draw: Callable  # draw(n, seed) -> points, (n, 2)
    calls: int  # of networks, for a point
    surprise: Callable | None = None  # surprise(points) -> -log p or a bound on it, (n,)


def by_generator(iterations, problem, seed):
    "One call, no teacher"
    from nsgf_nb import SinkhornGenerator

    target, source = PROBLEMS[problem]
    model = SinkhornGenerator(iterations=iterations)
    model.fit(target, source, seed=seed, progress=False)
    return Fitted(lambda n, seed: model.sample(n, seed=seed), 1)


def by_jko(iterations, problem, seed):
    "Twelve maps from data to noise; iterations are those of a map"
    from nsgf_nb import JKOFlow

    model = JKOFlow(map_iterations=iterations)
    model.fit(PROBLEMS[problem][0], seed=seed, progress=False)
    surprise = lambda x: -model.log_prob(x)
    return Fitted(lambda n, seed: model.sample(n, seed=seed), model.kept, surprise)


def table(problem, seed):
    "Points to learn from"
    from nsgf_nb.core import make_generator
    from nsgf_nb.data import get_sampler, points_and_labels

    draws = make_generator(seed, "table")
    return points_and_labels(get_sampler(PROBLEMS[problem][0]), POINTS, draws)[0]


def by_diffusion(num_couplings):
    "A diffusion of what so many couplings make of the data"

    def fit(iterations, problem, seed):
        from nsgf_nb import INDM
        from nsgf_nb.core import make_generator

        model = INDM(num_couplings, iterations, seed=seed).fit(table(problem, seed))
        noise = make_generator(seed, "levels")
        return Fitted(
            lambda n, seed: model.sample(n, 50, seed), 50, lambda x: model.bound(x, noise)
        )

    return fit


def by_weights(iterations, problem, seed):
    "A one-step generator, and weights of its latents"
    from nsgf_nb import GEBM, SinkhornGenerator
    from nsgf_nb.sets.ends import ends

    target = PROBLEMS[problem][0]
    generator = SinkhornGenerator(iterations=iterations).fit(target, seed=seed, progress=False)
    both = ends(target, None, seed)
    base = lambda z: generator.sample(x0=both.mean + both.sigma * z)
    # critics of slope 5 / σ, trained half as long as the generator
    critic = GEBM(base, 2, L=5 / both.sigma.item(), iterations=iterations // 2, seed=seed)
    critic.fit(table(problem, seed)[:2000])
    # a point and ten candidates in each of five rounds
    return Fitted(lambda n, seed: critic.sample(n, seed), 51)


METHODS = {
    "generator": by_generator,
    "GEBM": by_weights,
    "JKOFlow": by_jko,
    "diffusion": by_diffusion(0),
    "INDM": by_diffusion(4),
}
FROM_A_SET = ("generator",)
FEW = {"JKOFlow": (5, 20)}  # iterations of two short fits; of others:
OTHER = (200, 800)


def fit_for(method, problem, seed, seconds):
    "A fit of about so many CPU seconds, and what it took; short ones tell what a step costs"
    fit, counts, took = METHODS[method], FEW.get(method, OTHER), []
    fit(counts[0], problem, seed)  # the first one imports and compiles
    for count in counts:
        begun = time.process_time()
        fit(count, problem, seed)
        took.append(time.process_time() - begun)
    step = (took[1] - took[0]) / (counts[1] - counts[0])
    before = max(0.0, took[0] - counts[0] * step)
    count = max(counts[0], int((seconds - before) / step))
    begun = time.process_time()
    fitted = fit(count, problem, seed)
    return fitted, dict(seconds=time.process_time() - begun, iterations=count)


def judged(fitted, problem, seed):
    "The gate, variance, energy distance and surprise"
    from nsgf_nb.core import make_generator
    from nsgf_nb.data import get_sampler, points_and_labels
    from nsgf_nb.distances import gate, mmd

    target = get_sampler(PROBLEMS[problem][0])
    x = fitted.draw(POINTS, seed + 1000)
    y, again = points_and_labels(target, 2 * POINTS, make_generator(seed, "judge"))[0].split(POINTS)
    row = dict(calls=fitted.calls, variance=(x.var(0).sum() / y.var(0).sum()).item())
    far = lambda a, b: statistics.mean(mmd(*z) for z in zip(a.split(1000)[:5], b.split(1000)[:5]))
    row |= dict(mmd=far(x, y), mmd_floor=far(again, y))
    if fitted.surprise:
        row["surprise"] = fitted.surprise(y[:4000]).mean().item()
    number = lambda generator: torch.randint(2**31, (), generator=generator).item()
    told = gate(
        target, lambda n, generator: fitted.draw(n, number(generator)), seed=seed, half_width=0.08
    )
    return row | dict(ratio=told.ratio, low=told.low, high=told.high, tv=told.tv)


def one(problem, method, seed, seconds):
    "A run, judged and written"
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    key = dict(problem=problem, method=method, seed=seed, asked=seconds)
    if PROBLEMS[problem][1] and method not in FROM_A_SET or has_row(RESULT, key):
        return
    fitted, spent = fit_for(method, problem, seed, seconds)
    row = key | spent | judged(fitted, problem, seed) | dict(revision=revision())
    add_rows(RESULT, row, modules=modules("family.generator", "family.indm", "family.jko_flow"))
    said = {k: round(row[k], 3) for k in ("ratio", "variance", "mmd", "surprise") if k in row}
    print(f"{problem}, {method}, seed {seed}: {row['seconds']:.0f} s, {said}", flush=True)


SHOWN = "ratio", "variance", "mmd", "mmd_floor", "surprise", "seconds"


def main():
    parser = table_options(__doc__, [0, 1, 2])
    parser.add_argument("--problems", nargs="+", default=list(PROBLEMS), choices=PROBLEMS)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--seconds", type=float, default=30.0)
    a = parser.parse_args()
    if a.show:
        return show_means(RESULT, PROBLEMS, METHODS, SHOWN)
    # a seed of all methods before the next seed, so that a stopped run can be read
    for seed in a.seeds:
        run_all(one, product(a.problems, a.methods, [seed], [a.seconds]), a.jobs)


if __name__ == "__main__":
    main()
