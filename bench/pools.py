"""Pools for the first phase of NSGF++ on digits: self terms, groups, blurs, steps, plans elsewhere.

    python bench/pools.py                       all that is not in the file yet (an hour, two cores)
    python bench/pools.py --only "T = 3" --seeds 100
    python bench/pools.py --show                the table of what is there

The 8 × 8 digits: 1000 to learn from, 297 to judge by, and 500 more that this script does not
touch, because what wins here is tried again in bench/mnist.py. Every fit has 500 steps of the
optimiser for the first phase and 1500 for the second. 5 × 297 samples are judged at 6, 10 and 20
calls by the energy distance without bias, by their variance over that of the images, and by W2,
which rewards shrinking. A fit is a row of bench/results/pools.json, written when it is done; rows
that are there are kept. Seconds are those of one thread.
"""

import statistics
import time
import warnings
from contextlib import nullcontext
from functools import cache
from itertools import product
from unittest import mock

import torch
from digits import digits_split
from images import variance
from record import ROOT, add_rows, has_row, rows_of, run_all, table_options, with_words
from torch import nn

RESULT = ROOT / "bench" / "results" / "pools.json"
CALLS = (6, 10, 20)
BASE = dict(num_steps=3, step_size=0.2, relative_blur=0.15, group=512, pool_size=8192)
VARIANTS = (
    {
        f"T = {T}, {word}": dict(num_steps=T, self_term=word)
        for T in (1, 3, 5)
        for word in ("same", "masked", "two_batch")
    }
    | {f"groups of {n}": dict(group=n) for n in (64, 128, 256)}
    | {f"groups of {n}, two_batch": dict(group=n, self_term="two_batch") for n in (128, 256)}
    | {f"blur {r}, two_batch": dict(relative_blur=r, self_term="two_batch") for r in (0.05, 0.5)}
    | {
        "pool of 32768": dict(pool_size=32768),
        "half of the groups fresh": dict(online=0.5),
        "inside of classes": dict(num_classes=10, label_dropout=0.0, group=64),
        "plans of features": dict(features=True),
    }
)


@cache
def parts():
    "Images to learn from and their classes, and images to judge by"
    from nsgf_nb.core import make_generator
    from nsgf_nb.data import get_sampler

    x, label = get_sampler("digits")(1797, make_generator(0, "split"))
    assert torch.equal(x[:1297], digits_split()[0])
    return x[:1000], label[:1000], x[1000:1297]


# --- plans of features -----------------------------------------------------------------------


@cache
def encoder():
    "The layers below the last of a classifier of the digits"
    x, label, other = parts()
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1),
        nn.SiLU(),
        nn.Conv2d(32, 64, 3, padding=1, stride=2),
        nn.SiLU(),
        nn.Flatten(),
        nn.Linear(1024, 32),
        nn.SiLU(),
        nn.Linear(32, 10),
    )
    opt = torch.optim.AdamW(net.parameters(), 2e-3, weight_decay=0.01)
    for _ in range(600):
        rows = torch.randint(len(x), (128,))
        loss = nn.functional.cross_entropy(net(x[rows]), label[rows])
        opt.zero_grad()
        loss.backward()
        opt.step()
    return net[:6].eval().requires_grad_(False)


class OfFeatures:
    "A velocity in pixels whose plans are those of features; the blur is that of BASE, in features"

    def __init__(self, blur, self_term="same", tol=1e-2):
        self.blur, self.tol = blur, tol

    def __call__(self, x, y):
        from nsgf_nb.transport.scale import inner_length

        u, w = encoder()(x), encoder()(y)
        blur = BASE["relative_blur"] * inner_length(w, u)
        return self.ends(u, w, y, blur) - self.ends(u, u, x, blur)

    def ends(self, u, w, y, blur):
        "The mean of y in each row of the plan between u and w"
        from nsgf_nb.estimator import SinkhornVelocity
        from nsgf_nb.sinkhorn import transport_plan

        _, info = SinkhornVelocity(blur, tol=self.tol)(u, w, return_info=True)
        plan = transport_plan(u, w, info.potentials).to(y.dtype)
        return (plan / plan.sum(1, keepdim=True) @ y.flatten(1)).view_as(y)


