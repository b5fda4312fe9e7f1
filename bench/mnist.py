"""NSGF++ beside flow matching and OT-CFM on MNIST: settings, final runs, long fits.

    python bench/mnist.py --part PART [options]

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

Each part goes on where it was stopped: rows that bench/results/mnist.json holds are kept, an
unfinished fit is resumed. Times are CPU seconds of one thread, so that other work on the machine
does not count. Trials are judged against training images with samples of seed 90, final runs
against the test set with samples of their own seed. The images are read from $NSGF_DATA
(else ./data).
"""

import argparse
import shutil
import warnings
from pathlib import Path

import torch
from images import RESULTS, byte, calls, cpu, fitted, make, mnist, note, place, read
from record import modules, revision

NFES = (5, 10, 20)
LONGER = 7  # times the steps of a final run
PARTS = ("trials", "finalists", "final", "long", "times", "transport", "few", "extras")


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


def main():
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--part", choices=PARTS, required=True)
    p.add_argument("--folder", type=Path, default=Path("runs/mnist"))
    p.add_argument("--methods", nargs="+", default=["FM", "OT-CFM", "NSGF++"])
    p.add_argument("--seed", type=int, default=0, help="of a final run")
    p.add_argument("--set", default="mnist", choices=("mnist", "fashionmnist"))
    p.add_argument("--fits", default="final", choices=("final", "long"), help="of times")
    p.add_argument("--solvers", nargs="+", default=["euler", "midpoint"], help="of times")
    p.add_argument("--only", default="", help="trials whose name holds this")
    a = p.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    if a.part == "extras":
        extras(a.folder)
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
