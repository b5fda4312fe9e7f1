"""Samplers that know a log-density, at equal CPU seconds, on a mixture and on a posterior.

    python bench/family.py                              all that is not in the file yet (30 minutes)
    python bench/family.py --problems mixture --methods mala --seeds 0 --seconds 10
    python bench/family.py --show                       the table of what is there

mixture: the four modes in eight dimensions of the lesson on chains, of masses .1 to .4. posterior:
the 31 coefficients of a logistic regression of the 569 tumours that come with scikit-learn, under
the prior N(0, I). All start at a normal law that covers the target, and have the same seconds of
one thread, training included. Each hands in 4000 points. Chains are judged by where they end; maps
also by the divergence of their law on points that they have not seen. The reference of the
posterior are chains that begin at its normal approximation. A run is a row of
bench/results/family.json, written when it is done; rows that are there are kept, so a stopped run
goes on.
"""

import math
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import torch
from record import ROOT, add_rows, has_row, run_all, show_means, table_options
from torch import Tensor

RESULT = ROOT / "bench" / "results" / "family.json"
COUNT = 4000  # points that a method hands in


@dataclass(frozen=True)
class Law:
    "What is to be sampled."

    d: int  # numbers of a point
    V: Callable  # -log density, up to a constant
    scale: float  # of the normal law where all begin
    log_norm: float  # log of the integral of e^-V
    draws: Tensor  # independent points of it, or the ends of long chains, (2 · COUNT, d)

    def logp(self, x):
        "Log-density, up to a constant."
        return -self.V(x)

    def log_start(self, x):
        "Log-density of the normal law."
        size = self.d * math.log(self.scale * math.sqrt(2 * math.pi))
        return -(x / self.scale).square().sum(1) / 2 - size

    def starts(self, n, gen):
        "Points of the normal law, and their log-density."
        x = self.scale * torch.randn(n, self.d, generator=gen)
        return x, self.log_start(x)


# --- the problems ----------------------------------------------------------------------------

MASSES = torch.tensor([0.1, 0.2, 0.3, 0.4])


def centres():
    "Of the four modes, (4, 8)"
    c = torch.zeros(4, 8)
    c[:, :2] = 4 * torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
    return c


@lru_cache
def mixture():
    "Four normal laws of deviation .5"
    from nsgf_nb.core import make_generator

    c, gen = centres(), make_generator(0, "mixture")

    def V(x):
        square = sum((x[:, None, i] - c[:, i]).square() for i in range(8))
        return 4 * math.log(math.pi / 2) - (MASSES.log() - 2 * square).logsumexp(1)

    mode = torch.multinomial(MASSES, 2 * COUNT, replacement=True, generator=gen)
    draws = c[mode] + 0.5 * torch.randn(2 * COUNT, 8, generator=gen)
    return Law(8, V, 3.0, 0.0, draws)


@lru_cache
def posterior():
    "A logistic regression; its draws are the ends of chains"
    from sklearn.datasets import load_breast_cancer

    from nsgf_nb.core import make_generator
    from nsgf_nb.family.mcmc import mala

    table, sick = load_breast_cancer(return_X_y=True)
    A = torch.tensor((table - table.mean(0)) / table.std(0)).float()
    A = torch.cat([A, torch.ones(len(A), 1)], 1)
    A = A * (2.0 * torch.tensor(sick)[:, None] - 1)

    def V(x):
        return x.square().sum(1) / 2 + torch.nn.functional.softplus(-x @ A.T).sum(1)

    gen, near = make_generator(0, "posterior"), normal_approximation(A)
    x = near.loc + torch.randn(2 * COUNT, 31, generator=gen) @ near.scale_tril.T
    x, rate = mala(x, lambda x: -V(x), 0.02, 600, gen)
    print(f"chains of the posterior: {rate:.0%} of the proposals are accepted", flush=True)
    return Law(31, V, 1.0, log_integral(V, x, gen), x)


