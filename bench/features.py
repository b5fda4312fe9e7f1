"""The classifiers whose features FID-LeNet uses: training, accuracy, and scores of real images.

    python bench/features.py [--sets mnist fashionmnist] [--part train scores mirror]
                             [--epochs 10] [--seed 0] [--weights nsgf_nb/weights] [--out FILE]

train    a LeNet for each set, on one thread (6 CPU minutes each): small rotations, scales and
         shifts, never a flip; the last weights, in 16 bits, with the accuracy on the test set,
         which plays no part in the training. The same seed gives the same weights on the same
         machine and versions.
scores   with the weights that are there: FID-LeNet of the test set against the training set for
         rising n, the floors at 2 000 and 10 000, scores of noisy and blurred test images, nearest
         training images, and the seconds that 10 000 images take.
mirror   rates of the test for mirrored digits on MNIST, and its estimates of known shares.

The results are in bench/results/features.json. The images are read from $NSGF_DATA (else ./data).
"""

import argparse
import json
import math
import os
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from record import ROOT, facts, write


def images(name, train):
    "All images of a set in [-1, 1], and their classes, in an order that depends on nothing"
    from nsgf_nb.core import make_generator
    from nsgf_nb.data import get_sampler

    s = get_sampler(name, root=os.environ.get("NSGF_DATA", "data"), train=train, download=False)
    return s(s.num_points, make_generator(0, f"features-{name}"))


# --- train ----------------------------------------------------------------------------------------


def jitter(x, gen, turn=12, scale=0.1, shift=2):
    "Rotations (degrees), scales and shifts (pixels), drawn evenly; outside is background"
    draw = lambda r: (2 * torch.rand(len(x), generator=gen) - 1) * r
    angle, size = draw(math.radians(turn)), 1 + draw(scale)
    c, s, d = angle.cos() / size, angle.sin() / size, 2 * shift / x.shape[-1]
    theta = torch.stack([c, -s, draw(d), s, c, draw(d)], 1).view(-1, 2, 3)
    return (
        F.grid_sample(
            x + 1, F.affine_grid(theta, x.shape, align_corners=False), align_corners=False
        )
        - 1
    )


@torch.no_grad()
def test(net, x, label):
    net.eval()
    logits = torch.cat([net(z) for z in x.split(1000)])
    right = logits.argmax(1) == label
    return dict(
        accuracy=right.double().mean().item(),
        loss=F.cross_entropy(logits, label).item(),
        by_class=[right[label == k].double().mean().item() for k in range(10)],
    )


def train(name, epochs, seed, folder, batch=128, lr=4e-3):
    from nsgf_nb.core import keep_random_state, make_generator
    from nsgf_nb.evaluation.classifier import LeNet
    from nsgf_nb.files import save_tensors

    x, label = images(name, True)
    t = time.process_time()  # of this process: other work on the machine does not count
    with keep_random_state(seed):
        net = LeNet().to(memory_format=torch.channels_last)
        gen, steps = make_generator(seed, "jitter"), len(x) // batch
        opt = torch.optim.AdamW(net.parameters(), lr, weight_decay=0.01)
        rate = torch.optim.lr_scheduler.OneCycleLR(opt, lr, epochs * steps, pct_start=0.2)
        for epoch in range(epochs):
            net.train()
            total = 0.0
            for i in torch.randperm(len(x), generator=make_generator(seed, "rows", epoch))[
                : steps * batch
            ].split(batch):
                opt.zero_grad()
                loss = F.cross_entropy(net(jitter(x[i], gen)), label[i])
                loss.backward()
                opt.step()
                rate.step()
                total += loss.item()
            print(
                f"{name}, epoch {epoch + 1}: loss {total / steps:.4f}, "
                f"{time.process_time() - t:.0f} s",
                flush=True,
            )
    took = time.process_time() - t
    half = {
        k: v.half() if v.is_floating_point() else v
        for k, v in net.state_dict().items()
        if not k.endswith("num_batches_tracked")
    }
    net.load_state_dict(half, strict=False)  # what is shipped is what is tested
    out = test(net, *images(name, False))
    recipe = dict(
        epochs=epochs,
        batch=batch,
        lr=lr,
        seed=seed,
        parameters=sum(p.numel() for p in net.parameters()),
    )
    classes = dict(
        mnist=[str(k) for k in range(10)],
        fashionmnist=[
            "T-shirt",
            "trouser",
            "pullover",
            "dress",
            "coat",
            "sandal",
            "shirt",
            "sneaker",
            "bag",
            "ankle boot",
        ],
    )
    path = save_tensors(
        Path(folder) / f"lenet-{name}.safetensors",
        half,
        dict(
            kind="lenet", data=name, test_accuracy=out["accuracy"], classes=classes[name], **recipe
        ),
    )
    out |= recipe | dict(
        cpu_seconds=took, bytes=path.stat().st_size, threads=torch.get_num_threads(), **facts()
    )
    print(f"{name}: test accuracy {out['accuracy']:.4f}, {took:.0f} CPU seconds", flush=True)
    return out


# --- scores ---------------------------------------------------------------------------------------


def blur(x, sigma):
    k = torch.exp(-0.5 * (torch.arange(-6, 7) / sigma) ** 2)
    k = k / k.sum()
    return (
        F.conv2d(
            F.conv2d(x + 1, k.view(1, 1, 1, -1), padding=(0, 6)),
            k.view(1, 1, -1, 1),
            padding=(6, 0),
        )
        - 1
    )


