"""Sixty frozen problems: `problem(name)` is a pure function of a name in TABLE.

Random numbers come from NumPy's PCG64. Points are made in float64 and rounded to multiples of
2⁻¹⁴, weights are integers over their sum: so another processor, whose cosines
differ in the last digit, makes the same problem. `Problem.digest` tells when it does not.

What a problem asks for: v = T_xy - T_xx at the points x, with the cost |x - y|²/2 and the
temperature eps = blur². MNIST is read from $NSGF_DATA or ./data; where it is absent its problems
are left out.
"""

import hashlib
import math
import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

GRID = 2.0**14  # points are integers over this number


@dataclass(frozen=True)
class Row:
    "One line of the table."

    kind: str  # names a function of this module
    n: int
    m: int
    blur: float
    late: bool = False  # x is near y, as late in a flow; else x is a normal cloud
    weighted: bool = False  # weights from 1 to 9 over their sum, of x and of y
    d: int = 2  # for the kinds that have a choice

    @property
    def name(self):
        size = f"{self.n}" if self.n == self.m else f"{self.n}on{self.m}"
        marks = [word for word in ("late", "weighted") if getattr(self, word)]
        return "-".join([self.kind, f"{self.d}d", size, f"{self.blur:g}", *marks])


@dataclass(frozen=True)
class Problem:
    "What a solver is given."

    name: str
    x: Tensor  # (n, d), float32
    y: Tensor  # (m, d), float32
    a: Tensor | None  # (n,), float32, of sum 1; None: uniform
    b: Tensor | None  # (m,), float32, of sum 1; None: uniform
    blur: float

    @property
    def digest(self):
        "A hash of all that a solver is given."
        hasher = hashlib.sha256(f"{self.blur!r}".encode())
        for tensor in (self.x, self.y, self.a, self.b):
            hasher.update(b"none" if tensor is None else tensor.numpy().tobytes())
        return hasher.hexdigest()[:16]


# --- targets: functions of random numbers, a number of points and a dimension -------------------


def gaussians8(rng, n, d):
    "Eight small Gaussians on a circle of radius 5."
    angle = 2 * math.pi * rng.integers(0, 8, n) / 8
    centre = 5 * np.stack([np.cos(angle), np.sin(angle)], 1)
    return centre + 0.3 * rng.standard_normal((n, 2))


def moons(rng, n, d):
    "Two half circles that reach into each other."
    upper = rng.integers(0, 2, n) == 0
    angle = math.pi * rng.uniform(size=n)
    x = np.where(upper, np.cos(angle), 1 - np.cos(angle))
    y = np.where(upper, np.sin(angle), 0.5 - np.sin(angle))
    return np.stack([x, y], 1) + 0.05 * rng.standard_normal((n, 2))


def checkerboard(rng, n, d):
    "The eight dark cells of a board, each 2 × 2."
    column = rng.integers(0, 4, n)
    row = 2 * rng.integers(0, 2, n) + column % 2
    corner = 2.0 * np.stack([column, row], 1) - 4
    return corner + 2 * rng.uniform(size=(n, 2))


def spiral(rng, n, d):
    "A spiral of one and a half turns."
    angle = 3 * math.pi * np.sqrt(rng.uniform(size=n))
    curve = np.stack([angle * np.cos(angle), angle * np.sin(angle)], 1) / 2
    return curve + 0.1 * rng.standard_normal((n, 2))


def clusters(rng, n, d):
    "Two clusters twelve apart, of about a quarter and three quarters of the points."
    first = rng.uniform(size=n) < 0.25
    points = rng.standard_normal((n, d))
    points[:, 0] += np.where(first, -6.0, 6.0)
    return points


def tails(rng, n, d):
    "Student's t with three degrees of freedom."
    chi = np.square(rng.standard_normal((n, 3))).mean(1, keepdims=True)
    return rng.standard_normal((n, d)) / np.sqrt(chi)


def gaussian(rng, n, d):
    "A Gaussian of deviation 1/2, shifted by 2 along the first axis."
    points = rng.standard_normal((n, d)) / 2
    points[:, 0] += 2
    return points


def digits(rng, n, d):
    "Images of 8 × 8 pixels, from scikit-learn."
    from sklearn.datasets import load_digits

    images = load_digits().data / 8 - 1
    return images[rng.permutation(len(images))[:n]]


@lru_cache(1)
def mnist_images():
    "All training images, (60 000, 784) bytes; None where they are absent."
    root = Path(os.environ.get("NSGF_DATA", "data"))
    file = root / "MNIST" / "raw" / "train-images-idx3-ubyte"
    if not file.exists():
        return None
    return np.fromfile(file, dtype=np.uint8, offset=16).reshape(-1, 784)


def mnist(rng, n, d):
    "Images of 28 × 28 pixels."
    images = mnist_images()
    return images[rng.permutation(len(images))[:n]] / 127.5 - 1


def smooth(rng, n, d):
    "Random images of 3 × 32 × 32 with the spectrum of photographs: CIFAR-10's shape, no file."
    wave = np.sqrt(np.fft.rfftfreq(32)[None] ** 2 + np.fft.fftfreq(32)[:, None] ** 2)
    white = np.fft.rfft2(rng.standard_normal((n, 3, 32, 32)))
    images = np.fft.irfft2(white / (wave + 1 / 32) ** 1.5, s=(32, 32))
    return (0.5 * images / images.std()).clip(-1, 1).reshape(n, 3072)


