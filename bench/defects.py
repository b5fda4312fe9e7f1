"""What each defect of the published code costs: switched on one by one, in the plane.

    python bench/defects.py                        all that is not in the file yet (an hour)
    python bench/defects.py --problems moons --only pairs --seeds 0
    python bench/defects.py --show                 the table of what is there

The last two variants have two phases: NSGF++ as it is published, and as it is here. Of these the
law at the transition is compared with that of the straight flow at the same times.

All fits have the same network, optimiser and number of steps, and pools of the same size. Each
defect is a few lines that break a method of this package in the way in which the published code
does it (its public repository, read in 2024). A fit is a row of bench/results/defects.json,
written when it is done; rows that are there are kept, so a stopped run goes on. Samples of 10
network calls are judged by the gate, and by variance and energy distance with its floor.
"""

import math
import statistics
import warnings
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from itertools import product
from unittest import mock

import torch
from equal_seconds import PROBLEMS, judged
from record import ROOT, add_rows, has_row, rows_of, run_all, table_options, with_words
from torch import nn

RESULT = ROOT / "bench" / "results" / "defects.json"
TRAINING = dict(iterations=4000, lr=8e-3, ema=0.998, device="cpu")
POOL = dict(pool_size=12288, group=512)
CALLS = 10


def network():
    "Of every fit"
    from nsgf_nb.learning.nets import MLP

    return MLP((2,), hidden=64, layers=6)


def nsgf(net=None, **options):
    "NSGF as it should be"
    from nsgf_nb import NSGF

    return NSGF(CALLS, network=net or network(), **TRAINING | POOL | options)


def ot_cfm(net=None):
    "OT-CFM as it should be"
    from nsgf_nb import StraightFlow

    return StraightFlow("ot", network=net or network(), **TRAINING)


def fm():
    "Flow matching: pairs by chance"
    from nsgf_nb import StraightFlow

    return StraightFlow(network=network(), **TRAINING)