def floor_curve(f, g, C, ns, repeats=10):
    """Fréchet distance between n rows of f and n of g for each n (disjoint where f is g).

    Beside it stands what the formula for Gaussian features says.
    """
    from nsgf_nb.core import make_generator
    from nsgf_nb.evaluation.frechet import frechet, frechet_floor

    out = []
    for n in ns:
        d = []
        for r in range(repeats):
            i, j = (
                torch.randperm(len(z), generator=make_generator(n, what, r))
                for z, what in ((f, "test"), (g, "train"))
            )
            d.append(frechet(f[i[:n]], g[i[n : 2 * n] if f is g else j[:n]]))
        d = torch.tensor(d)
        out.append(
            dict(
                n=n,
                mean=d.mean().item(),
                sd=d.std().item(),
                repeats=repeats,
                gaussian=frechet_floor(C, n),
            )
        )
    return out


def scores(name, n=2000):
    from nsgf_nb.core import make_generator
    from nsgf_nb.evaluation.classifier import classify, lenet_features
    from nsgf_nb.evaluation.copies import nearest_distance, score_floor
    from nsgf_nb.fid import image_scores

    features, t0 = f"lenet-{name}", time.process_time()
    (x, label), (y, _) = images(name, False), images(name, True)
    out = dict(n=n)

    g, f = lenet_features(y, features), lenet_features(x, features)
    ns = (500, 1000, 2000, 5000, 10000)
    out["test_train"], out["train_train"] = (
        floor_curve(f, g, g.T.cov(), ns),
        floor_curve(g, g, g.T.cov(), ns),
    )
    for r in out["test_train"]:
        print(
            f"{name}, n = {r['n']}: FID-LeNet {r['mean']:.3f} ± {r['sd']:.3f}, "
            f"Gaussian features {r['gaussian']:.3f}",
            flush=True,
        )

    t = time.process_time()
    one = image_scores(x, y[: len(x)], features)
    out["seconds_10000"] = time.process_time() - t
    out["floor"] = {str(k): score_floor(y, x, k, features, repeats=5) for k in (n,)} | {
        str(len(x)): one
    }
    print(
        f"{name}: 10 000 against 10 000 images in {out['seconds_10000']:.0f} CPU seconds: {one}",
        flush=True,
    )

    real, test = y[:n], x[:n]
    noise = torch.randn(test.shape, generator=make_generator(0, "noise"))
    worse = {f"noise {s}": test + s * noise for s in (0.05, 0.1, 0.2, 0.4, 0.8)} | {
        f"blur {s}": blur(test, s) for s in (0.5, 1.0, 1.5, 2.0, 3.0)
    }
    worse |= {
        "training images": y[n : 2 * n],
        "without class 7": x[label != 7][:n],
        "all mirrored": test.flip(-1),
        "each twice": test[: n // 2].repeat(2, 1, 1, 1),
    }
    out["worse"] = {what: image_scores(z, real, features) for what, z in worse.items()}
    for what, s in out["worse"].items():
        print(f"{name}, {what}: " + ", ".join(f"{k} {v:.3g}" for k, v in s.items()), flush=True)

    held, new = x[:1000], x[1000:2000]
    copies = y[:1000] + 0.05 * noise[:1000]
    samples = {
        "test images": new,
        "a tenth copies": torch.cat([copies[:100], new[100:]]),
        "copies": copies,
    }
    out["nearest"] = {what: nearest_distance(z, y, held, features) for what, z in samples.items()}
    for what, s in out["nearest"].items():
        print(f"{name}, {what}: {s}", flush=True)

    out["shares"] = (torch.bincount(classify(x, features)[0], minlength=10) / len(x)).tolist()
    return out | dict(cpu_seconds=time.process_time() - t0, **facts("torch-fidelity"))


def mirror():
    "Rates of the test for mirrored digits on MNIST's test set, and its estimates of known shares"
    from nsgf_nb.evaluation.copies import mirrored_share

    x, train = images("mnist", False)[0], images("mnist", True)[0][:20_000]
    half = len(x) // 2
    mix = {
        s: torch.cat([x[: round(s * half)].flip(-1), x[round(s * half) : half]])
        for s in (0.01, 0.03, 0.1)
    }
    out = mirrored_share(x, x, train) | dict(
        n=len(x),
        train=len(train),
        estimates={str(s): mirrored_share(z, x[half:], train) for s, z in mix.items()},
    )
    print(out)
    return out | facts()


def main():
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--sets", nargs="+", default=["mnist", "fashionmnist"])
    p.add_argument(
        "--part",
        nargs="+",
        default=["train", "scores", "mirror"],
        choices=["train", "scores", "mirror"],
    )
    p.add_argument("--epochs", type=int, default=10)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--weights", default=str(ROOT / "nsgf_nb" / "weights"))
    p.add_argument("--out", default=str(ROOT / "bench" / "results" / "features.json"))
    a = p.parse_args()
    torch.set_num_threads(1)
    out = json.loads(Path(a.out).read_text()) if Path(a.out).exists() else {}
    if "mirror" in a.part:
        out["mirror"] = mirror()
        write(a.out, out)
    for part in [p for p in a.part if p != "mirror"]:
        for name in a.sets:
            out.setdefault(part, {})[name] = (
                train(name, a.epochs, a.seed, a.weights) if part == "train" else scores(name)
            )
            write(a.out, out)


if __name__ == "__main__":
    main()