def normal_approximation(A, steps=20):
    "The normal law at the mode, found by Newton's method"
    x = torch.zeros(A.shape[1])
    for _ in range(steps):
        p = torch.sigmoid(-A @ x)
        curve = torch.eye(len(x)) + A.T @ ((p * (1 - p))[:, None] * A)
        x = x - torch.linalg.solve(curve, x - A.T @ p)
    return torch.distributions.MultivariateNormal(x, precision_matrix=curve)


def log_integral(V, x, gen, n=200_000):
    "log of the integral of e^-V, by weights of a normal law with the moments of x"
    law = torch.distributions.MultivariateNormal(x.mean(0), 1.2 * x.T.cov())
    z = law.mean + torch.randn(n, len(law.mean), generator=gen) @ law.scale_tril.T
    return ((-V(z) - law.log_prob(z)).logsumexp(0) - math.log(n)).item()


PROBLEMS = dict(mixture=mixture, posterior=posterior)

# --- the methods -----------------------------------------------------------------------------


class Clock:
    "CPU seconds since it was made, and what share of those allowed has gone"

    def __init__(self, seconds):
        self.seconds, self.begun = seconds, time.process_time()

    def gone(self):
        return (time.process_time() - self.begun) / self.seconds


def chains(law, clock, gen, jump=None):
    "Chains from the normal law, rounds until the time is up; the step is tuned in the first third."
    from nsgf_nb.family.mcmc import mala

    x, step, rounds = law.starts(COUNT, gen)[0], 0.1 * law.scale**2 / law.d ** (1 / 3), 0
    while (gone := clock.gone()) < 1:
        x = jump(x, gone) if jump else x
        x, rate = mala(x, law.logp, step, 4, gen)
        if gone < 1 / 3:  # the best rate in many dimensions is .57 (Roberts and Rosenthal, 1998)
            step *= math.exp(0.5 * (rate - 0.57))
        rounds += 1
    return x, dict(rounds=rounds, step=step, accepted=rate)


def by_mala(law, clock, gen, seed):
    "Steps of the Metropolis-adjusted Langevin algorithm alone"
    return chains(law, clock, gen)


def by_ex2(law, clock, gen, seed):
    "Jumps to one of ten candidates of the normal law, then four steps"
    from nsgf_nb.family.mcmc import isir

    draw = lambda n, g: law.starts(n, g)[0]
    jump = lambda x, gone: isir(x, law.logp, draw, law.log_start, 10, gen)[0]
    return chains(law, clock, gen, jump)


def by_flex2(law, clock, gen, seed):
    "Candidates of a mixture that is fitted to the chains, until three quarters of the time"
    from nsgf_nb.family.mcmc import FlexProposal, NormalMixture, isir

    first = law.starts(8, gen)[0]
    flex = FlexProposal(law.d, law.scale, NormalMixture(first))

    def jump(x, gone):
        if gone < 3 / 4:
            flex.fit(x)
        return isir(x, law.logp, flex.draw, flex.log_q, 10, gen)[0]

    return chains(law, clock, gen, jump)


def couplings(law, clock, gen, seed):
    "Eight couplings that minimise E W until the time is up: ends of paths, their W, and the steps"
    from nsgf_nb.family.energies import KL
    from nsgf_nb.family.jko import Composition
    from nsgf_nb.family.stochastic import Coupling

    torch.manual_seed(seed)
    flow, steps = Composition([Coupling(law.d, k % 2 == 1) for k in range(8)]), 0
    search = torch.optim.Adam(flow.parameters(), lr=5e-3)
    while (gone := clock.gone()) < 1:
        search.param_groups[0]["lr"] = 5e-3 * (1 + math.cos(math.pi * gone)) / 2
        x, path = flow.along(*law.starts(512, gen))
        search.zero_grad()
        KL(law.V).value(x, logp=path).backward()
        search.step()
        steps += 1
    with torch.no_grad():
        x, path = flow.along(*law.starts(10 * COUNT, gen))
    return x, path + law.V(x), steps


def by_couplings(law, clock, gen, seed):
    "Samples of the couplings as they are"
    x, W, steps = couplings(law, clock, gen, seed)
    return x[:COUNT], dict(steps=steps, kl=W.mean().item() + law.log_norm)


