"""Images of MNIST by one call: a generator of codes, decoded, beside NSGF++ with its own seconds.

    python bench/latent.py                      all that is not in the file yet (an hour and a half)
    python bench/latent.py --numbers 16 --methods generator --seeds 0
    python bench/latent.py --show               the table of what is there

A small convolutional autoencoder makes codes of 8 or 16 numbers; with 784 numbers a code is the
image itself. Models of codes have classes: a plan inside each, and a network with the class beside
the time. Their samples, 200 of each class, are decoded and judged as those of bench/mnist.py: 2000
samples against 2000 test images. Decoded codes of the test images are the floor of this way, and
the rows of NSGF++ stand in mnist.json. A generator of pixels is also fitted with plans between what
the encoder of 16 numbers sees. A fit is a row of bench/results/latent.json, written when it is
done; rows that are there are kept. Seconds are those of one thread, and those of the autoencoder
stand beside. The images are read from $NSGF_DATA (else ./data).
"""

import argparse
import statistics
import time
import warnings
from functools import cache
from itertools import product
from pathlib import Path

import torch
from equal_seconds import compile_solver
from images import byte, mnist
from record import ROOT, add_rows, has_row, locked
from torch import nn

RESULT = ROOT / "bench" / "results" / "latent.json"
SAMPLES = ROOT / "bench" / "results" / "latent-samples.safetensors"
COUNT = 2000  # samples that are judged
PIXELS = 28 * 28  # a code of so many numbers is the image


# --- codes -----------------------------------------------------------------------------------


class Autoencoder(nn.Module):
    "Two convolutions to some numbers, and two back"

    def __init__(self, d):
        super().__init__()
        self.encode = nn.Sequential(
            nn.Conv2d(1, 16, 4, 2, 1),
            nn.SiLU(),
            nn.Conv2d(16, 32, 4, 2, 1),
            nn.SiLU(),
            nn.Flatten(),
            nn.Linear(32 * 49, d),
        )
        self.decode = nn.Sequential(
            nn.Linear(d, 32 * 49),
            nn.SiLU(),
            nn.Unflatten(1, (32, 7, 7)),
            nn.ConvTranspose2d(32, 16, 4, 2, 1),
            nn.SiLU(),
            nn.ConvTranspose2d(16, 1, 4, 2, 1),
            nn.Tanh(),
        )

    def forward(self, x):
        return self.decode(self.encode(x))


def images(train):
    "All images of a part, and their classes"
    from nsgf_nb.core import make_generator

    s = mnist(train=train)
    return s(s.num_points, make_generator(0, "latent"))


