"""NSGF++ beside flow matching and OT-CFM on images: choices on digits, final runs on MNIST.

    python bench/mnist.py --part PART [options]

digits [--seeds 3]
    ablations of NSGF++ on the 8 × 8 digits (half an hour on one core)
trials
    short runs of the settings in TRIALS, as many for each method (two hours and a half on one core)
finalists [--folder runs/mnist]
    the best of them at full length (an hour on one core)
final [--folder runs/mnist] [--methods FM OT-CFM NSGF++] [--seed 0] [--set mnist]
    equal CPU time, scores, samples; --set fashionmnist: with the same settings
long [--folder runs/mnist] [--methods FM OT-CFM NSGF++] [--seed 0]
    the same settings with seven times the steps (an hour of one core for each method)
times [--folder runs/mnist] [--methods FM OT-CFM NSGF++] [--seed 0] [--set mnist]
      [--fits final] [--solvers euler midpoint]
    the final fits, or the long ones of MNIST, with steps at fitted times (some five minutes for
    each method); heun is a solver, too
transport [--folder runs/mnist]
    digits of MNIST carried to FashionMNIST: scores, and what the transport costs
few [--folder runs/mnist]
    samples of the long fits with five calls
extras [--folder runs/mnist]
    samples to look at, transition times, a control of the test for mirrored digits

The model that comes with the package is the long fit of NSGF++, seed 0, gone on with:
more [--folder runs/mnist]
    6000 more steps from its weights, at half the rate (half an hour on one core)
model [--folder runs/mnist]
    what 10 000 samples say before and after, at ten and at sixty calls, and at ten with fitted
    times (20 minutes on one core for each)
ship [--folder runs/mnist]
    the weights into the package, in bfloat16

Each part goes on where it was stopped: rows that bench/results/digits.json or mnist.json hold are
kept, an unfinished fit is resumed. Times are CPU seconds of one thread, so that other work on the
machine does not count. Trials are judged against training images with samples of seed 90, final
runs against the test set with samples of their own seed. The images are read from $NSGF_DATA
(else ./data).
"""

import argparse
import json
import os
import shutil
import time
import warnings
from pathlib import Path

import torch
from record import ROOT, locked, modules, revision, write

RESULTS = ROOT / "bench" / "results"
NFES = (5, 10, 20)
LONGER = 7  # times the steps of a final run
# of steps that go on from a long fit; the average has as large a share of them
MORE = dict(iterations=6000, lr=2e-3, ema=0.9992)


def read(path):
    return json.loads(path.read_text()) if path.exists() else {}


def note(file, value, *keys):
    "Put a value into a JSON file that other processes write into as well"
    with locked(file) as inner:
        for k in keys[:-1]:
            inner = inner.setdefault(k, {})
        inner[keys[-1]] = value


def cpu(f):
    "What f returns, and the CPU seconds that it took"
    start = time.process_time()
    return f(), time.process_time() - start


