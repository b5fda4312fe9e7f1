"""2000 problems for the estimator: `problem(number)` is a pure function of a number from 0 to 1999.

STRATA, at the end, says which numbers belong to which stratum. Random numbers come from NumPy's
PCG64, whose streams do not depend on the processor. Points and weights are drawn in float64 and
then rounded to the dtype of the problem: what was rounded is the problem. `distance` is the rms
distance of the clouds, so `blur = .1*distance` is a relative length.
"""

import math
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

DTYPES = (torch.float32, torch.float64)
HALF = (torch.float16, torch.bfloat16)
BACKENDS = ("auto", "dense", "stream")


@dataclass
class Problem:
    "Arguments of `SinkhornVelocity` and of its call. In a batch all tensors have one more axis."

    number: int
    stratum: str
    kind: str  # what is special, in words
    x: Tensor  # (n, d)
    y: Tensor  # (m, d)
    x_self: Tensor | None = None  # (k, d), with self_term "two_batch"
    a: Tensor | None = None  # (n,)
    b: Tensor | None = None  # (m,)
    blur: float | None = None
    relative_blur: float | None = None
    self_term: str = "same"
    backend: str = "auto"
    chunk: int | None = None
    tol: float = 1e-3
    scale: float | None = None
    init: "Problem | None" = None  # solved first, its info is the warm start
    batched: bool = False
    may_refuse: str = ""  # why a ValueError would be right

    def settings(self):
        "Arguments of SinkhornVelocity."
        names = ("blur", "relative_blur", "self_term", "tol", "backend", "chunk")
        return {name: getattr(self, name) for name in names}

    def arguments(self):
        "Arguments of the call, without the warm start."
        names = ("x", "y", "x_self", "a", "b", "scale", "batched")
        return {name: getattr(self, name) for name in names}

    def alone(self):
        "The problems of a batch, one by one; a problem that is no batch is its own."
        if not self.batched:
            return [self]

        def nth(z, i):
            return None if z is None else z[i]

        return [
            replace(
                self,
                batched=False,
                **{name: nth(getattr(self, name), i) for name in ("x", "y", "x_self", "a", "b")},
            )
            for i in range(len(self.x))
        ]


@dataclass
class Draft:
    "A problem in float64, before settings are drawn and numbers are rounded."

    kind: str
    x: np.ndarray
    y: np.ndarray
    x_self: np.ndarray | None = None  # None: drawn like x where it is needed
    a: np.ndarray | None = None
    b: np.ndarray | None = None
    blur: float | None = None  # None: drawn relative to the distance
    blurs: tuple[float, float] = (-2.5, 1.0)  # powers of ten of blur/distance
    dtype: torch.dtype | None = None  # None: float32 or float64
    self_term: str | None = None  # None: drawn
    more: dict = field(default_factory=dict)  # further fields of Problem


# --- small tools ----------------------------------------------------------------------------------


def count(rng, least=1, most=60):
    "A number of points, small ones as often as large ones."
    return round(math.exp(rng.uniform(math.log(least), math.log(most))))


def normal(rng, n, d):
    return rng.standard_normal((n, d))


def power(rng, low, high):
    "A power of ten, its exponent uniform."
    return float(10 ** rng.uniform(low, high))


def distance_of(x, y):
    "Rms distance between points of x and of y; 1 where all coincide. Nothing overflows."
    both = np.concatenate([x, y])
    top = np.abs(both - both[0]).max()
    if top == 0:
        return 1.0
    p, q = (x - both[0]) / top, (y - both[0]) / top
    spread = np.square(p - p.mean(0)).sum(1).mean() + np.square(q - q.mean(0)).sum(1).mean()
    return top * math.sqrt(spread + np.square(p.mean(0) - q.mean(0)).sum())


def holds_masked(a, n):
    "Is there a plan without a diagonal for these weights, with room to spare?"
    if a is None:
        return n >= 2
    share = a / a.sum()
    return (share > 0).sum() >= 3 and share.max() < 0.45


