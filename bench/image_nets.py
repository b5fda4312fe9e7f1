"""Networks for MNIST at equal CPU seconds: OT-CFM with each, judged on training images.

    python bench/image_nets.py [--seconds 200] [--seeds 7] [--only WORDS] [--jobs 2]
    python bench/image_nets.py --show

A fit has as many steps of 32 images as there is time for, which a short fit tells, and the learning
rate of the trials in bench/mnist.py (or its double). 1000 samples of seed 90 are judged against
10 000 training images, at 5, 10 and 20 calls. A fit is a row of bench/results/image_nets.json; rows
that are there are kept. Seconds are those of one thread. The images are read from $NSGF_DATA (else
./data).
"""

import argparse
import statistics
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from multiprocessing import get_context

import torch
from mnist import mnist
from record import ROOT, facts, locked

RESULT = ROOT / "bench" / "results" / "image_nets.json"
CALLS = (5, 10, 20)
NETWORKS = {
    "as it is": dict(channels=32, multipliers=(1, 1, 2), patch_size=2),
    "no third level": dict(channels=32, multipliers=(1, 1), patch_size=2),
    "16 channels, growing": dict(channels=16, multipliers=(1, 2, 4), patch_size=2),
    "24 channels, growing": dict(channels=24, multipliers=(1, 2, 3), patch_size=2),
    "patches of 4, 64 channels": dict(channels=64, multipliers=(1, 1), patch_size=4),
    "patches of 4, one level": dict(channels=64, multipliers=(1,), patch_size=4),
    "patches of 4, wide below": dict(channels=64, multipliers=(1, 2), patch_size=4),
    "attention in the middle": dict(
        channels=32, multipliers=(1, 1, 2), patch_size=2, attention=(4,)
    ),
}
RATES = (2e-3, 4e-3)


def fit(name, lr, iterations, seed):
    "A fitted flow and its CPU seconds"
    from nsgf_nb import StraightFlow
    from nsgf_nb.learning.unet import UNet

    torch.manual_seed(seed)
    network = UNet((1, 28, 28), **NETWORKS[name])
    ema = max(0.9, 1 - 8 / iterations)
    flow = StraightFlow(
        "ot", network=network, iterations=iterations, batch_size=32, lr=lr, ema=ema, device="cpu"
    )
    begun = time.process_time()
    flow.fit(mnist(), seed=seed, progress=False)
    return flow, time.process_time() - begun


def one(name, lr, seed, seconds):
    "A fit of so many seconds, judged and written"
    from nsgf_nb.core import make_generator
    from nsgf_nb.evaluation.classifier import class_shares, lenet_features
    from nsgf_nb.evaluation.frechet import frechet

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    key = dict(network=name, lr=lr, seed=seed, asked=seconds)
    with locked(RESULT, rows=[]) as result:
        if any(key.items() <= row.items() for row in result["rows"]):
            return
    few, many = (fit(name, lr, n, seed)[1] for n in (20, 120))
    step = (many - few) / 100
    iterations = max(20, int((seconds - few) / step))
    flow, spent = fit(name, lr, iterations, seed)
    real = lenet_features(mnist()(10_000, make_generator(1, "real"))[0])
    row = key | dict(seconds=spent, iterations=iterations, loss=flow.history[-1]["val"])
    for calls in CALLS:
        x = flow.sample(1000, seed=90, num_steps=calls)
        row[f"FID-LeNet at {calls}"] = float(frechet(lenet_features(x), real))
    row["least_class"] = class_shares(x).min().item()
    with locked(RESULT, rows=[]) as result:
        result["rows"].append(row)
        result.update(facts())
    scores = ", ".join(f"{row[f'FID-LeNet at {c}']:.1f}" for c in CALLS)
    said = f"loss {row['loss']:.4f}, FID-LeNet {scores}; {iterations} steps, {spent:.0f} s"
    print(f"{name}, lr {lr:g}, seed {seed}: {said}", flush=True)


def show():
    "Means over the seeds"
    with locked(RESULT, rows=[]) as result:
        rows = result["rows"]
    for name, lr in product(NETWORKS, RATES):
        those = [r for r in rows if (r["network"], r["lr"]) == (name, lr)]
        if those:
            names = "loss", *[f"FID-LeNet at {c}" for c in CALLS]
            means = [f"{k} {statistics.mean(r[k] for r in those):.3f}" for k in names]
            print(f"{name:<28} {lr:g}", *means, f"{len(those)} seeds")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=200.0)
    parser.add_argument("--seeds", type=int, nargs="+", default=[7])
    parser.add_argument("--rates", type=float, nargs="+", default=RATES)
    parser.add_argument("--only", nargs="+", help="networks that have one of these words")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--show", action="store_true", help="the table of what is there")
    a = parser.parse_args()
    if a.show:
        return show()
    chosen = [n for n in NETWORKS if not a.only or any(word in n for word in a.only)]
    with ProcessPoolExecutor(a.jobs, get_context("spawn")) as pool:
        todo = product(chosen, a.rates, a.seeds)
        for run in [pool.submit(one, *what, a.seconds) for what in todo]:
            run.result()


if __name__ == "__main__":
    main()