@cache
def autoencoder(d, folder, epochs=12, batch=128):
    "Trained once and kept in the folder; and its CPU seconds"
    from nsgf_nb.files import load_tensors, save_tensors

    net, file = Autoencoder(d), folder / f"autoencoder-{d}.safetensors"
    if file.exists():
        tensors, known = load_tensors(file, "autoencoder")
        net.load_state_dict(tensors)
        return net.eval(), known["seconds"]
    torch.manual_seed(d)
    net, (x, _), begun = Autoencoder(d), images(train=True), time.process_time()
    steps = epochs * (len(x) // batch)
    opt = torch.optim.Adam(net.parameters(), 2e-3)
    rate = torch.optim.lr_scheduler.OneCycleLR(opt, 2e-3, steps)
    for step in range(steps):
        if step % (len(x) // batch) == 0:
            order = torch.randperm(len(x))
        rows = x[order[step * batch % (len(x) - batch) :][:batch]]
        loss = (net(rows) - rows).square().mean()
        opt.zero_grad()
        loss.backward()
        opt.step()
        rate.step()
    seconds = time.process_time() - begun
    print(f"autoencoder of {d} numbers: loss {loss:.4f}, {seconds:.0f} s", flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    save_tensors(file, net.state_dict(), dict(kind="autoencoder", seconds=seconds))
    return net.eval(), seconds


@torch.no_grad()
def coded(net, x):
    "Codes of images"
    return torch.cat([net.encode(z) for z in x.split(2000)])


@torch.no_grad()
def decoded(net, codes):
    "Images of codes"
    return torch.cat([net.decode(z) for z in codes.split(2000)])


@cache
def codes(d, folder):
    "Codes of all training images in units of their deviation, their classes, and the way back"
    x, label = images(train=True)
    if d == PIXELS:
        return x.flatten(1), label, lambda w: w.view(-1, 1, 28, 28).clamp(-1, 1)
    net, _ = autoencoder(d, folder)
    z = coded(net, x)
    mean, deviation = z.mean(0), z.std(0)
    return (z - mean) / deviation, label, lambda w: decoded(net, w * deviation + mean)


# --- models of codes -------------------------------------------------------------------------


def encoder(folder):
    "What the encoder of 16 numbers sees of an image in one row"
    return nn.Sequential(nn.Unflatten(1, (1, 28, 28)), autoencoder(16, folder)[0].encode)


def model_of(method, d, folder):
    "A model that is not fitted"
    from nsgf_nb import NSGF, SinkhornGenerator, StraightFlow
    from nsgf_nb.learning.nets import MLP

    size = dict(hidden=512 if d == PIXELS else 256, layers=3, num_classes=10)
    both = dict(network=MLP((d,), **size), num_classes=10, device="cpu")
    one_call = both | dict(network=MLP((d,), **size, skip=-1.0))  # z + u(z) is the end that it says
    cloud = dict(cloud=1280, batch_size=640, reuse=4, relative_blur=(0.3, 0.1), label_dropout=0.0)
    # the small setting of arXiv 2605.11755, but for Adam's second moment
    published = dict(cloud=640, batch_size=640, reuse=1, relative_blur=0.2, label_dropout=0.0)
    published |= dict(iterations=5000, lr=2e-4, clip=2.0)
    short = dict(iterations=4000, batch_size=320)  # four times the work a point
    cloud |= dict(lr=2e-3) | (short if d == PIXELS else dict(iterations=8000))
    return {
        "generator": lambda: SinkhornGenerator(**cloud, **one_call),
        "generator, features": lambda: SinkhornGenerator(
            features=encoder(folder), **cloud, **one_call
        ),
        "generator, published setting": lambda: SinkhornGenerator(**published, **one_call),
        "NSGF": lambda: NSGF(pool_size=49152, group=512, label_dropout=0.0, **both),
        "OT-CFM": lambda: StraightFlow("ot", label_dropout=0.0, **both),
    }[method]()


CALLS = {
    "generator": (1,),
    "generator, features": (1,),
    "generator, published setting": (1,),
    "NSGF": (10,),
    "OT-CFM": (1, 5, 10),
}


def makes_sense(method, d):
    "Pixels have a generator only, with features and without"
    if d == PIXELS:
        return method in ("generator", "generator, features")
    return method != "generator, features"


def judged(x, label=None):
    "Scores of images, the share that the classifier takes for their class, variance"
    from nsgf_nb.core import make_generator
    from nsgf_nb.evaluation.classifier import class_shares, classify
    from nsgf_nb.fid import image_scores

    real = mnist(train=False)(10_000, make_generator(0, "test"))[0][: len(x)]
    row = image_scores(x, real)
    row["variance"] = (x.flatten(1).var(0).sum() / real.flatten(1).var(0).sum()).item()
    row["least_class"] = class_shares(x).min().item()
    if label is not None:
        row["accuracy"] = (classify(x)[0] == label).float().mean().item()
    return row


def floor(d, folder):
    "Scores of decoded test images that the 2000 others are judged against"
    x, label = images(train=False)
    if d == PIXELS:
        return judged(x[-COUNT:], label[-COUNT:]) | dict(seconds=0.0)
    net, seconds = autoencoder(d, folder)
    return judged(decoded(net, coded(net, x[-COUNT:])), label[-COUNT:]) | dict(seconds=seconds)


def one(method, d, seed, folder):
    "Rows of a fit, one for each number of calls; and 64 samples to look at"
    from torch.utils.data import TensorDataset

    z, label, back = codes(d, folder)
    torch.manual_seed(seed)  # the weights of a network are drawn before the fit
    model, begun = model_of(method, d, folder), time.process_time()
    model.fit(TensorDataset(z, label), seed=seed, progress=False)
    seconds, rows, shown = time.process_time() - begun, [], {}
    asked = torch.arange(10).repeat_interleave(COUNT // 10)
    for calls in CALLS[method]:
        steps = dict(num_steps=calls) if calls > 1 or method == "OT-CFM" else {}
        w = model.sample(COUNT, label=asked, seed=seed + 1000, **steps)
        x = back(w)
        variance = (w.var(0).sum() / z.var(0).sum()).item()
        told = dict(method=method, numbers=d, seed=seed, calls=calls, seconds=seconds)
        rows.append(told | dict(variance_of_codes=variance) | judged(x, asked))
        name = f"{method} {d} {calls}" + (f" seed {seed}" if seed else "")
        shown[name] = byte(x[torch.linspace(0, COUNT - 1, 64).long()])
    return rows, shown


# --- the runs --------------------------------------------------------------------------------


def keep_pictures(shown):
    "Samples to look at, beside those that are there"
    from nsgf_nb.files import load_tensors, save_tensors

    known = load_tensors(SAMPLES, "samples")[0] if SAMPLES.exists() else {}
    save_tensors(SAMPLES, known | shown, dict(kind="samples"))


def run(methods, numbers, seeds, folder):
    "All that is not in the file yet"
    for d in numbers:
        with locked(RESULT, rows=[], floors={}) as result:
            known = str(d) in result["floors"]
        if not known:
            row = floor(d, folder)
            with locked(RESULT, rows=[], floors={}) as result:
                result["floors"][str(d)] = row
            print(f"{d} numbers, decoded test images: FID-LeNet {row['FID-LeNet']:.2f}", flush=True)
    for seed, d, method in product(seeds, numbers, methods):
        known = has_row(RESULT, dict(method=method, numbers=d, seed=seed))
        if known or not makes_sense(method, d):
            continue
        rows, shown = one(method, d, seed, folder)
        if seed == 0 or method == "generator":
            keep_pictures(shown)
        add_rows(RESULT, *rows)
        for row in rows:
            said = f"FID-LeNet {row['FID-LeNet']:.2f}, accuracy {row['accuracy']:.3f}"
            said += f", variance {row['variance']:.3f}, {row['seconds']:.0f} s"
            print(f"{d} numbers, {method}, {row['calls']} calls, seed {seed}: {said}", flush=True)


def show():
    "Means over the seeds"
    with locked(RESULT, rows=[], floors={}) as result:
        rows, floors = result["rows"], result["floors"]
    names = "FID-LeNet", "accuracy", "variance", "least_class", "seconds"
    for d, row in floors.items():
        print(f"{d} numbers, floor:", *[f"{k} {row[k]:.3f}" for k in names])
    for key in sorted({(r["numbers"], r["method"], r["calls"]) for r in rows}):
        those = [r for r in rows if (r["numbers"], r["method"], r["calls"]) == key]
        print(*key, *[f"{k} {statistics.mean(r[k] for r in those):.3f}" for k in names])


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--methods", nargs="+", default=list(CALLS), choices=CALLS)
    parser.add_argument("--numbers", type=int, nargs="+", default=[8, 16, PIXELS], help="of a code")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "latent")
    parser.add_argument("--show", action="store_true", help="the table of what is there")
    a = parser.parse_args()
    if a.show:
        return show()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    compile_solver()
    run(a.methods, a.numbers, a.seeds, a.folder)


if __name__ == "__main__":
    main()