# --- strata: each a function of random numbers and of the place k in the stratum ------------------


def plain(rng, k):
    "Clouds of any dimension and size: duplicates, lines, an outlier, off the origin."
    n, m, d = count(rng), count(rng), count(rng, 1, 200 if k % 10 == 0 else 20)
    if k % 20 == 1:
        n, m = count(rng, 100, 300), count(rng, 100, 300)
    x, y = normal(rng, n, d) * math.exp(rng.uniform(-1, 1)), normal(rng, m, d) + rng.uniform(0, 3)
    kinds = ("clouds", "repeats", "line in space", "outlier", "uncentred", "x from y", "one point")
    kind = kinds[k % 7]
    if kind == "repeats":
        y = y[rng.integers(0, max(1, m // 4), m)]
    if kind == "line in space":
        x, y = np.repeat(x[:, :1], d, 1), np.repeat(y[:, :1], d, 1)
    if kind == "outlier":
        y[0] += 1000
    if kind == "uncentred":
        x, y = x + 1000, y + 1000
    if kind == "x from y":
        x = y[rng.integers(0, m, n)]
    if kind == "one point":
        x = x[:1]
    return Draft(kind, x, y, blurs=(-3, 2))


def weights(rng, k):
    "Weights from 0 to 1e-30 and ordinary, of x, of y, or of both."
    kinds = (
        "ordinary",
        "zeros in b",
        "zeros in a",
        "zeros in both",
        "1 to 1e-30",
        "one heavy",
        "light and far",
        "all but one 0",
        "half 1e-30",
        "padding far away",
    )
    kind = kinds[k % len(kinds)]
    n, m, d = count(rng, 2), count(rng, 2), count(rng, 1, 8)
    x, y = normal(rng, n, d), normal(rng, m, d) + rng.uniform(0, 2)
    a, b = rng.uniform(0.1, 1, n), rng.uniform(0.1, 1, m)
    if kind in ("zeros in a", "zeros in both"):
        a[rng.uniform(size=n) < 0.4] = 0
        a[0] = 1
    if kind in ("zeros in b", "zeros in both"):
        b[rng.uniform(size=m) < 0.4] = 0
        b[0] = 1
    if kind == "1 to 1e-30":
        a, b = 10 ** rng.uniform(-30, 0, n), 10 ** rng.uniform(-30, 0, m)
    if kind == "one heavy":
        a[1:], b[1:] = 1e-8, 1e-8
    if kind == "light and far":
        a[-1], b[-1] = power(rng, -30, -5), power(rng, -30, -5)
        x[-1] += 3
        y[-1] -= 3
    if kind == "all but one 0":
        a[1:], b[1:] = 0, 0
    if kind == "half 1e-30":
        a[::2], b[1::2] = 1e-30, 1e-30
    if kind == "padding far away":
        x, y = np.concatenate([x, x * 0 + 100]), np.concatenate([y, y * 0 + 100])
        a, b = np.concatenate([a, a * 0]), np.concatenate([b, b * 0])
        return Draft(kind, x, y, a=a, b=b, blur=power(rng, -1.5, 0.5))
    return Draft(kind, x, y, a=a, b=b)


def half_weights(rng, k):
    "Weights in 16 bits, with sums that leave their range."
    n, m = count(rng, 4), count(rng, 4)
    x, y = normal(rng, n, 2), normal(rng, m, 2) + 1
    kinds = ("ordinary", "6e4 each", "1e-4 each")
    kind = kinds[k % 3]
    top = {"ordinary": 1.0, "6e4 each": 6e4, "1e-4 each": 1e-4}[kind]
    a, b = top * rng.uniform(0.5, 1, n), top * rng.uniform(0.5, 1, m)
    return Draft(kind, x, y, a=a, b=b, dtype=HALF[k % 2], self_term="same", blurs=(-1, 1))


def coincident(rng, k):
    "All points at one place, or some; one point on itself."
    kinds = (
        "x at one place",
        "y at one place",
        "each at its place",
        "all at one place",
        "one point on itself",
        "x is y",
        "half of y at one place",
        "x repeats y",
        "one point on another",
        "second batch is x",
    )
    kind = kinds[k % len(kinds)]
    n, m, d = count(rng), count(rng), count(rng, 1, 8)
    x, y = normal(rng, n, d), normal(rng, m, d) + 1
    x_self = None
    if kind in ("x at one place", "each at its place", "all at one place"):
        x[:] = x[0]
    if kind in ("y at one place", "each at its place"):
        y[:] = y[0]
    if kind == "all at one place":
        y[:] = x[0]
    if kind == "one point on itself":
        x = y = y[:1]
    if kind == "one point on another":
        x, y = x[:1], y[:1]
    if kind == "x is y":
        x = y.copy()
    if kind == "half of y at one place":
        y[: m // 2 + 1] = y[0]
    if kind == "x repeats y":
        x = y[rng.integers(0, m, n)]
    if kind == "second batch is x":
        x_self = x.copy()
    self_term = "two_batch" if kind == "second batch is x" else None
    return Draft(kind, x, y, x_self, self_term=self_term)


def lattice(rng, k):
    "Points of a lattice: costs have ties, optimal plans are many."
    kinds = ("same lattice", "half a step", "other step", "subset", "diagonal")
    kind = kinds[k % 5]
    d = 1 + k % 3
    side = {1: 20, 2: 6, 3: 3}[d]
    axes = np.meshgrid(*[np.arange(side)] * d)
    grid = np.stack([axis.ravel() for axis in axes], 1).astype(float)
    x, y = grid.copy(), grid.copy()
    if kind == "half a step":
        y = y + 0.5
    if kind == "other step":
        y = y * 2
    if kind == "subset":
        y = y[rng.permutation(len(y))[: count(rng, 1, len(y))]]
    if kind == "diagonal":
        y = y[:, ::-1] + np.arange(d)
    return Draft(kind, x, y, blurs=(-3.5, 0))


def clusters(rng, k):
    "Two clusters far apart; blur is relative to their width."
    kinds = ("equal masses", "other masses", "one wide", "only y has two", "link by weights")
    kind = kinds[k % 5]
    n, m, d = count(rng, 4), count(rng, 4), count(rng, 1, 5)
    apart = power(rng, 1, 3)
    first = np.arange(n) < n // 2
    second = np.arange(m) < m // 2
    a = b = None
    if kind == "equal masses":
        n = m = 2 * (min(n, m) // 2)
        first = second = np.arange(n) < n // 2
    if kind == "other masses":
        second = np.arange(m) < max(1, m // 3)
    if kind == "only y has two":
        first = np.zeros(n, dtype=bool)
    if kind == "link by weights":
        a, b = rng.uniform(0.5, 1, n), rng.uniform(0.5, 1, m)
    x, y = normal(rng, n, d), normal(rng, m, d)
    if kind == "one wide":
        x[first] *= 5
    x[first] += apart
    y[second] += apart
    return Draft(kind, x, y, a=a, b=b, blur=power(rng, -1, 1) * math.sqrt(d))


def tails(rng, k):
    "Heavy tails: Cauchy, log-normal, Pareto."
    kinds = ("Cauchy", "log-normal", "Pareto")
    kind = kinds[k % 3]
    n, m, d = count(rng, 4), count(rng, 4), count(rng, 1, 5)
    draw = {
        "Cauchy": lambda size: rng.standard_cauchy(size),
        "log-normal": lambda size: np.exp(3 * rng.standard_normal(size)),
        "Pareto": lambda size: rng.pareto(0.7, size),
    }[kind]
    return Draft(kind, draw((n, d)), draw((m, d)), blurs=(-3, 0.5))


def offset(rng, k):
    "A cloud a million from the origin, in a dtype that still tells its points apart."
    dtype = DTYPES[k % 2]
    n, m, d = count(rng, 2), count(rng, 2), count(rng, 1, 8)
    width = power(rng, 1, 3) if dtype == torch.float32 else power(rng, -2, 2)
    sign = (1, -1)[k // 2 % 2]
    x, y = width * normal(rng, n, d), width * (normal(rng, m, d) + 1)
    return Draft("1e6 from 0", x + sign * 1e6, y + sign * 1e6, dtype=dtype, blurs=(-2, 1))


def ratio(rng, k):
    "n/m from 1/500 to 500."
    pairs = ((1, 500), (500, 1), (2, 500), (500, 2), (3, 200), (200, 3), (7, 90), (90, 7), (40, 41))
    n, m = pairs[k % len(pairs)]
    d = count(rng, 1, 5)
    x, y = normal(rng, n, d), normal(rng, m, d) + 1
    self_term = "same" if n > 90 else None
    return Draft(f"{n} on {m}", x, y, self_term=self_term, blurs=(-1.5, 1))


def line(rng, k):
    "One dimension."
    kinds = ("uniform", "normal", "sorted steps", "interleaved")
    kind = kinds[k % 4]
    n, m = count(rng, 2), count(rng, 2)
    x, y = rng.uniform(size=(n, 1)), rng.uniform(size=(m, 1)) * 2
    if kind == "normal":
        x, y = normal(rng, n, 1), normal(rng, m, 1) + 1
    if kind == "sorted steps":
        x, y = np.arange(n)[:, None] / n, np.arange(m)[:, None] / m
    if kind == "interleaved":
        x, y = np.arange(n)[:, None] * 2.0, np.arange(n)[:, None] * 2.0 + 1
    return Draft(kind, x, y, blurs=(-3, 1))


def high_dimension(rng, k):
    "Dimensions 3 to 784."
    d = (3, 8, 16, 64, 256, 784)[k % 6]
    most = 60 if d <= 64 else 20
    n, m = count(rng, 2, most), count(rng, 2, most)
    x, y = normal(rng, n, d), normal(rng, m, d) * 0.5 + rng.uniform(0, 0.5)
    return Draft(f"d = {d}", x, y, blurs=(-1.5, 0.5))


def small_blur(rng, k):
    "Blur from 1e-6 to 1e-2 of the distance."
    kinds = ("n = m", "n and m")
    n = count(rng, 2, 40)
    m = n if k % 2 == 0 else count(rng, 2, 40)
    d = count(rng, 1, 5)
    x, y = normal(rng, n, d), normal(rng, m, d) + 1
    step = (-6, -5, -4, -3)[k // 2 % 4]
    return Draft(kinds[k % 2] + f", 1e{step}", x, y, blurs=(step, step + 1))


def large_blur(rng, k):
    "Blur from the distance to 1e6 times it."
    n, m, d = count(rng), count(rng), count(rng, 1, 8)
    x, y = normal(rng, n, d), normal(rng, m, d) + 1
    low = (0, 2, 4)[k % 3]
    return Draft(f"1e{low}", x, y, blurs=(low, low + 2))


def half_precision(rng, k):
    "Points in 16 bits."
    n, m, d = count(rng, 2), count(rng, 2), count(rng, 1, 16)
    kinds = ("ordinary", "small", "large", "off the origin")
    kind = kinds[k // 2 % 4]
    x, y = normal(rng, n, d), normal(rng, m, d) + 1
    factor = {"ordinary": 1.0, "small": 0.01, "large": 1000.0, "off the origin": 1.0}[kind]
    x, y = x * factor, y * factor
    if kind == "off the origin":
        x, y = x + 30, y + 30
    return Draft(kind, x, y, dtype=HALF[k % 2], blurs=(-2, 1))


def warm_start(rng, k):
    "A warm start from another problem."
    kinds = (
        "near",
        "target far away",
        "other blur",
        "other sizes",
        "other scale",
        "other dtype",
        "weights of zero",
        "permuted",
    )
    kind = kinds[k % len(kinds)]
    n, m, d = count(rng, 4), count(rng, 4), count(rng, 1, 5)
    x, y = normal(rng, n, d), normal(rng, m, d) + 1
    draft = Draft(kind, x, y, dtype=DTYPES[k // len(kinds) % 2], blur=power(rng, -1.5, 0.5))
    earlier = replace(draft, x=x + 0.1 * normal(rng, n, d), self_term="same")
    if kind == "target far away":
        earlier = replace(earlier, y=y + power(rng, 1, 4))
    if kind == "other blur":
        earlier = replace(earlier, blur=draft.blur * power(rng, -2, 2))
    if kind == "other sizes":
        earlier = replace(earlier, x=x[:3], y=y[:2])
    if kind == "other scale":
        factor = power(rng, -6, 6)
        earlier = replace(earlier, x=x * factor, y=y * factor)
    if kind == "other dtype":
        earlier = replace(earlier, dtype=DTYPES[1 - k // len(kinds) % 2])
    if kind == "weights of zero":
        b = rng.uniform(0.1, 1, m)
        b[0] = 0
        earlier = replace(earlier, b=b)
    if kind == "permuted":
        earlier = replace(earlier, y=rng.permutation(y))
    return replace(draft, more={"earlier": earlier})


def batch(rng, k):
    "Problems of different difficulty in one batch, of one blur."
    kinds = ("widths", "one at one place", "one far", "weights", "one solved")
    kind = kinds[k % 5]
    B, n, m, d = int(rng.integers(2, 5)), count(rng, 2, 30), count(rng, 2, 30), count(rng, 1, 5)
    x, y = rng.standard_normal((B, n, d)), rng.standard_normal((B, m, d)) + 1
    a = b = None
    if kind == "widths":
        factor = 10.0 ** np.linspace(-2, 1, B)[:, None, None]
        x, y = x * factor, y * factor
    if kind == "one at one place":
        x[0], y[0] = 0.5, 0.5
    if kind == "one far":
        y[-1] += 30
    if kind == "weights":
        a, b = rng.uniform(0, 1, (B, n)), rng.uniform(0, 1, (B, m))
        b[0, 1:] *= 1e-12
    if kind == "one solved" and n <= m:
        x[0] = y[0, :n]
    self_term = "same" if kind == "weights" else None
    return Draft(
        kind, x, y, a=a, b=b, blur=power(rng, -1, 0.5), self_term=self_term, more={"batched": True}
    )


def scales(rng, k):
    "Tiny and huge units: the same problems, multiplied."
    n, m, d = count(rng), count(rng), count(rng, 1, 5)
    x, y = normal(rng, n, d), normal(rng, m, d) + 1
    dtype = DTYPES[k % 2]
    ends = (-19, 19) if dtype == torch.float32 else (-160, 150)
    steps = (0.0, 0.1, 0.4, 0.6, 0.9, 1.0)
    exponent = ends[0] + steps[k // 2 % 6] * (ends[1] - ends[0])
    factor = 10.0**exponent
    return Draft(f"1e{exponent:.0f}", x * factor, y * factor, dtype=dtype, blurs=(-2, 1))


STRATA = (  # name, function, how many
    ("plain", plain, 200),
    ("weights", weights, 240),
    ("half weights", half_weights, 30),
    ("coincident", coincident, 150),
    ("lattice", lattice, 120),
    ("clusters", clusters, 140),
    ("tails", tails, 100),
    ("offset", offset, 100),
    ("ratio", ratio, 120),
    ("line", line, 120),
    ("high dimension", high_dimension, 100),
    ("small blur", small_blur, 120),
    ("large blur", large_blur, 60),
    ("half precision", half_precision, 100),
    ("warm start", warm_start, 120),
    ("batch", batch, 80),
    ("scales", scales, 100),
)
TOTAL = sum(entry[2] for entry in STRATA)


# --- settings, and rounding to the dtype ----------------------------------------------------------


def place(number):
    "Stratum, its function, and the place in it."
    for name, function, size in STRATA:
        if number < size:
            return name, function, number
        number -= size
    raise IndexError(f"number: expected 0 to {TOTAL - 1}")


def rounded(z, dtype):
    return None if z is None else torch.from_numpy(np.ascontiguousarray(z)).to(dtype)


def choose_self_term(rng, draft):
    "Half of the problems have the plain self term; the others where they have a solution."
    wanted = rng.choice(["same", "same", "masked", "two_batch"])
    if draft.self_term is not None:
        return draft.self_term
    n = draft.x.shape[-2]
    if wanted == "masked" and not (holds_masked(draft.a, n) and n <= 200):
        return "same"
    return str(wanted)


def second_batch(rng, draft):
    "Points like those of x, each moved a little; twice as many as x has, up to 60."
    n = draft.x.shape[-2]
    index = rng.integers(0, n, min(60, 2 * n))
    near = draft.x[..., index, :]
    width = np.std(near) or 0.01 * np.abs(near).max()
    return near + 0.3 * width * rng.standard_normal(near.shape)


def finish(rng, number, stratum, draft):
    "Draw what the draft leaves open, and round."
    dtype = draft.dtype or DTYPES[int(rng.integers(2))]
    self_term = choose_self_term(rng, draft)
    x_self = draft.x_self
    if self_term == "two_batch" and x_self is None:
        x_self = second_batch(rng, draft)
    d = draft.x.shape[-1]
    distance = distance_of(draft.x.reshape(-1, d), draft.y.reshape(-1, d))
    blur, relative_blur = draft.blur or power(rng, *draft.blurs) * distance, None
    settings = dict(draft.more)
    earlier = settings.pop("earlier", None)
    tight = (1e-3, 1e-3, 1e-3, 1e-2, 1e-4, 1e-5)
    tol = float(rng.choice(tight if dtype in DTYPES else tight[:4]))
    if dtype == torch.float64 and rng.uniform() < 0.1:
        tol = 1e-8
    scale = distance if rng.uniform() < 0.1 and "batched" not in settings else None
    wanted = rng.uniform() < 0.2 and draft.blur is None and -4 < draft.blurs[0] < 0
    if wanted and (stratum == "coincident" or spread_out(draft)):
        blur, relative_blur = None, power(rng, max(draft.blurs[0], -2), min(draft.blurs[1], 1))
    backend = BACKENDS[number % 3]
    chunk = 7 if backend == "stream" and number % 2 else None
    new = Problem(
        number,
        stratum,
        draft.kind,
        rounded(draft.x, dtype),
        rounded(draft.y, dtype),
        rounded(x_self, dtype),
        rounded(draft.a, dtype),
        rounded(draft.b, dtype),
        blur,
        relative_blur,
        self_term,
        backend,
        chunk,
        tol,
        scale,
        **settings,
    )
    new.may_refuse = refusal(new)
    if earlier is not None:
        first = finish(rng, number, stratum, earlier)
        new.init = replace(first, self_term="same", x_self=None, scale=None, tol=1e-3)
    return new


def one_place(z, w):
    "Are all points that have weight at one place?"
    heavy = z if w is None else z[w > 0]
    return bool((heavy == heavy[:1]).all())


def spread_out(draft):
    "Has a relative blur a meaning?"
    return not (one_place(draft.x, draft.a) or one_place(draft.y, draft.b))


def refusal(p):
    "Why a ValueError would be right: what float64 cannot hold, or a relative blur of a point mass."
    if p.relative_blur is not None:
        if one_place(p.x, p.a) or one_place(p.y, p.b):
            return "a relative blur of a point mass"
    elif not 1e-300 < p.blur * p.blur < 1e300:
        return "blur² leaves float64"
    if max(p.x.double().abs().max(), p.y.double().abs().max()) > 1e150:
        return "squares leave float64"
    return ""


def problem(number):
    "Problem `number`, 0 to 1999."
    stratum, function, k = place(number)
    rng = np.random.default_rng([20261126, number])
    return finish(rng, number, stratum, function(rng, k))


def stride(size=300):
    "Numbers of `size` problems at even distances through all strata."
    return [k * TOTAL // size for k in range(size)]
