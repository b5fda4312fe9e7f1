"""Choices for NSGF++ on the 8 × 8 digits: one thing at a time.

    python bench/digits.py [--seeds 3] [--only ""]

Half an hour on one core. Rows that bench/results/digits.json holds are kept.
"""

import argparse
import warnings

import torch
from images import RESULTS, calls, cpu, note, read, variance
from record import revision

BASE = dict(
    T=1, step_size=0.2, start="sinkhorn", relative_blur=0.15, self_term="same", coupling="ot"
)


ABLATIONS = (
    {"FM": None, "OT-CFM": None}
    | {
        f"T = {T}, start {start}": dict(T=T, start=start)
        for T in (1, 3, 5)
        for start in ("source", "sinkhorn")
    }
    | {
        "blur .05": dict(relative_blur=0.05),
        "blur .5": dict(relative_blur=0.5),
        "blur 1": dict(relative_blur=1.0),
        "self term masked": dict(self_term="masked"),
        "self term two_batch": dict(self_term="two_batch"),
        "independent pairs": dict(coupling="independent"),
    }
    | {f"one network, T = {T}": dict(T=T, one=True) for T in (1, 3)}
    # the batches that one network has of each kind
    | {f"two networks, 2000 steps of 32 and of 96, T = {T}": dict(T=T, small=True) for T in (1, 3)}
)


def digits_split():
    "1297 digits to train on, 500 to test with"
    from nsgf_nb.core import make_generator
    from nsgf_nb.data import get_sampler

    x, _ = get_sampler("digits")(1797, make_generator(0, "split"))
    return x[:1297], x[1297:]


def digits_flow(name, change, iterations=2000, first=500):
    from nsgf_nb.plusplus import NSGFPlusPlus
    from nsgf_nb.straight import StraightFlow

    if change is None:
        return StraightFlow(
            "ot" if name == "OT-CFM" else "independent",
            iterations=iterations,
            batch_size=128,
            lr=2e-3,
        )
    c = BASE | change
    (first, rows), (second, lines) = (
        ((iterations, 32), (iterations, 96))
        if "small" in c
        else ((first, 128), (iterations - first, 128))
    )
    return NSGFPlusPlus(
        dict(
            num_steps=c["T"],
            step_size=c["step_size"],
            relative_blur=c["relative_blur"],
            self_term=c["self_term"],
            group=512,
            pool_size=8192,
            iterations=first,
            batch_size=rows,
            lr=2e-3,
        ),
        dict(coupling=c["coupling"], iterations=second, batch_size=lines, lr=2e-3),
        start=c["start"],
    )


class Entered(torch.nn.Module):
    "A network of natural time, asked with the time of the straight phase"

    def __init__(self, net, tau):
        super().__init__()
        self.net, self.tau = net, tau

    def forward(self, x, t):
        return self.net(x, self.tau + (1 - self.tau) * t)


def one_network(flow, data, seed, iterations=2000):
    """Fit both phases of flow with one network in natural time.

    Below the transition it learns rows of the pool, above it rows of lines, as many of each kind as
    two networks see. The lines begin at what a first phase of its own makes of the source, which is
    fitted before and costs extra.
    """
    from nsgf_nb.learning.model import Fit
    from nsgf_nb.learning.nets import Field
    from nsgf_nb.learning.networks import make_network
    from nsgf_nb.learning.training import Task, TrainingOptions, train
    from nsgf_nb.sets.ends import ends
    from nsgf_nb.transport.clock import natural_time, step_sizes

    first, straight = flow.sinkhorn, flow.straight
    tau = natural_time(step_sizes(first.num_steps, first.step_size))[-1]
    straight.start = first.fit(data, seed=seed, progress=False)
    both = ends(data, None, seed)
    first.batch_size, straight.batch_size = 32, 96
    run = Fit(seed, progress=False)
    below = first.task(both, run)
    above = straight.task(both._replace(source=straight.begin(both.source)), run)

    def rows(step, part, net):
        x, t, v, _ = below.rows(step, part, net)
        z, r, u, _ = above.rows(step, part, net)
        return torch.cat([x, z]), torch.cat([t, tau + (1 - tau) * r]), torch.cat([v, u]), None

    torch.manual_seed(seed)
    net, mean, sigma = make_network(None, both.target.shape), both.mean, both.sigma
    options = TrainingOptions(iterations=iterations, lr=2e-3, ema=0.999)
    train(net, Task(rows), options, seed=seed, show=False)
    first.velocity = Field(net, mean, sigma, below.knots, below.units).eval()
    flow.velocity = straight.velocity = Field(
        Entered(net, tau), mean, sigma, torch.zeros(1), torch.ones(1)
    ).eval()
    flow.source = both.source
    return flow


def digits(seeds, only=""):
    """How near 500 samples are to the 500 digits kept aside, means over five draws.

    W2, the energy distance, and the total variance of the samples. W2 between so few points in 64
    dimensions is less for points that are nearer to their mean than the data, whose rows are beside
    it: the energy distance is not deceived.
    """
    from nsgf_nb.core import make_generator
    from nsgf_nb.distances import energy_distance, w2

    file = RESULTS / "digits.json"
    train, test = digits_split()

    def judged(draws):
        return {
            "W2": [w2(x, test) for x in draws],
            "energy": [energy_distance(x, test) for x in draws],
            "variance": [variance(x) for x in draws],
        }

    real = [
        train[torch.randperm(len(train), generator=make_generator(r, "pick"))[:500]]
        for r in range(5)
    ]
    note(
        file,
        dict(floor=judged(real), shrunk=judged([torch.lerp(x, x.mean(0), 0.1) for x in real])),
        "real",
    )
    note(file, BASE, "base")
    for name, change in ABLATIONS.items():
        if only not in name:
            continue
        for seed in range(seeds):
            if f"{name}/{seed}" in read(file).get("rows", {}):
                continue
            flow = digits_flow(name, change)
            _, seconds = cpu(
                lambda: (
                    one_network(flow, train, seed)
                    if change and "one" in change
                    else flow.fit(train, seed=seed, progress=False)
                )
            )
            row = {
                str(nfe): {
                    k: sum(v) / 5
                    for k, v in judged(
                        flow.sample(2500, seed=1000 + seed, **calls(flow, nfe, "euler")).split(500)
                    ).items()
                }
                for nfe in (6, 10, 20)
            }
            note(
                file,
                dict(scores=row, seconds=seconds, revision=revision()),
                "rows",
                f"{name}/{seed}",
            )
            print(
                f"{name:50} seed {seed}   "
                + ", ".join(
                    f"W2 {v['W2']:.3f} energy {v['energy']:.4f} at {k}" for k, v in row.items()
                )
                + f"   {seconds:.0f} s",
                flush=True,
            )


def main():
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--seeds", type=int, default=3)
    p.add_argument("--only", default="", help="rows whose name holds this")
    a = p.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    digits(a.seeds, a.only)


if __name__ == "__main__":
    main()