def by_weights(law, clock, gen, seed):
    "Samples of the couplings, ten times as many, drawn by the weights of their paths"
    x, W, steps = couplings(law, clock, gen, seed)
    w = (-W).softmax(0)
    rows = torch.multinomial(w, COUNT, replacement=True, generator=gen)
    return x[rows], dict(steps=steps, share=(1 / w.square().sum() / len(w)).item())


def by_maps(name, lr):
    "Maps of implicit steps, as many as there is time for"

    def sample(law, clock, gen, seed):
        import nsgf_nb
        from nsgf_nb.family.energies import KL
        from nsgf_nb.family.jko import jko
        from nsgf_nb.family.jko_maps import folded

        bank = law.starts(8192, gen)
        options = dict(block=getattr(nsgf_nb, name), lr=lr, seed=seed, iterations=200)
        jko(*bank, KL(law.V), [0.25], **options)
        num = max(1, int((1 - clock.gone()) / clock.gone()))
        maps = jko(*bank, KL(law.V), [0.25] * num, **options)
        start, logp = law.starts(COUNT, gen)
        x, after = maps.push(start, logp)[-1]
        kl = (after + law.V(x)).mean().item() + law.log_norm
        return x, dict(steps=num, kl=kl, folded=folded(maps, start).float().mean().item())

    return sample


METHODS = {
    "mala": by_mala,
    "Ex²": by_ex2,
    "FlEx²": by_flex2,
    "couplings": by_couplings,
    "couplings, weighted": by_weights,
    "JKO, residual": by_maps("Residual", 5e-3),
    "JKO, convex": by_maps("Convex", 2e-2),
    "JKO, ODE": by_maps("ODEBlock", 5e-3),
}

# --- how good the points are -----------------------------------------------------------------


def judged(name, law, x):
    "Distances to the reference, and the same of other draws: the floor"
    from nsgf_nb.distances import mmd

    known, other = law.draws.split(COUNT)
    deviation = known.std(0)
    row = {}
    for kind, z in (("", x), ("_floor", other)):
        row[f"mmd{kind}"] = mmd(z / deviation, known / deviation)
        mean = (z.mean(0) - known.mean(0)) / deviation
        row[f"mean{kind}"] = mean.square().mean().sqrt().item()
        row[f"variance{kind}"] = (z.var(0) / known.var(0)).mean().item()
        if name == "mixture":
            near = torch.cdist(z, centres()).argmin(1)
            shares = torch.bincount(near, minlength=4) / len(z)
            row[f"masses{kind}"] = (shares - MASSES).abs().sum().item() / 2
    return row


def one(name, method, seed, seconds):
    "A run, judged and written"
    from nsgf_nb.core import make_generator

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    key = dict(problem=name, method=method, seed=seed, asked=seconds)
    if has_row(RESULT, key):
        return
    law, gen = PROBLEMS[name](), make_generator(seed, f"family {method}")
    clock = Clock(seconds)
    x, told = METHODS[method](law, clock, gen, seed)
    row = key | dict(seconds=clock.gone() * seconds) | told | judged(name, law, x.detach())
    add_rows(RESULT, row)
    said = {k: round(row[k], 3) for k in ("kl", "masses", "mean", "variance", "mmd") if k in row}
    print(f"{name}, {method}, seed {seed}: {row['seconds']:.0f} s, {said}", flush=True)


SHOWN = "kl", "folded", "masses", "masses_floor", "mean", "variance", "mmd", "mmd_floor"


def main():
    parser = table_options(__doc__, [0, 1, 2])
    parser.add_argument("--problems", nargs="+", default=list(PROBLEMS), choices=PROBLEMS)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--seconds", type=float, default=40.0)
    a = parser.parse_args()
    if a.show:
        return show_means(RESULT, PROBLEMS, METHODS, SHOWN)
    run_all(one, product(a.problems, a.methods, a.seeds, [a.seconds]), a.jobs)


if __name__ == "__main__":
    main()
