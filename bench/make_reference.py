"""Converged float64 trajectories that bench/estimator.py is held against, inputs by seed.

    python bench/make_reference.py [--cases 8gaussians-512-0.25 …]

The endpoints are in bench/reference.safetensors; those that are in the file already, for the same
inputs, are kept. Each step is solved to 1e-6 of the first velocity and checked by the
mean-velocity invariant; with --check, for n <= 512, also by the dense Newton oracle of the lesson
on the velocity, another algorithm.
"""

import argparse
import hashlib
import os
import sys
from functools import lru_cache
from pathlib import Path

import torch

HERE = Path(__file__).parent
FILE = HERE / "reference.safetensors"
# Euler steps, step size
STEPS = {
    "8gaussians": (10, 0.5),
    "mnist": (5, 0.2),
    "digits": (5, 0.2),
    "smooth": (5, 0.2),
}


@lru_cache(1)
def images():
    "MNIST where torchvision finds it under $NSGF_DATA or ./data, else digits."
    from nsgf_nb.data import get_sampler

    root = os.environ.get("NSGF_DATA", "data")
    return (
        ("mnist", get_sampler("mnist", root=root, download=False))
        if (Path(root) / "MNIST").exists()
        else ("digits", get_sampler("digits"))
    )


def smooth_images(n, generator):
    """Random images of 3 × 32 × 32 with the spectrum of photographs, in [-1, 1].

    They have the shape of CIFAR-10's and need no file.
    """
    k = (torch.fft.rfftfreq(32)[None] ** 2 + torch.fft.fftfreq(32)[:, None] ** 2).sqrt()
    z = torch.fft.irfft2(
        torch.fft.rfft2(torch.randn(n, 3, 32, 32, generator=generator)) / (k + 1 / 32) ** 1.5,
        s=(32, 32),
    )
    return (z / z.std() * 0.5).clamp(-1, 1)


def cases():
    "Tier 1: (data, n, blur)."
    name, _ = images()
    return (
        [("8gaussians", n, blur) for n in (512, 2048) for blur in (0.25, 0.5, 1.0)]
        + [(name, 256, blur) for blur in (1.0, 2.0, 4.0)]
        + [("smooth", 128, 4.0)]
    )


def inputs(data, n):
    "x0 from N(0, I) and y, (n, d) in float32."
    from nsgf_nb.core import make_generator
    from nsgf_nb.data import get_sampler

    gx, gy = make_generator(0, "bench x"), make_generator(0, "bench y")
    if data == "smooth":
        y = smooth_images(n, gy)
    else:
        y = (images()[1] if data in ("mnist", "digits") else get_sampler(data))(n, gy)
        y = y[0] if isinstance(y, tuple) else y
    y = y.flatten(1).float()
    return torch.randn(y.shape, generator=gx), y


def digest(*tensors):
    h = hashlib.sha256()
    for t in tensors:
        h.update(t.contiguous().numpy().tobytes())
    return h.hexdigest()[:16]


def key(data, n, blur):
    return f"{data}-{n}-{blur:g}"


def endpoint(data, n, blur, check=False):
    "x_T in float64, with the largest deviation of the mean, and of the oracle, along the way."
    from nsgf_nb.estimator import SinkhornVelocity
    from nsgf_nb.velocity import sinkhorn_velocity

    x, y = (z.double() for z in inputs(data, n))
    steps, eta = STEPS[data]
    vel, info, worst, apart, scale = (
        SinkhornVelocity(blur, tol=1e-6, max_iter=20_000),
        None,
        0.0,
        0.0,
        None,
    )
    for k in range(steps):
        v, info = vel(x, y, init=info, scale=scale, return_info=True)
        if not info.converged:
            raise RuntimeError(
                f"{key(data, n, blur)}: step {k} did not converge, error {info.err_v:.1e}"
            )
        scale = scale or v.square().sum(1).mean().sqrt().item()
        worst = max(worst, (v.mean(0) - (y.mean(0) - x.mean(0))).norm().item() / scale)
        if check and n <= 512:
            apart = max(
                apart,
                (v - sinkhorn_velocity(x, y, blur, tol=1e-9)).square().sum(1).mean().sqrt().item()
                / scale,
            )
        x = x + eta * v
    return x, worst, apart


def main():
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--cases", nargs="+")
    p.add_argument("--check", action="store_true")
    a = p.parse_args()
    have, meta = {}, {}
    if FILE.exists():
        have = load_file(FILE)
        with safe_open(FILE, "pt") as f:
            meta = f.metadata() or {}
    for case in cases():
        k = key(*case)
        if a.cases and k not in a.cases:
            continue
        d = digest(*inputs(*case[:2]))
        if meta.get(k) == d and not a.check:
            continue
        x, worst, apart = endpoint(*case, a.check)
        have[k], meta[k] = x.float().contiguous(), d
        save_file(have, FILE.with_suffix(".tmp"), meta)
        os.replace(FILE.with_suffix(".tmp"), FILE)
        print(
            f"{k:24} mean off by {worst:.1e} of the first step's velocity"
            + (f", oracle by {apart:.1e}" if a.check and case[1] <= 512 else ""),
            flush=True,
        )


if __name__ == "__main__":
    sys.exit(main())