# --- the runs --------------------------------------------------------------------------------


def model_of(change):
    "NSGF++ that is not fitted, and a context for its fit"
    from nsgf_nb import NSGFPlusPlus

    change = dict(change)
    patched = nullcontext()
    if change.pop("features", False):
        patched = mock.patch("nsgf_nb.flow.SinkhornVelocity", OfFeatures)
    shared = dict(batch_size=128, lr=2e-3)
    with patched:
        first = BASE | change | shared | dict(iterations=500)
        lines = dict(coupling="ot", iterations=1500, **shared)
        if "num_classes" in change:
            lines |= dict(num_classes=change["num_classes"], label_dropout=0.0)
        return NSGFPlusPlus(first, lines, device="cpu"), patched


def judged(x, real):
    "Means over five draws"
    from nsgf_nb.distances import energy_distance, w2

    draws = x.split(len(real))
    mean = lambda f: statistics.mean(f(z) for z in draws)
    ratio = mean(variance) / variance(torch.cat(parts()[::2]))
    return dict(
        energy=mean(lambda z: energy_distance(z, real)),
        variance=ratio,
        w2=mean(lambda z: w2(z, real)),
    )


@cache
def floor():
    "The same of five draws of the images to learn from"
    x, _, real = parts()
    gen = torch.Generator().manual_seed(0)
    rows = [torch.randperm(len(x), generator=gen)[: len(real)] for _ in range(5)]
    return judged(torch.cat([x[i] for i in rows]), real)


def one(words, seed):
    "A fit, judged and written"
    from torch.utils.data import TensorDataset

    from nsgf_nb.core import make_generator

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    key = dict(variant=words, seed=seed)
    if has_row(RESULT, key):
        return
    x, label, real = parts()
    model, patched = model_of(VARIANTS[words])
    begun, by_class = time.process_time(), "num_classes" in VARIANTS[words]
    with patched:
        model.fit(TensorDataset(x, label) if by_class else x, seed=seed, progress=False)
    seconds = time.process_time() - begun
    asked = dict(label=torch.arange(5 * len(real)) % 10) if by_class else {}
    first, scores = model.sinkhorn.num_steps, {}
    order = torch.randperm(5 * len(real), generator=make_generator(seed, "order"))
    for calls in CALLS:
        drawn = model.sample(5 * len(real), seed=1000 + seed, num_steps=calls - first, **asked)
        scores[str(calls)] = judged(drawn[order], real)
    add_rows(RESULT, key | dict(seconds=seconds, scores=scores), base=BASE, floor=floor())
    said = ", ".join(
        f"{s['energy']:.4f} at {k} (variance {s['variance']:.2f})" for k, s in scores.items()
    )
    print(f"{words}, seed {seed}: energy {said}; {seconds:.0f} s", flush=True)


def show():
    "Means over the seeds"
    print("floor", floor())
    rows = rows_of(RESULT)
    for words in VARIANTS:
        those = [r for r in rows if r["variant"] == words]
        if those:
            cells = []
            for calls in CALLS:
                scores = [r["scores"][str(calls)] for r in those]
                mean = {k: statistics.mean(s[k] for s in scores) for k in scores[0]}
                cells.append("{energy:.4f} {variance:.2f} {w2:.2f}".format(**mean))
            seconds = statistics.mean(r["seconds"] for r in those)
            print(f"{words:<28}", " | ".join(cells), f"{seconds:.0f} s, {len(those)} seeds")


def main():
    parser = table_options(__doc__, [100, 101, 102])
    parser.add_argument("--only", nargs="+", help="variants that have one of these words")
    a = parser.parse_args()
    if a.show:
        return show()
    run_all(one, product(with_words(VARIANTS, a.only), a.seeds), a.jobs)


if __name__ == "__main__":
    main()