# --- the table, from easy to sharp within each kind ---------------------------------------------

TABLE = (
    # tiny
    Row("gaussian", 16, 16, 1.0),
    Row("gaussian", 16, 16, 0.1),
    Row("gaussian", 24, 16, 0.5, weighted=True),
    Row("gaussian", 32, 32, 0.1, d=1),
    Row("gaussian", 32, 48, 0.5, d=3, weighted=True),
    Row("clusters", 32, 32, 2.0),
    Row("gaussians8", 64, 64, 0.5),
    Row("moons", 64, 64, 0.1, late=True),
    # the plane
    Row("gaussians8", 256, 256, 1.0),
    Row("gaussians8", 256, 256, 0.5),
    Row("gaussians8", 256, 256, 0.25),
    Row("gaussians8", 256, 256, 1.0, late=True),
    Row("gaussians8", 256, 256, 0.5, late=True),
    Row("gaussians8", 256, 384, 0.5, weighted=True),
    Row("gaussians8", 512, 512, 1.0),
    Row("gaussians8", 512, 512, 0.5),
    Row("gaussians8", 512, 512, 0.25),
    Row("gaussians8", 1024, 1024, 0.5),
    Row("gaussians8", 1024, 1024, 1.0, late=True),
    Row("moons", 256, 256, 0.5),
    Row("moons", 256, 256, 0.2),
    Row("moons", 256, 256, 0.1),
    Row("moons", 256, 256, 0.2, late=True),
    Row("moons", 256, 256, 0.05, late=True),
    Row("moons", 384, 128, 0.2, weighted=True),
    Row("checkerboard", 256, 256, 1.0),
    Row("checkerboard", 256, 256, 0.3),
    Row("checkerboard", 512, 512, 0.5, late=True),
    Row("checkerboard", 512, 512, 0.1, late=True),
    Row("checkerboard", 1000, 100, 0.3),
    Row("spiral", 256, 256, 0.5),
    Row("spiral", 512, 512, 0.2),
    Row("spiral", 256, 256, 0.2, late=True),
    Row("clusters", 256, 256, 2.0),
    Row("tails", 256, 256, 0.5),
    Row("tails", 256, 256, 0.3, late=True),
    # between the plane and images
    Row("gaussian", 256, 256, 2.0, d=10),
    Row("gaussian", 256, 256, 0.5, d=10),
    Row("clusters", 256, 256, 2.0, d=10, weighted=True),
    Row("gaussian", 256, 256, 2.0, d=100),
    # images
    Row("digits", 128, 128, 4.0, d=64),
    Row("digits", 128, 128, 1.0, d=64),
    Row("digits", 256, 256, 2.0, d=64, weighted=True),
    Row("digits", 256, 256, 1.0, d=64, late=True),
    Row("digits", 512, 512, 2.0, d=64),
    Row("digits", 512, 256, 1.0, d=64),
    Row("mnist", 128, 128, 8.0, d=784),
    Row("mnist", 256, 256, 4.0, d=784),
    Row("mnist", 256, 256, 2.0, d=784),
    Row("mnist", 256, 256, 1.0, d=784),
    Row("mnist", 256, 256, 2.0, d=784, late=True),
    Row("smooth", 64, 64, 8.0, d=3072),
    Row("smooth", 128, 128, 16.0, d=3072),
    Row("smooth", 128, 128, 4.0, d=3072),
    Row("smooth", 128, 192, 8.0, d=3072, weighted=True),
    Row("smooth", 256, 256, 8.0, d=3072, late=True),
    # large
    Row("gaussians8", 2048, 2048, 0.5),
    Row("checkerboard", 4096, 1024, 0.5, late=True),
    Row("gaussians8", 4096, 4096, 1.0),
    Row("checkerboard", 10_000, 4000, 1.0),
)
ROWS = {row.name: row for row in TABLE}
SOURCE_WIDTH = {"moons": 1.0, "spiral": 2.0, "gaussians8": 3.0, "checkerboard": 2.0}


# --- problems -----------------------------------------------------------------------------------


def on_grid(points):
    "Rounded, in float32: every multiple of 2⁻¹⁴ below 2¹⁰ is a number of float32."
    return torch.from_numpy(np.round(points * GRID) / GRID).float()


def integer_weights(rng, n):
    "From 1 to 9, over their sum."
    parts = rng.integers(1, 10, n)
    return torch.from_numpy(parts / parts.sum()).float()


def available(name):
    "Can this problem be made here?"
    return ROWS[name].kind != "mnist" or mnist_images() is not None


def problem(name):
    "The problem of this name."
    row = ROWS[name]
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    rng = np.random.Generator(np.random.PCG64(seed))
    target = globals()[row.kind]
    both = target(rng, row.m + row.n, row.d)
    y = both[: row.m]
    noise = rng.standard_normal((row.n, y.shape[1]))
    x = SOURCE_WIDTH.get(row.kind, 1.0) * noise
    if row.late:
        x = 0.9 * both[row.m :] + 0.1 * x
    a = integer_weights(rng, row.n) if row.weighted else None
    b = integer_weights(rng, row.m) if row.weighted else None
    return Problem(name, on_grid(x), on_grid(y), a, b, row.blur)
