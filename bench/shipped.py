"""The model that comes with the package, and what was tried on the way.

    python bench/shipped.py --part PART [--folder runs/mnist]

more
    the long fit of NSGF++, seed 0, gone on with for 6000 steps from its weights, at half the rate
    (half an hour on one core)
model
    what 10 000 samples say of the long fit, of that, and of the long fit that knows classes, at ten
    and at sixty calls, and at ten with fitted times (20 minutes on one core for each)
ship
    the weights of the last into the package, in bfloat16

The fits are those of `bench/mnist.py --part long` and `bench/by_class.py --fits long`. Rows that
bench/results/mnist.json holds are kept. The images are read from $NSGF_DATA (else ./data).
"""

import argparse
import warnings
from pathlib import Path

import torch
from by_class import with_classes
from images import RESULTS, calls, cpu, make, mnist, note, place, read, variance
from mnist import FINAL, NFES, known_fit, longer, run_of
from record import ROOT, revision

# of steps that go on from a long fit; the average has as large a share of them
MORE = dict(iterations=6000, lr=2e-3, ema=0.9992)

DIRECTIONS = (0, 10, 30, 100, 784)  # ends of groups of principal directions

# where a judgement stands, and of which fit
JUDGED = {"model": "long-0", "model more": "more", "model by class": "by-class-long-0"}


def more(folder):
    "The long fit of NSGF++, seed 0, gone on with: the straight flow begins at its weights"
    arguments = longer(FINAL["NSGF++"])
    arguments["straight"] |= MORE
    first = known_fit(folder, "NSGF++", "long-0").straight.net
    flow = make(arguments | dict(straight=arguments["straight"] | dict(network=first)))
    run_of("more", place(folder, "NSGF++", "more"), "NSGF++", arguments, 1, "mnist", NFES, flow)


def model(folder):
    "10 000 samples of the long fits of NSGF++, seed 0: as it is, gone on with, and with classes"
    if "model floor" not in read(RESULTS / "mnist.json"):
        note(RESULTS / "mnist.json", floor(), "model floor")
    for where, what in JUDGED.items():
        for nfe, kind in ((10, "equal"), (10, "fitted"), (60, "equal")):
            key = str(nfe) if kind == "equal" else f"{nfe} fitted"
            if key in read(RESULTS / "mnist.json").get(where, {}):
                continue
            out = judged(rounded(known_fit(folder, "NSGF++", what)), nfe, kind)
            note(RESULTS / "mnist.json", out, where, key)
            print(
                f"{where}, {key} calls: FID-LeNet of 10 000 {out['scores']['FID-LeNet']:.2f}, "
                f"least class {min(out['shares']):.3f}, variance {out['variance']:.3f}, "
                f"mirrored {out['mirrored']['share']:.3f} ± {out['mirrored']['error']:.3f}, "
                f"copies {out['nearest']}",
                flush=True,
            )


def rounded(flow):
    "The flow with weights of its networks as they are shipped, in bfloat16"
    for part in (flow.sinkhorn, flow.straight):
        for weight in part.net.parameters():
            weight.data = weight.data.bfloat16().float()
    return flow


def by_direction(x, real):
    "Variance of samples over that of images, in groups of the images' principal directions"
    x, real = x.flatten(1).double(), real.flatten(1).double()
    _, directions = torch.linalg.eigh(real.T.cov())
    directions = directions.flip(1)  # the largest first
    there, here = (real @ directions).var(0), (x @ directions).var(0)
    return {
        f"{a + 1} to {b}": (here[a:b].sum() / there[a:b].sum()).item()
        for a, b in zip(DIRECTIONS, DIRECTIONS[1:])
    }


def floor():
    "What 10 000 training images have of the variance of the test images, six draws"
    from nsgf_nb.core import make_generator

    test_images = mnist(train=False)(10_000, make_generator(0, "test"))[0]
    draws = [mnist()(10_000, make_generator(r, "floor"))[0] for r in range(6)]
    return dict(
        variance=[variance(x) / variance(test_images) for x in draws],
        directions=[by_direction(x, test_images) for x in draws],
        revision=revision(),
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
        directions=by_direction(x, test_images),
        mirrored=mirrored_share(x, test_images, train_images),
        nearest=nearest_distance(x[:2000], train_images, test_images[:2000]),
        revision=revision(),
    )


def ship(folder):
    "The long fit that knows classes into the package"
    from nsgf_nb.files import load_tensors, save_tensors

    at = place(folder, "NSGF++", JUDGED["model by class"])
    tensors, known = load_tensors(at / "model.safetensors", "flow")
    small = {k: v.bfloat16() if ".net." in k else v for k, v in tensors.items()}
    results = read(RESULTS / "mnist.json")
    fit = results["by class long"]["NSGF++"]["0"]
    about = dict(
        target="mnist",
        source=None,
        method="nsgf++",
        seed=0,
        parameters=with_classes(longer(FINAL["NSGF++"])),
        machine=dict(threads=1),
        script="python bench/by_class.py --methods NSGF++ --fits long",
        revision=fit["revision"],
        seconds=fit["seconds"],
        metrics=results["model by class"],
    )
    path = save_tensors(
        ROOT / "nsgf_nb" / "weights" / "nsgfpp-mnist.safetensors", small, known | dict(about=about)
    )
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")


def main():
    parts = dict(more=more, model=model, ship=ship)
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--part", choices=list(parts), required=True)
    p.add_argument("--folder", type=Path, default=Path("runs/mnist"))
    a = p.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    parts[a.part](a.folder)


if __name__ == "__main__":
    main()
