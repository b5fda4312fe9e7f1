"""Networks for MNIST at equal CPU seconds: OT-CFM with each, judged on training images.

    python bench/image_nets.py [--seconds 200] [--seeds 7] [--only WORDS] [--jobs 2]
    python bench/image_nets.py --show

A fit has as many steps of 32 images as there is time for, validation included, and the learning
rate of the trials in bench/mnist.py (or its double). 1000 samples of seed 90 are judged against
10 000 training images, at 5, 10 and 20 calls. A fit is a row of bench/results/image_nets.json; rows
that are there are kept. Seconds are those of one thread. The images are read from $NSGF_DATA (else
./data).
"""

import statistics
import time
import warnings
from itertools import product

import torch
from images import mnist, variance
from record import ROOT, add_rows, has_row, rows_of, run_all, table_options, with_words

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


BATCH = 32
ROWS = 105  # of the history of a long fit, each with a validation


def network_of(name, seed):
    "A network whose weights follow from the seed"
    from nsgf_nb.learning.unet import UNet

    torch.manual_seed(seed)
    return UNet((1, 28, 28), **NETWORKS[name])


def fit(name, lr, iterations, seed):
    "A fitted flow and its CPU seconds"
    from nsgf_nb import StraightFlow

    flow = StraightFlow(
        "ot",
        network=network_of(name, seed),
        iterations=iterations,
        batch_size=BATCH,
        lr=lr,
        ema=max(0.9, 1 - 8 / iterations),
        device="cpu",
    )
    begun = time.process_time()
    flow.fit(mnist(), seed=seed, progress=False)
    return flow, time.process_time() - begun


def step_seconds(name):
    "CPU seconds of a step without its validation, the median of ten"
    network, took = network_of(name, 0), []
    optimiser = torch.optim.AdamW(network.parameters(), fused=True)
    x, t = torch.randn(BATCH, 1, 28, 28), torch.rand(BATCH)
    for _ in range(13):
        begun = time.process_time()
        (network(x, t) - x).square().mean().backward()
        optimiser.step()
        optimiser.zero_grad()
        took.append(time.process_time() - begun)
    return statistics.median(took[3:])


def steps_for(name, lr, seed, seconds):
    "Steps of a fit that takes so many seconds; each of the first hundred has a validation"
    few, more = (fit(name, lr, n, seed)[1] for n in (10, 30))
    step, validated = step_seconds(name), (more - few) / 20
    before = few - 10 * validated
    return int((seconds - before - ROWS * (validated - step)) / step)


def one(name, lr, seed, seconds):
    "A fit of so many seconds, judged and written"
    from nsgf_nb.core import make_generator
    from nsgf_nb.evaluation.classifier import class_shares, lenet_features
    from nsgf_nb.evaluation.frechet import frechet

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    key = dict(network=name, lr=lr, seed=seed, asked=seconds)
    if has_row(RESULT, key):
        return
    flow, spent = fit(name, lr, steps_for(name, lr, seed, seconds), seed)
    real = lenet_features(mnist()(10_000, make_generator(1, "real"))[0])
    row = key | dict(seconds=spent, iterations=flow.iterations, loss=flow.history[-1]["val"])
    for calls in CALLS:
        x = flow.sample(1000, seed=90, num_steps=calls)
        row[f"FID-LeNet at {calls}"] = float(frechet(lenet_features(x), real))
    row["least_class"] = class_shares(x).min().item()
    row["variance"] = variance(x) / variance(mnist()(10_000, make_generator(1, "real"))[0])
    add_rows(RESULT, row)
    scores = ", ".join(f"{row[f'FID-LeNet at {c}']:.1f}" for c in CALLS)
    said = f"loss {row['loss']:.4f}, FID-LeNet {scores}; {flow.iterations} steps, {spent:.0f} s"
    print(f"{name}, lr {lr:g}, seed {seed}: {said}", flush=True)


def show():
    "Means over the seeds"
    rows = rows_of(RESULT)
    for name, lr in product(NETWORKS, RATES):
        those = [r for r in rows if (r["network"], r["lr"]) == (name, lr)]
        if those:
            names = "loss", *[f"FID-LeNet at {c}" for c in CALLS]
            means = [f"{k} {statistics.mean(r[k] for r in those):.3f}" for k in names]
            print(f"{name:<28} {lr:g}", *means, f"{len(those)} seeds")


def main():
    parser = table_options(__doc__, [7])
    parser.add_argument("--seconds", type=float, default=200.0)
    parser.add_argument("--rates", type=float, nargs="+", default=RATES)
    parser.add_argument("--only", nargs="+", help="networks that have one of these words")
    a = parser.parse_args()
    if a.show:
        return show()
    run_all(one, product(with_words(NETWORKS, a.only), a.rates, a.seeds, [a.seconds]), a.jobs)


if __name__ == "__main__":
    main()
