"""A digit that is asked for: NSGF++, OT-CFM and flow matching on MNIST with classes and guidance.

    python bench/by_class.py [--folder runs/mnist] [--methods NSGF++ OT-CFM FM] [--seed 0]
                             [--fits final]

The settings and the steps are those of the final fits of bench/mnist.py, or of the long ones. The
network of the straight flow gets the class as well, which is left out for one image in ten, so that
there is something to be guided away from. 200 samples of each class are judged: does the classifier
of the package see the class that was asked for, how do all 2000 score beside 2000 test images, and
how much of the variance inside of a class is left. Guidance asks the network twice a step, so that
it gets half of the steps. A quarter of an hour on one core for each method, an hour for a long fit;
an unfinished fit is resumed. A result is kept, under "by class" or "by class long" in
bench/results/mnist.json; samples of NSGF++ are in mnist-by-class.safetensors. The images are read
from $NSGF_DATA (else ./data).
"""

import argparse
import statistics
import warnings
from pathlib import Path

import torch
from images import RESULTS, byte, calls, fitted, make, mnist, note, place, read, variance
from mnist import FINAL, longer
from record import modules, revision

ASKED = torch.arange(10).repeat_interleave(200)
GUIDANCE = (0.0, 0.5, 1.0, 2.0)
RUNS = [(20, w) for w in GUIDANCE] + [(10, 0.0), (10, 1.0)]  # calls of networks, guidance


def with_classes(arguments):
    "The same setting for a straight flow that knows the ten digits"
    if "straight" in arguments:
        return arguments | dict(straight=arguments["straight"] | dict(num_classes=10))
    return arguments | dict(num_classes=10)


def steps(flow, nfe, guidance):
    "Arguments of sample for at most so many calls, in midpoint steps of two calls or of four"
    how = calls(flow, nfe, "midpoint")
    if guidance:
        how["num_steps"] //= 2
    return how | dict(guidance=guidance)


def inside(x, label):
    "The variance of all coordinates together inside of a class, the mean over the classes"
    return statistics.mean(variance(x[label == c]) for c in range(10))


def judged(flow, nfe, guidance, seed, test):
    "Scores of 2000 samples, 200 of each class"
    from nsgf_nb.evaluation.classifier import classify
    from nsgf_nb.fid import image_scores

    images, label = test
    how = dict(label=ASKED, seed=seed, batch_size=250) | steps(flow, nfe, guidance)
    x = flow.sample(len(ASKED), **how)
    right = (classify(x)[0] == ASKED).float()
    found = dict(
        calls=float(flow.nfe),
        obeyed=float(right.mean()),
        obeyed_by_class=[float(right[ASKED == c].mean()) for c in range(10)],
        inside=inside(x, ASKED) / inside(images, label),
    )
    return image_scores(x, images[: len(x)]) | found


def draw(flow, seed):
    "Ten samples of each class, without guidance and with"
    from nsgf_nb.files import save_tensors

    label, drawn = torch.arange(10).repeat_interleave(10), {}
    for w in (0.0, 1.0):
        x = flow.sample(100, label=label, seed=seed, **steps(flow, 20, w))
        drawn[f"guidance {w:.0f}"] = byte(x)
    save_tensors(RESULTS / "mnist-by-class.safetensors", drawn, dict(kind="samples"))


def main():
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--folder", type=Path, default=Path("runs/mnist"))
    p.add_argument("--methods", nargs="+", default=list(FINAL), choices=list(FINAL))
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--fits", default="final", choices=("final", "long"))
    a = p.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")

    from nsgf_nb.core import make_generator

    long = a.fits == "long"
    kind = "by class long" if long else "by class"
    test = mnist(train=False)(10_000, make_generator(0, "test"))
    for method in a.methods:
        if str(a.seed) in read(RESULTS / "mnist.json").get(kind, {}).get(method, {}):
            continue
        at = place(a.folder, method, f"{kind.replace(' ', '-')}-{a.seed}")
        arguments = with_classes(longer(FINAL[method]) if long else FINAL[method])
        flow, seconds = fitted(at, make(arguments), a.seed, mnist())
        found = {f"{nfe}, {w:g}": judged(flow, nfe, w, a.seed, test) for nfe, w in RUNS}
        if method == "NSGF++" and a.seed == 0 and not long:
            draw(flow, a.seed)
        row = dict(scores=found, seconds=seconds, loss=flow.history[-1], revision=revision())
        row["modules"] = modules("plusplus", "fid")
        note(RESULTS / "mnist.json", row, kind, method, str(a.seed))
        for name, scores in found.items():
            print(
                f"{method:8} {name:8} obeyed {scores['obeyed']:.3f}, "
                f"FID-LeNet {scores['FID-LeNet']:.1f}, inside {scores['inside']:.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