def calls(flow, nfe, solver):
    "Arguments of sample for at most so many calls of the networks: a midpoint step takes two"
    first = flow.sinkhorn.num_steps if hasattr(flow, "sinkhorn") else 0
    return dict(num_steps=(nfe - first) // (1 if solver == "euler" else 2), solver=solver)


# --- digits ---------------------------------------------------------------------------------------

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


def variance(x):
    "Of all coordinates together"
    return x.flatten(1).var(0).sum().item()


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


# --- MNIST ----------------------------------------------------------------------------------------


def two_phases(total, T, step_size, start, coupling, first=600, lr=2e-3, ema=0.99, batch_size=128):
    """Arguments of NSGFPlusPlus whose straight phase takes so many optimiser steps.

    The first phase has a small network, whose steps cost a fiftieth.
    """
    return dict(
        sinkhorn=dict(
            num_steps=T,
            step_size=step_size,
            relative_blur=0.15,
            group=1024,
            pool_size=16384,
            iterations=first,
            lr=lr,
            ema=ema,
            batch_size=128,
            network="mlp",
        ),
        straight=dict(coupling=coupling, iterations=total, lr=lr, ema=ema, batch_size=batch_size),
        start=start,
    )


def one_phase(total, coupling, lr=2e-3, ema=0.99, batch_size=128):
    return dict(coupling=coupling, iterations=total, lr=lr, ema=ema, batch_size=batch_size)


def _short(coupling):
    "Trials of a straight flow: learning rates, then batches of another size for the same cost"
    return {f"lr {lr:g}": one_phase(500, coupling, lr) for lr in (2e-3, 4e-3, 1e-3, 8e-3)} | {
        f"lr {lr:g}, batches of {b}": one_phase(64000 // b, coupling, lr, batch_size=b)
        for lr, b in (
            (4e-3, 64),
            (4e-3, 256),
            (4e-3, 32),
            (8e-3, 64),
            (2e-3, 64),
            (6e-3, 64),
            (2e-3, 32),
            (8e-3, 32),
        )
    }


TRIALS = {
    "FM": _short("independent"),
    "OT-CFM": _short("ot"),
    "NSGF++": {
        f"T = {T}, step {e:g}": two_phases(460, T, e, "source", "ot", lr=4e-3)
        for T, e in ((1, 0.36), (2, 0.2), (1, 0.2))
    }
    | {
        f"T = {T}, step {e:g}, start sinkhorn": two_phases(460, T, e, "sinkhorn", "ot", lr=4e-3)
        for T, e in ((1, 0.3), (1, 0.5), (2, 0.2))
    }
    | {
        f"T = {T}, step {e:g}, start sinkhorn, batches of 64": two_phases(
            920, T, e, "sinkhorn", "ot", lr=4e-3, batch_size=64
        )
        for T, e in ((1, 0.5), (2, 0.2))
    }
    | {
        f"T = 1, step {e:g}, start sinkhorn, lr {lr:g}, batches of {b}": two_phases(
            58880 // b, 1, e, "sinkhorn", "ot", lr=lr, batch_size=b
        )
        for e, lr, b in ((0.7, 4e-3, 64), (0.5, 2e-3, 64), (0.5, 4e-3, 32), (0.5, 2e-3, 32))
    },
}
# Two trials of each method at full length: the best of the first eight and the best of all, by the
# geometric mean over 5, 10 and 20 calls, and what is best on digits; numbers of steps for ten
# minutes of one core, NSGF++ with its pool.
FINALISTS = {
    "FM": {
        "lr 0.004, batches of 32": one_phase(4300, "independent", 4e-3, ema=0.998, batch_size=32),
        "lr 0.002, batches of 32": one_phase(4300, "independent", 2e-3, ema=0.998, batch_size=32),
    },
    "OT-CFM": {
        "lr 0.004, batches of 64": one_phase(2500, "ot", 4e-3, ema=0.998, batch_size=64),
        "lr 0.002, batches of 32": one_phase(4300, "ot", 2e-3, ema=0.998, batch_size=32),
    },
    "NSGF++": {
        "T = 1, step 0.5, start sinkhorn, batches of 64": two_phases(
            2380, 1, 0.5, "sinkhorn", "ot", lr=4e-3, ema=0.998, batch_size=64
        ),
        "T = 1, step 0.5, start sinkhorn, lr 0.002, batches of 32": two_phases(
            4150, 1, 0.5, "sinkhorn", "ot", lr=2e-3, ema=0.998, batch_size=32
        ),
        "T = 3, step 0.2, start sinkhorn, batches of 64": two_phases(
            2380, 3, 0.2, "sinkhorn", "ot", lr=4e-3, ema=0.998, batch_size=64
        ),
    },
}
# the better finalists
FINAL = {
    m: FINALISTS[m][name]
    for m, name in (
        ("FM", "lr 0.002, batches of 32"),
        ("OT-CFM", "lr 0.004, batches of 64"),
        ("NSGF++", "T = 1, step 0.5, start sinkhorn, batches of 64"),
    )
}


def mnist(train=True, name="mnist"):
    from nsgf_nb.data import get_sampler

    return get_sampler(name, root=os.environ.get("NSGF_DATA", "data"), train=train, download=False)


def make(arguments):
    from nsgf_nb.plusplus import NSGFPlusPlus
    from nsgf_nb.straight import StraightFlow

    return (NSGFPlusPlus if "sinkhorn" in arguments else StraightFlow)(**arguments, device="cpu")


def scored(flow, real, nfes, n, seed, full=False, name="mnist"):
    "Scores by number of calls and solver, by the features of the classifier of a set"
    from nsgf_nb.evaluation.classifier import lenet_features
    from nsgf_nb.evaluation.frechet import frechet
    from nsgf_nb.fid import image_scores

    net = f"lenet-{name}"
    out, features = {}, lenet_features(real, net)
    for nfe in nfes:
        for solver in ("euler", "midpoint"):
            x, seconds = cpu(
                lambda: flow.sample(n, seed=seed, batch_size=250, **calls(flow, nfe, solver))
            )
            out[f"{nfe} {solver}"] = (
                image_scores(x, real, net)
                if full
                else {"FID-LeNet": float(frechet(lenet_features(x, net), features))}
            ) | dict(n=n, seconds=seconds)
    return out


def validated(kind, method, name, arguments, flow, seconds):
    "Note what 1000 samples of a seed of their own score against training images"
    from nsgf_nb.core import make_generator

    scores = scored(flow, mnist()(10_000, make_generator(1, "real"))[0], NFES, 1000, 90)
    note(
        RESULTS / "mnist.json",
        dict(arguments=arguments, seconds=seconds, scores=scores, revision=revision()),
        kind,
        method,
        name,
    )
    print(
        f"{method:8} {name:56} {seconds:4.0f} s   FID-LeNet "
        + ", ".join(f"{v['FID-LeNet']:.1f} at {k}" for k, v in scores.items()),
        flush=True,
    )


def trials(methods, only, folder):
    file = RESULTS / "mnist.json"
    for method in methods:
        for name, arguments in TRIALS[method].items():
            if only not in name or name in read(file).get("trials", {}).get(method, {}):
                continue
            flow, at = make(arguments), place(folder, method, "trials")
            at.mkdir(parents=True, exist_ok=True)
            if arguments.get("start") != "source":
                _, seconds = cpu(lambda: flow.fit(mnist(), seed=7, progress=False))
            else:
                # these differ in the first phase only: the straight one, which starts at the
                # source, is fitted once
                shutil.rmtree(at / "parts" / "sinkhorn", ignore_errors=True)
                _, seconds = cpu(
                    lambda: flow.fit(mnist(), seed=7, workdir=at, resume=True, progress=False)
                )
            validated("trials", method, name, arguments, flow, seconds)


def place(folder, method, what):
    return folder / f"{method.replace('+', 'p')}-{what}"


def fitted(at, flow, seed, target, source=None):
    "The fit of a flow in a folder, begun, gone on with or only read, and its CPU seconds"
    from nsgf_nb.learning.model import Flow

    at.mkdir(parents=True, exist_ok=True)
    done, clock = at / "model.safetensors", at / "seconds.json"
    if not done.exists():
        before, start = read(clock).get("seconds", 0.0), time.process_time()

        def tick(row=None):
            "At each row of the history, so that a fit that is stopped keeps its seconds"
            write(clock, dict(seconds=before + time.process_time() - start))

        how = dict(seed=seed, workdir=at, resume=True, callbacks=[tick], progress=False)
        flow.fit(target, source, **how)
        tick()
        flow.save(done)
    return Flow.load(done, device="cpu"), read(clock)["seconds"]


def finalists(methods, folder):
    "Fits of full length judged as the trials were; the setting in FINAL has its final fit, seed 0"
    for method in methods:
        for i, (name, arguments) in enumerate(FINALISTS[method].items()):
            if name in read(RESULTS / "mnist.json").get("finalists", {}).get(method, {}):
                continue
            flow, seconds = fitted(
                place(folder, method, 0 if arguments == FINAL[method] else f"finalist-{i}"),
                make(arguments),
                0,
                mnist(),
            )
            validated("finalists", method, name, arguments, flow, seconds)


def final_fit(seed, name):
    "What the folder of a final fit is called after its method"
    return str(seed) if name == "mnist" else f"{name}-{seed}"


def final(methods, folder, seed, name):
    "Fits with the settings in FINAL, which MNIST chose"
    for method in methods:
        at = place(folder, method, final_fit(seed, name))
        kind = "final" if name == "mnist" else f"final {name}"
        run_of(kind, at, method, FINAL[method], seed, name, NFES)


def longer(arguments):
    "The same setting with more steps, averaged over as large a share of them"
    part = arguments["straight"] if "sinkhorn" in arguments else arguments
    steps, ema = LONGER * part["iterations"], 1 - (1 - part["ema"]) / LONGER
    part = part | dict(iterations=steps, ema=ema)
    return arguments | dict(straight=part) if "sinkhorn" in arguments else part


def long(methods, folder, seed):
    "An hour for each"
    for method in methods:
        at = place(folder, method, f"long-{seed}")
        run_of("long", at, method, longer(FINAL[method]), seed, "mnist", (*NFES, 60))


def more(folder):
    "The long fit of NSGF++, seed 0, gone on with: the straight flow begins at its weights"
    arguments = longer(FINAL["NSGF++"])
    arguments["straight"] |= MORE
    first = known_fit(folder, "NSGF++", "long-0").straight.net
    flow = make(arguments | dict(straight=arguments["straight"] | dict(network=first)))
    run_of("more", place(folder, "NSGF++", "more"), "NSGF++", arguments, 1, "mnist", NFES, flow)


def run_of(kind, at, method, arguments, seed, name, nfes, flow=None):
    "A fit, and what 2000 samples of it score against the test set"
    from nsgf_nb.core import make_generator

    flow, seconds = fitted(at, flow or make(arguments), seed, mnist(name=name))
    real = mnist(False, name)(10_000, make_generator(0, "test"))[0]
    scores = scored(flow, real[:2000], nfes, 2000, seed, full=True, name=name)
    rows = [
        {k: round(v, 5) if isinstance(v, float) else v for k, v in r.items() if k != "rate"}
        for r in flow.history
    ]
    note(
        RESULTS / "mnist.json",
        dict(
            arguments=arguments,
            seconds=seconds,
            scores=scores,
            history=rows,
            revision=revision(),
            modules=modules("plusplus", "fid", "evaluation.copies"),
        ),
        kind,
        method,
        str(seed),
    )
    print(
        f"{kind}: {method:8} seed {seed} {seconds:4.0f} s   FID-LeNet "
        + ", ".join(f"{v['FID-LeNet']:.1f} at {k}" for k, v in scores.items()),
        flush=True,
    )


def known_fit(folder, method, what):
    "A fit from its file"
    from nsgf_nb.learning.model import Flow

    return Flow.load(place(folder, method, what) / "model.safetensors", device="cpu")


def times(methods, folder, seed, name, fits, solvers):
    "Scores of the same 2000 samples with steps at fitted times; 64 starts decide these"
    from nsgf_nb.core import make_generator

    what, kind = (
        (f"long-{seed}", "times") if fits == "long" else (final_fit(seed, name), f"times {name}")
    )
    real = mnist(False, name)(10_000, make_generator(0, "test"))[0][:2000]
    for method in methods:
        known = read(RESULTS / "mnist.json").get(kind, {}).get(method, {}).get(str(seed), {})
        found = known.get("scores", {})
        for solver in solvers:
            if f"{NFES[0]} {solver}" in found:
                continue
            found |= at_fitted_times(known_fit(folder, method, what), real, solver, seed, name)
            row = dict(scores=found, revision=revision())
            row["modules"] = modules("plusplus", "fid", "matching.few_steps")
            note(RESULTS / "mnist.json", row, kind, method, str(seed))
        print(
            f"{kind}: {method:8} seed {seed}   FID-LeNet "
            + ", ".join(f"{v['FID-LeNet']:.1f} at {k}" for k, v in found.items()),
            flush=True,
        )


def at_fitted_times(flow, real, solver, seed, name):
    "Scores by number of calls"
    from nsgf_nb.fid import image_scores
    from nsgf_nb.matching.few_steps import best_steps, step_errors

    fine, found = [k / 32 for k in range(33)], {}
    with torch.no_grad():
        errors, spent = cpu(lambda: step_errors(*flow.paths(64, 1000), fine, solver))
    for nfe in NFES:
        number = calls(flow, nfe, solver)["num_steps"]
        steps = [fine[i] for i in best_steps(errors, number)]
        x = flow.sample(len(real), seed=seed, batch_size=250, times=steps, solver=solver)
        scores = image_scores(x, real, f"lenet-{name}")
        found[f"{nfe} {solver}"] = scores | dict(times=steps, fitted_in=spent)
    return found


def few(folder):
    "64 samples of the long fits of seed 0 with five calls, equal steps of Euler and fitted times"
    from nsgf_nb.files import save_tensors
    from nsgf_nb.matching.few_steps import fitted_times

    drawn = {}
    for method in FINAL:
        flow = known_fit(folder, method, "long-0")
        number = calls(flow, 5, "euler")["num_steps"]
        drawn[f"{method}, equal steps"] = flow.sample(64, seed=0, num_steps=number)
        steps = fitted_times(flow, number, seed=1000)
        drawn[f"{method}, fitted times"] = flow.sample(64, seed=0, times=steps)
    drawn = {name: byte(x) for name, x in drawn.items()}
    save_tensors(RESULTS / "mnist-few.safetensors", drawn, dict(kind="samples"))


def transport(folder):
    """Digits carried to FashionMNIST by a flow that has MNIST as its source.

    Scores of 2000, and mean squares of the way beside those of independent and of optimal pairs.
    """
    from nsgf_nb.core import make_generator
    from nsgf_nb.evaluation.classifier import class_shares
    from nsgf_nb.fid import image_scores
    from nsgf_nb.files import save_tensors
    from nsgf_nb.straight import assign

    digits, items = (
        mnist(False, name)(2000, make_generator(0, "transport"))[0]
        for name in ("mnist", "fashionmnist")
    )
    square = lambda x, y: float((x - y).square().flatten(1).sum(1).mean())
    flow, seconds = fitted(
        place(folder, "NSGF++", "fashion"),
        make(FINAL["NSGF++"]),
        0,
        mnist(name="fashionmnist"),
        mnist(),
    )
    scores, drawn = (
        {},
        {"MNIST": byte(digits[:20]), "Sinkhorn phase": byte(flow.sinkhorn.sample(x0=digits[:20]))},
    )
    for nfe in NFES:
        y = flow.sample(x0=digits, batch_size=250, **calls(flow, nfe, "euler"))
        scores[str(nfe)] = image_scores(y, items, "lenet-fashionmnist") | dict(
            way=square(digits, y), least_class=float(class_shares(y, "lenet-fashionmnist").min())
        )
        drawn[f"{nfe} calls"] = byte(y[:20])
    save_tensors(RESULTS / "mnist-transport.safetensors", drawn, dict(kind="samples"))
    note(
        RESULTS / "mnist.json",
        dict(
            seconds=seconds,
            scores=scores,
            independent=square(digits, items),
            optimal=square(digits, items[assign(digits, items)]),
            revision=revision(),
        ),
        "transport",
    )
    print(
        f"{seconds:4.0f} s   FID-LeNet "
        + ", ".join(f"{v['FID-LeNet']:.1f} at {k}, way {v['way']:.0f}" for k, v in scores.items()),
        flush=True,
    )


def byte(x):
    return ((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def finals(folder):
    from nsgf_nb.learning.model import Flow

    return {m: Flow.load(place(folder, m, 0) / "model.safetensors", device="cpu") for m in FINAL}


def extras(folder):
    """Samples to look at, transition times of particles, and the test for mirrored digits.

    The test is tried where every twentieth sample is mirrored, and where none is.
    """
    from nsgf_nb.core import make_generator
    from nsgf_nb.estimator import SinkhornVelocity
    from nsgf_nb.evaluation.copies import mirrored_share
    from nsgf_nb.files import save_tensors
    from nsgf_nb.learning.model import Fit
    from nsgf_nb.learning.training import Task, TrainingOptions, train
    from nsgf_nb.matching.phase import PhasePredictor
    from nsgf_nb.particles import particle_flow
    from nsgf_nb.sets.ends import ends, group_clouds
    from nsgf_nb.straight import StraightFlow

    file, flows, test_images = (
        RESULTS / "mnist.json",
        finals(folder),
        mnist(train=False)(10_000, make_generator(0, "test"))[0],
    )
    train_images = mnist()(20_000, make_generator(0, "train"))[0]
    drawn = {
        m: flow.sample(2000, seed=0, batch_size=250, **calls(flow, 10, "euler"))
        for m, flow in flows.items()
    }
    samples = {m: byte(x[:100]) for m, x in drawn.items()}
    samples["Sinkhorn phase"] = byte(flows["NSGF++"].sinkhorn.sample(100, seed=0))
    save_tensors(RESULTS / "mnist-samples.safetensors", samples, dict(kind="samples"))
    seen = {}
    for m, x in drawn.items():
        seen[m] = mirrored_share(x, test_images, train_images)
        x[::20] = x[::20].flip(-1)
        seen[f"{m}, one in twenty mirrored"] = mirrored_share(x, test_images, train_images)
    note(file, seen | dict(revision=revision()), "mirrored")
    print(
        {
            k: f"{v['share']:.3f} ± {v['error']:.3f}, flagged {v['flagged']:.3f}"
            for k, v in seen.items()
        },
        flush=True,
    )

    both = ends(mnist(), None, 0)
    pairs = StraightFlow(batch_size=128).task(both, Fit(seed=0))

    def points(step, part, net):
        x, t, *_ = pairs.rows(step, part, net)
        return x, t, t, None

    net = PhasePredictor(both.target.shape)
    options = TrainingOptions(iterations=800, lr=1e-3, ema=0.98)
    history = train(net, Task(points), options, show=False)

    def after(b):
        x0, y, _ = group_clouds(both.source, both.target, 500, 5, b)
        return particle_flow(x0, y, SinkhornVelocity(relative_blur=0.15, tol=1e-2), 5, 0.2)

    with torch.no_grad():
        tau = torch.cat([net((after(b) - both.mean) / both.sigma) for b in range(4)])
    note(
        file,
        dict(
            tau=[round(t, 4) for t in tau.tolist()], loss=history[-1]["loss"], revision=revision()
        ),
        "tau",
    )
    print(f"tau {tau.mean():.3f} ± {tau.std():.3f}")


SHIPPED = {"model": "long-0", "model more": "more"}  # where a judgement stands, and of which fit


def model(folder):
    "10 000 samples of the long fit of NSGF++, seed 0, and of what came of it"
    for where, what in SHIPPED.items():
        for nfe, kind in ((10, "equal"), (10, "fitted"), (60, "equal")):
            key = str(nfe) if kind == "equal" else f"{nfe} fitted"
            if key in read(RESULTS / "mnist.json").get(where, {}):
                continue
            out = judged(known_fit(folder, "NSGF++", what), nfe, kind)
            note(RESULTS / "mnist.json", out, where, key)
            print(
                f"{where}, {key} calls: FID-LeNet of 10 000 {out['scores']['FID-LeNet']:.2f}, "
                f"least class {min(out['shares']):.3f}, variance {out['variance']:.3f}, "
                f"mirrored {out['mirrored']['share']:.3f} ± {out['mirrored']['error']:.3f}, "
                f"copies {out['nearest']}",
                flush=True,
            )


def judged(flow, nfe, kind):
    "10 000 samples with midpoint steps, equal or fitted, beside as many test images"
    from nsgf_nb.core import make_generator
    from nsgf_nb.evaluation.classifier import class_shares
    from nsgf_nb.evaluation.copies import mirrored_share, nearest_distance
    from nsgf_nb.fid import image_scores
    from nsgf_nb.matching.few_steps import fitted_times

    train_images = mnist()(20_000, make_generator(0, "train"))[0]
    test_images = mnist(train=False)(10_000, make_generator(0, "test"))[0]
    how = calls(flow, nfe, "midpoint")
    if kind == "fitted":
        how["times"] = fitted_times(flow, how.pop("num_steps"), "midpoint", seed=1000)
    x, seconds = cpu(lambda: flow.sample(10_000, seed=0, batch_size=250, **how))
    return dict(
        nfe=nfe,
        sampling=seconds,
        scores=image_scores(x, test_images),
        shares=class_shares(x).tolist(),
        variance=variance(x) / variance(test_images),
        mirrored=mirrored_share(x, test_images, train_images),
        nearest=nearest_distance(x[:2000], train_images, test_images[:2000]),
        revision=revision(),
    )


def ship(folder):
    "The flow that the package ships: weights of the networks in bfloat16"
    from nsgf_nb.files import load_tensors, save_tensors

    at = place(folder, "NSGF++", "more")
    tensors, known = load_tensors(at / "model.safetensors", "flow")
    small = {k: v.bfloat16() if ".net." in k else v for k, v in tensors.items()}
    results = read(RESULTS / "mnist.json")
    long, after = results["long"]["NSGF++"]["0"], results["more"]["NSGF++"]["1"]
    about = dict(
        target="mnist",
        source=None,
        method="nsgf++",
        seed=1,
        parameters=after["arguments"],
        machine=dict(threads=1),
        script="python bench/mnist.py --part long --methods NSGF++ --seed 0, then --part more",
        revision=after["revision"],
        seconds=long["seconds"] + after["seconds"],
        metrics=results["model more"],
    )
    path = save_tensors(
        ROOT / "nsgf_nb" / "weights" / "nsgfpp-mnist.safetensors", small, known | dict(about=about)
    )
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")


def main():
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument(
        "--part",
        choices=(
            "digits",
            "trials",
            "finalists",
            "final",
            "long",
            "times",
            "few",
            "more",
            "transport",
            "extras",
            "model",
            "ship",
        ),
        required=True,
    )
    p.add_argument("--seeds", type=int, default=3)
    p.add_argument("--folder", type=Path, default=Path("runs/mnist"))
    p.add_argument("--methods", nargs="+", default=["FM", "OT-CFM", "NSGF++"])
    p.add_argument("--seed", type=int, default=0, help="of a final run")
    p.add_argument("--set", default="mnist", choices=("mnist", "fashionmnist"))
    p.add_argument("--fits", default="final", choices=("final", "long"), help="of times")
    p.add_argument("--solvers", nargs="+", default=["euler", "midpoint"], help="of times")
    p.add_argument("--only", default="", help="trials, or rows of digits, whose name holds this")
    a = p.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    if a.part == "digits":
        digits(a.seeds, a.only)
    if a.part == "extras":
        extras(a.folder)
    if a.part == "more":
        more(a.folder)
    if a.part == "model":
        model(a.folder)
    if a.part == "ship":
        ship(a.folder)
    if a.part == "trials":
        trials(a.methods, a.only, a.folder)
    if a.part == "transport":
        transport(a.folder)
    if a.part == "finalists":
        finalists(a.methods, a.folder)
    if a.part == "final":
        final(a.methods, a.folder, a.seed, a.set)
    if a.part == "long":
        long(a.methods, a.folder, a.seed)
    if a.part == "times":
        times(a.methods, a.folder, a.seed, a.set, a.fits, a.solvers)
    if a.part == "few":
        few(a.folder)


if __name__ == "__main__":
    main()
