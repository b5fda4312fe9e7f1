"""CIFAR-10 at a small size: the whole path from pictures to samples, on one core.

    python bench/cifar.py --data cifar10-jpeg.tar.xz [--folder runs/cifar]
                          [--methods NSGF++ OT-CFM] [--seed 0]

First a small network learns to tell the ten classes apart (twenty minutes); its features judge
samples. Then each method is fitted with a U-Net of a million parameters (forty minutes each).

The archive has a folder of pictures for each class, below train and test; it is unpacked into the
folder. An unfinished fit is resumed, rows that bench/results/cifar.json holds are kept. Seconds are
CPU seconds of one thread. FID-CNN is the Fréchet distance in the features of the classifier: it is
neither the FID of papers nor FID-LeNet. The pictures were compressed again, so no number here can
stand beside a published one.
"""

import argparse
import hashlib
import statistics
import tarfile
import warnings
from pathlib import Path

import torch
import torch.nn.functional as F
from images import byte, calls, cpu, fitted, make, note, place, read, variance
from record import ROOT, find_table, modules, revision
from torch import nn

RESULT = ROOT / "bench" / "results" / "cifar.json"
SAMPLES = ROOT / "bench" / "results" / "cifar-samples.safetensors"
METHODS = ("NSGF++", "OT-CFM")
CALLS = (5, 10, 20)
STEPS, BATCH = 4000, 64  # of each straight flow
EPOCHS = 8
DRAWS = 5  # of training pictures, for the floor


# --- pictures -------------------------------------------------------------------------------------


def unpack(archive, folder):
    "The pictures, once"
    done = folder / "unpacked"
    if not done.exists():
        with tarfile.open(archive) as tar:
            tar.extractall(folder, filter="data")
        done.touch()


def pictures(folder, part):
    "The training or the test set, with its classes"
    from nsgf_nb.data import get_sampler

    return get_sampler("folder", path=str(folder / part))


def drawn(folder, part, n, stream):
    "Some pictures and their classes"
    from nsgf_nb.core import make_generator

    return pictures(folder, part)(n, make_generator(0, stream))


# --- classifier -----------------------------------------------------------------------------------


def block(i, o, stride):
    return nn.Sequential(
        nn.Conv2d(i, o, 3, stride, 1, bias=False), nn.BatchNorm2d(o), nn.ReLU(inplace=True)
    )


class Classifier(nn.Module):
    "Five convolutions; 128 features are the means over the pixels of the last"

    def __init__(self):
        super().__init__()
        widths = ((3, 32, 1), (32, 64, 2), (64, 64, 1), (64, 128, 2), (128, 128, 1))
        self.blocks = nn.Sequential(*(block(*w) for w in widths))
        self.head = nn.Linear(128, 10)

    def features(self, x):
        return self.blocks(x).mean((2, 3))

    def forward(self, x):
        return self.head(self.features(x))


def moved(x, generator):
    "Half of the pictures mirrored, each shifted by up to four pixels"
    mirrored = torch.rand(len(x), generator=generator) < 0.5
    x = torch.where(mirrored[:, None, None, None], x.flip(3), x)
    padded = F.pad(x, (4, 4, 4, 4), mode="reflect")
    top, left = torch.randint(9, (2, len(x)), generator=generator)
    rows = (top[:, None] + torch.arange(32))[:, None, :, None]
    columns = (left[:, None] + torch.arange(32))[:, None, None, :]
    picture = torch.arange(len(x))[:, None, None, None]
    colour = torch.arange(3)[None, :, None, None]
    return padded[picture, colour, rows, columns]


def learn(x, label, seed=0, batch=128, rate=4e-3):
    "A fitted classifier"
    from nsgf_nb.core import keep_random_state, make_generator

    with keep_random_state(seed):
        net = Classifier().to(memory_format=torch.channels_last)
    steps, generator = len(x) // batch, make_generator(seed, "moved")
    optimiser = torch.optim.AdamW(net.parameters(), rate, weight_decay=0.01)
    rates = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, EPOCHS * steps, pct_start=0.2)
    for epoch in range(EPOCHS):
        order = torch.randperm(len(x), generator=make_generator(seed, "rows", epoch))
        for rows in order[: steps * batch].split(batch):
            optimiser.zero_grad()
            loss = F.cross_entropy(net(moved(x[rows], generator)), label[rows])
            loss.backward()
            optimiser.step()
            rates.step()
        print(f"classifier, epoch {epoch + 1}: loss {loss.item():.3f}", flush=True)
    return net.eval()


@torch.no_grad()
def seen(net, x):
    "Features and the class of each picture"
    found = [net.features(z) for z in x.split(500)]
    return torch.cat(found), torch.cat([net.head(f).argmax(1) for f in found])