def two_phases(**options):
    "NSGF++, with half of the steps for each phase"
    from nsgf_nb import NSGFPlusPlus

    half = TRAINING | dict(iterations=TRAINING["iterations"] // 2)
    del half["device"]
    first = dict(network=network(), **half, **POOL) | options.pop("sinkhorn", {})
    second = dict(network=network(), **half) | options.pop("straight", {})
    return NSGFPlusPlus(first, second, device="cpu", **options)


def published():
    "Five steps of .2 at a blur of .5, lines from the source, and a predicted time"
    steps = dict(num_steps=5, step_size=0.2, blur=0.5)
    lines = dict(coupling="independent")
    return two_phases(sinkhorn=steps, straight=lines, start="source", predictor="network")


# --- the defects -----------------------------------------------------------------------------


@contextmanager
def reversed_sign():
    "The recorded velocity is the gradient of S, while the particles go against it."
    from nsgf_nb import NSGF

    own = NSGF.task

    def task(self, ends, run):
        made = own(self, ends, run)

        def rows(*batch):
            x, t, goal, label = made.rows(*batch)
            return x, t, -goal, label

        return replace(made, rows=rows)

    with mock.patch.object(NSGF, "task", task):
        yield


class Clocked(nn.Module):
    "A network with another clock"

    def __init__(self, net, clock):
        super().__init__()
        self.net, self.clock = net, clock

    def forward(self, x, t):
        return self.net(x, self.clock(t, self.training))


def slow(t, training):
    "Trained on times from 0 to 10, and asked from 0 to 2."
    return t if training else t / 5


def stopped(t, training):
    "Every time is 0."
    return torch.zeros_like(t)


@contextmanager
def accumulated(steps=20):
    "Gradients are set to zero at every twentieth step only."
    own, count = torch.optim.AdamW.zero_grad, [0]

    def zero_grad(self, set_to_none=True):
        count[0] += 1
        if count[0] % steps == 0:
            own(self, set_to_none)

    usual = mock.patch("nsgf_nb.learning.training.compiled_module", lambda name: None)
    with usual, mock.patch.object(torch.optim.AdamW, "zero_grad", zero_grad):
        yield


class OnePass:
    "The gradient of GeomLoss, one pass with scaling .8, in place of a converged velocity"

    def __init__(self, blur, self_term="same", tol=1e-2):
        from geomloss import SamplesLoss

        self.blur = blur
        self.loss = SamplesLoss("sinkhorn", blur=blur, scaling=0.8, backend="tensorized")

    @torch.enable_grad()
    def __call__(self, x, y):
        x = x.detach().requires_grad_()
        (slope,) = torch.autograd.grad(self.loss(x, y).sum(), x)
        return -x.shape[-2] * slope


def one_pass():
    "Velocities of one pass"
    return mock.patch("nsgf_nb.flow.SinkhornVelocity", OnePass)


@contextmanager
def astray():
    "Pairs are drawn from the plan with replacement, and only their second ends are taken."
    from nsgf_nb import straight

    own = straight.assign

    def assign(x0, y):
        p = own(x0, y)
        return p[torch.randint(len(p), (len(p),), device=p.device)]

    with mock.patch.object(straight, "assign", assign):
        yield


VARIANTS = {  # words: a model that is not fitted, and the defect
    "NSGF": (nsgf, nullcontext),
    "NSGF, sign": (nsgf, reversed_sign),
    "NSGF, time scale": (lambda: nsgf(Clocked(network(), slow)), nullcontext),
    "NSGF, fixed time": (lambda: nsgf(Clocked(network(), stopped)), nullcontext),
    "NSGF, accumulated gradients": (nsgf, accumulated),
    "NSGF, one pass": (nsgf, one_pass),
    "NSGF, slow": (lambda: nsgf(lr=4e-4), nullcontext),
    "NSGF, slow, accumulated gradients": (lambda: nsgf(lr=4e-4), accumulated),
    "OT-CFM": (ot_cfm, nullcontext),
    "OT-CFM, pairs": (ot_cfm, astray),
    "OT-CFM, time scale": (lambda: ot_cfm(Clocked(network(), slow)), nullcontext),
    "OT-CFM, fixed time": (lambda: ot_cfm(Clocked(network(), stopped)), nullcontext),
    "OT-CFM, accumulated gradients": (ot_cfm, accumulated),
    "FM": (fm, nullcontext),
    "NSGF++, published": (published, nullcontext),
    "NSGF++": (two_phases, nullcontext),
}


# --- the runs --------------------------------------------------------------------------------


def transition(model, problem, seed, n=2000):
    "Distance of what enters the straight flow to that flow's own law at these times; its floor"
    from nsgf_nb.core import make_generator
    from nsgf_nb.data import get_sampler
    from nsgf_nb.distances import mmd

    begun = model.starts(n, None, seed)
    _, info = model.sample(x0=begun, return_info=True)
    entered, t = model.sinkhorn.sample(x0=begun), info.tau[:, None]
    target = get_sampler(PROBLEMS[problem][0])
    source = model.sinkhorn if model.start == "sinkhorn" else model.source

    def law(r):
        "Points on lines of fresh pairs"
        gen = make_generator(seed, "transition", r)
        drawn = source.sample(n, seed=seed + 50 + r) if source is model.sinkhorn else source(n, gen)
        return torch.lerp(drawn, target(n, gen), t[torch.randperm(n, generator=gen)])

    own, other = law(0), law(1)
    row = dict(transition=mmd(entered, own), transition_floor=mmd(other, own))
    return row | dict(
        tau=t.mean().item(), tau_sd=t.std().item(), calls=info.nfe.float().mean().item()
    )


def one(words, problem, seed):
    "A fit with its defect, judged and written"
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    key = dict(variant=words, problem=problem, seed=seed)
    if has_row(RESULT, key):
        return
    make, defect = VARIANTS[words]
    torch.manual_seed(seed)  # the weights of a network are drawn before the fit
    with defect():
        model = make().fit(*PROBLEMS[problem], seed=seed, progress=False)
    phases = words.startswith("NSGF++")
    row = key | judged(model, problem, None if phases else CALLS, seed)
    if phases:
        row |= transition(model, problem, seed)
    # a ratio is infinite where a cloud stays empty, and JSON knows no infinity
    known = lambda v: not isinstance(v, float) or math.isfinite(v)
    row = {k: v if known(v) else None for k, v in row.items()}
    add_rows(RESULT, row, training=TRAINING | POOL, calls=CALLS)
    names = "ratio", "variance", "mmd", "mmd_floor"
    said = {k: round(row[k] or math.nan, 4) for k in names}
    print(f"{problem}, seed {seed}, {words}: {said}", flush=True)


def show():
    "Mean and spread of the ratio, variance and energy distance"
    rows = rows_of(RESULT)
    for problem, words in product(PROBLEMS, VARIANTS):
        those = [r for r in rows if (r["problem"], r["variant"]) == (problem, words)]
        if not those:
            continue
        ratios = [r["ratio"] for r in those]
        ratio = "∞"  # a cloud stays empty
        if None not in ratios:
            spread = statistics.stdev(ratios) if len(ratios) > 1 else 0
            ratio = f"{statistics.mean(ratios):.2f} ± {spread:.2f}"
        rest = [f"{k} {statistics.mean(r[k] for r in those):.3f}" for k in ("variance", "mmd")]
        print(f"{problem:<13} {words:<30} {ratio}", *rest, f"({len(those)} seeds)")


def main():
    parser = table_options(__doc__, [0, 1, 2, 3, 4])
    plane = ["8gaussians", "moons", "checkerboard"]
    parser.add_argument("--problems", nargs="+", default=plane, choices=PROBLEMS)
    parser.add_argument("--only", nargs="+", help="variants that have one of these words")
    a = parser.parse_args()
    if a.show:
        return show()
    todo = product(a.seeds, a.problems, with_words(VARIANTS, a.only))
    run_all(one, [(words, problem, seed) for seed, problem, words in todo], a.jobs)


if __name__ == "__main__":
    main()