def classifier(folder):
    "The fitted classifier, from its file where there is one"
    from nsgf_nb.files import load_tensors, save_tensors

    path = folder / "classifier.safetensors"
    if not path.exists():
        net, seconds = cpu(lambda: learn(*drawn(folder, "train", 50_000, "train")))
        x, label = drawn(folder, "test", 10_000, "test")
        right = (seen(net, x)[1] == label).double().mean().item()
        save_tensors(path, net.state_dict(), dict(kind="cifar classifier"))
        about = dict(accuracy=right, seconds=seconds, epochs=EPOCHS, revision=revision())
        note(RESULT, about, "classifier")
        print(f"classifier: {right:.3f} of the test pictures, {seconds:.0f} s", flush=True)
    net = Classifier().eval()
    net.load_state_dict(load_tensors(path, "cifar classifier")[0])
    return net.to(memory_format=torch.channels_last)


# --- fits -----------------------------------------------------------------------------------------


def network(seed):
    "A U-Net on patches of 2 × 2 pixels, whose weights follow from the seed"
    from nsgf_nb.core import keep_random_state
    from nsgf_nb.learning.unet import UNet

    with keep_random_state(seed):
        return UNet((3, 32, 32), channels=32, multipliers=(1, 2, 2), patch_size=2)


def settings(method, seed):
    "Those that MNIST has chosen, with another network"
    straight = dict(coupling="ot", iterations=STEPS, batch_size=BATCH, lr=4e-3, ema=0.998)
    straight["network"] = network(seed)
    if method == "OT-CFM":
        return straight
    first = dict(num_steps=1, step_size=0.5, relative_blur=0.15, group=1024, pool_size=16384)
    first |= dict(iterations=600, batch_size=128, lr=4e-3, ema=0.998, network="mlp")
    return dict(sinkhorn=first, straight=straight, start="sinkhorn")


def scores(net, x, real):
    "Of samples, beside real pictures"
    from nsgf_nb.distances import energy_distance
    from nsgf_nb.evaluation.frechet import frechet, kernel_distance

    (f, classes), (g, _) = seen(net, x), seen(net, real)
    shares = torch.bincount(classes, minlength=10) / len(x)
    return {
        "FID-CNN": float(frechet(f, g)),
        "KID-CNN": float(kernel_distance(f, g)),
        "energy": energy_distance(x, real),
        "variance": variance(x) / variance(real),
        "least class": shares.min().item(),
    }


def floor(net, folder, real):
    "Mean and standard deviation of what draws of training pictures score"
    draws = [drawn(folder, "train", len(real), f"floor {r}")[0] for r in range(DRAWS)]
    rows = [scores(net, x, real) for x in draws]
    each = {k: [row[k] for row in rows] for k in rows[0]}
    means = {k: statistics.mean(v) for k, v in each.items()}
    return means | {f"{k}_sd": statistics.stdev(v) for k, v in each.items()}


def judge(net, flow, real, seed):
    "Scores by number of calls and solver"
    found = {}
    for number in CALLS:
        for solver in ("euler", "midpoint"):
            how = dict(batch_size=250, seed=seed) | calls(flow, number, solver)
            x, seconds = cpu(lambda: flow.sample(len(real), **how))
            found[f"{number} {solver}"] = scores(net, x, real) | dict(seconds=seconds)
    return found


def final(folder, methods, seed):
    "Fits, 2000 samples of each beside 2000 test pictures, and what real pictures score"
    from nsgf_nb.files import load_tensors, save_tensors

    net = classifier(folder)
    real = drawn(folder, "test", 2000, "judge")[0]
    if "floor" not in read(RESULT):
        note(RESULT, floor(net, folder, real), "floor")
    for method in methods:
        if str(seed) in read(RESULT).get("final", {}).get(method, {}):
            continue
        target = pictures(folder, "train")
        flow = make(settings(method, seed))
        flow, seconds = fitted(place(folder, method, seed), flow, seed, target)
        row = dict(scores=judge(net, flow, real, seed), seconds=seconds, revision=revision())
        row["modules"] = modules("plusplus", "sets.folder", "evaluation.frechet")
        row["history"] = [
            {k: r.get(k) for k in ("part", "step", "loss", "val")} for r in flow.history
        ]
        note(RESULT, row, "final", method, str(seed))
        best = {
            c: min(v["FID-CNN"] for k, v in row["scores"].items() if k.split()[0] == c)
            for c in map(str, CALLS)
        }
        print(f"{method}, seed {seed}: {seconds:.0f} s, FID-CNN {best}", flush=True)
        shown = load_tensors(SAMPLES, "samples")[0] if SAMPLES.exists() else {}
        shown[method] = byte(flow.sample(64, seed=seed, **calls(flow, 20, "midpoint")))
        shown["test pictures"] = byte(real[:64])
        save_tensors(SAMPLES, shown, dict(kind="samples"))


def main():
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--data", type=Path, help="the archive; else $NSGF_DATA/cifar10-jpeg.tar.xz")
    p.add_argument("--folder", type=Path, default=Path("runs/cifar"))
    p.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS)
    p.add_argument("--seed", type=int, default=0)
    a = p.parse_args()
    archive = find_table(a.data, "cifar10-jpeg.tar.xz", "CIFAR-10 as JPEG files")
    a.folder.mkdir(parents=True, exist_ok=True)
    note(RESULT, hashlib.sha256(archive.read_bytes()).hexdigest(), "sha256")
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    unpack(archive, a.folder)
    final(a.folder, a.methods, a.seed)


if __name__ == "__main__":
    main()
