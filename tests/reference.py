"""The right velocity, found by another way than the package's: log-domain sweeps on explicit costs.

What the package does and this file does not: float32, the expanded square, absorbed kernels,
conjugate gradients. What this file does: costs from differences and potentials, both kept to twice
the digits of float64, so that a temperature of 1e-12 of the largest cost is still resolved. Sweeps
come first; where they are too slow a dense Newton step follows them, solved as a network of
conductances, so that a weight of 1e-30 keeps its digits. The answer is judged by the marginals of a
last log-domain pass, and by what a further step would change. Only NumPy is used.

Conventions: cost |x - y|²/2, eps = blur², P_ij = a_i b_j exp((f_i + g_j - C_ij)/eps).
"""

import math
import time
from dataclasses import dataclass

import numpy as np

MARGINAL = 1e-10  # L1 error of the marginals of an answer
BUDGET = 10.0  # CPU seconds for a problem; what needs more stays unchecked
STAGE = 1e-9  # the same where an intermediate temperature is left: blocks must be linked while warm
FACTOR = 4  # between two temperatures
RIDGES = (1e-40, 1e-14, 1e-6, 1e-2, 1.0)  # a Newton step that fails is tried again with the next
STEP = 8.0  # largest change of a potential in a Newton step, in units of eps


# --- twice the digits of float64 --------------------------------------------------------------


def two_sum(p, q):
    "p + q as a rounded sum and what the rounding left, exactly (Knuth)."
    total = p + q
    part = total - p
    return total, (p - (total - part)) + (q - part)


def two_square(p):
    "p² as a rounded square and what the rounding left, exactly (Dekker)."
    square = p * p
    shifted = 134217729.0 * p
    high = shifted - (shifted - p)
    low = p - high
    return square, ((high * high - square) + 2 * high * low) + low * low


@dataclass
class Long:
    "Numbers of about 32 digits: high + low."

    high: np.ndarray
    low: np.ndarray

    @classmethod
    def zeros(cls, *shape):
        return cls(np.zeros(shape), np.zeros(shape))

    def plus(self, increment):
        "A Long plus a float64 array."
        high, rest = two_sum(self.high, increment)
        high, low = two_sum(high, rest + self.low)
        return Long(high, low)

    def extrapolate(self, before, ratio):
        "self + ratio·(self - before): the difference is small, float64 holds it."
        difference = (self.high - before.high) + (self.low - before.low)
        return self.plus(ratio * difference)


@dataclass
class Costs:
    "|x_i - y_j|²/2, and which pairs are forbidden."

    high: np.ndarray  # (n, m)
    low: np.ndarray  # (n, m)
    forbidden: np.ndarray | None = None  # (n, m), bool

    def take(self, rows, columns):
        "The costs of some rows and columns."
        index = np.ix_(rows, columns)
        forbidden = None if self.forbidden is None else self.forbidden[index]
        return Costs(self.high[index], self.low[index], forbidden)

    def transpose(self):
        forbidden = None if self.forbidden is None else self.forbidden.T
        return Costs(self.high.T, self.low.T, forbidden)

    @property
    def top(self):
        "The largest cost that counts."
        if self.forbidden is None:
            return self.high.max()
        return np.where(self.forbidden, 0.0, self.high).max()


def costs(x, y, masked=False):
    "Costs from differences, each exact to twice the digits of float64."
    high = np.zeros((len(x), len(y)))
    low = np.zeros((len(x), len(y)))
    for p, q in zip(x.T, y.T):
        difference, rest = two_sum(p[:, None], -q[None, :])
        square, small = two_square(difference)
        high, carry = two_sum(high, square)
        low += carry + small + 2 * difference * rest
    high, low = two_sum(high, low)
    return Costs(high / 2, low / 2, np.eye(len(x), dtype=bool) if masked else None)


def exponents(C, f, g, eps):
    "(f_i + g_j - C_ij)/eps, the sum rounded once; -inf where a pair is forbidden."
    total, first = two_sum(f.high[:, None], g.high[None, :])
    total, second = two_sum(total, -C.high)
    rest = ((first + second) + (f.low[:, None] + g.low[None, :])) - C.low
    E = (total + rest) / eps
    if C.forbidden is not None:
        E[C.forbidden] = -np.inf
    return E


def logsumexp(E, axis):
    "log Σ exp(E), from the largest exponent."
    top = E.max(axis, keepdims=True)
    return (np.log(np.exp(E - top).sum(axis, keepdims=True)) + top).squeeze(axis)


# --- one temperature ----------------------------------------------------------------------------


@dataclass
class State:
    "Potentials whose columns are exact, and what they leave of the rows."

    f: Long
    g: Long
    eps: float
    plan: np.ndarray  # (n, m), columns sum to b
    dual: float  # in units of eps, from an origin that one temperature shares
    error: float  # L1 error of the rows
    worst: float  # largest |log(row sum/a)|


def row_step(C, f, g, eps, log_b):
    "f from g: the soft minimum. Twice, since the first one may come from far and be rounded there."
    for _ in range(2):
        f = f.plus(-eps * logsumexp(exponents(C, f, g, eps) + log_b[None, :], 1))
    return f


def evaluate(C, f, g, eps, log_a, log_b):
    "Make the columns exact, and look at the rows."
    for _ in range(2):
        g = g.plus(-eps * logsumexp(exponents(C, f, g, eps) + log_a[:, None], 0))
    log_plan = exponents(C, f, g, eps) + log_a[:, None] + log_b[None, :]
    plan = np.exp(log_plan)
    a, b = np.exp(log_a), np.exp(log_b)
    rows = logsumexp(log_plan, 1)
    dual = (a @ f.high + b @ g.high) / eps + (a @ f.low + b @ g.low) / eps
    error = np.abs(np.exp(rows) - a).sum()
    return State(f, g, eps, plan, dual, error, np.abs(rows - log_a).max())


def gain(new, old, a, b):
    "What the dual gained, in units of eps, without cancellation."
    df = (new.f.high - old.f.high) + (new.f.low - old.f.low)
    dg = (new.g.high - old.g.high) + (new.g.low - old.g.low)
    return (a @ df + b @ dg) / new.eps


def network(W, ground, sources):
    """Potentials of a network of conductances: Σ_j W_ij (z_i - z_j) + ground_i z_i = sources_i.

    Elimination adds and multiplies and never subtracts (Grassmann, Taksar and Heyman), so a
    conductance of 1e-30 beside one of 1 keeps all its digits."""
    W, ground, sources = W.copy(), ground.copy(), sources.copy()
    n = len(sources)
    pivots = np.empty(n)
    for k in range(n - 1, -1, -1):
        pivots[k] = ground[k] + W[k, :k].sum()
        ratio = W[k, :k] / pivots[k]
        ground[:k] += ratio * ground[k]
        sources[:k] += ratio * sources[k]
        W[:k, :k] += np.outer(ratio, W[k, :k])
    z = np.empty(n)
    for k in range(n):
        z[k] = (sources[k] + W[k, :k] @ z[:k]) / pivots[k]
    return z


def newton_direction(st, a, ridge):
    "The Newton step of the dual of f, g eliminated; the heaviest point keeps its potential."
    heaviest = a.argmax()
    others = np.delete(np.arange(len(a)), heaviest)
    rows = st.plan.sum(1)
    W = (st.plan / st.plan.sum(0)) @ st.plan.T
    ground = W[others, heaviest] + ridge * rows[others]
    step = np.zeros(len(a))
    step[others] = network(W[np.ix_(others, others)], ground, (a - rows)[others])
    return step


def newton(C, st, log_a, log_b):
    "A Newton step that brings the rows nearer or gains in the dual; None where there is none."
    a, b = np.exp(log_a), np.exp(log_b)
    for ridge in RIDGES:
        step = newton_direction(st, a, ridge)
        size = np.abs(step).max()
        if not np.isfinite(size):
            continue
        step *= min(1.0, STEP / max(size, STEP))
        new = evaluate(C, st.f.plus(st.eps * step), st.g, st.eps, log_a, log_b)
        if not np.isfinite(new.error):
            continue
        nearer = new.error < 0.9 * st.error
        lighter = new.worst < 0.9 * st.worst and new.error <= max(st.error, MARGINAL / 10)
        if nearer or lighter or gain(new, st, a, b) > 1e-12:
            return new
    return None


def sweep(C, st, log_a, log_b):
    "Rows, then columns."
    f = row_step(C, st.f, st.g, st.eps, log_b)
    return evaluate(C, f, st.g, st.eps, log_a, log_b)


def at_temperature(C, st, log_a, log_b, tol, worst, most, until):
    "At most so many sweeps, and a Newton step after each that did not halve the error."
    for _ in range(most):
        if (st.error <= tol and st.worst <= worst) or time.process_time() > until:
            break
        before = st.error
        st = sweep(C, st, log_a, log_b)
        if st.error > before / 2 or st.worst > worst:
            st = newton(C, st, log_a, log_b) or st
    return st


# --- one transport problem ------------------------------------------------------------------------


@dataclass
class Solution:
    "A map, and how far it can be trusted."

    T: np.ndarray  # (n, d), barycentres of all rows, also of those without weight, minus the origin
    marginal: float  # L1 error of the columns; the rows are exact
    change: float  # how far the worst row of T may still move


def temperatures(top, eps):
    "From the largest cost down to eps, by a factor of at most FACTOR."
    steps = max(0, math.ceil(math.log(max(top, eps) / eps, FACTOR)))
    return [eps * (top / eps) ** (1 - k / steps) for k in range(steps)] + [eps]


def potentials(C, a, b, eps, until):
    "f and g of points that all have weight, by a path of temperatures, extrapolated."
    log_a, log_b = np.log(a), np.log(b)
    path = temperatures(C.top, eps)
    st = evaluate(C, Long.zeros(len(a)), Long.zeros(len(b)), path[0], log_a, log_b)
    before = None
    for e in path:
        last = e == path[-1]
        new = evaluate(C, st.f, st.g, e, log_a, log_b)
        if before is not None:
            ratio = (e - st.eps) / (st.eps - before.eps)
            f = st.f.extrapolate(before.f, ratio)
            g = st.g.extrapolate(before.g, ratio)
            far = evaluate(C, f, g, e, log_a, log_b)
            if far.error < new.error:
                new = far
        before = st if st.eps > e else None
        tol, worst, most = (MARGINAL / 10, 1e-10, 200) if last else (STAGE, 0.1, 60)
        st = at_temperature(C, new, log_a, log_b, tol, worst, most, until)
    return st


def rows_of(C, f, g, eps, log_b, points):
    "Barycentres of points under exact rows."
    E = exponents(C, f, g, eps) + log_b[None, :]
    P = np.exp(E - E.max(1, keepdims=True))
    return (P @ points) / P.sum(1, keepdims=True)


def transport(x, y, a, b, eps, origin, masked=False, until=math.inf):
    "The entropic map to y, minus an origin; points without weight enter no sum, and have a row."
    C = costs(x, y, masked)
    rows, columns = np.flatnonzero(a > 0), np.flatnonzero(b > 0)
    heavy = C.take(rows, columns)
    log_a, log_b = np.log(a[rows]), np.log(b[columns])
    if len(rows) <= len(columns):
        st = potentials(heavy, a[rows], b[columns], eps, until)
        g = st.g
    else:
        st = potentials(heavy.transpose(), b[columns], a[rows], eps, until)
        g = st.f

    def finish(g):
        "The map of all rows, and the column error of the rows with weight."
        wide = C.take(np.arange(len(x)), columns)
        start = Long(-g.high.max() + wide.high.min(1), np.zeros(len(x)))
        f = row_step(wide, start, g, eps, log_b)
        T = rows_of(wide, f, g, eps, log_b, y[columns] - origin)
        E = exponents(heavy, Long(f.high[rows], f.low[rows]), g, eps)
        log_columns = logsumexp(E + log_a[:, None] + log_b[None, :], 0)
        return T, np.abs(np.exp(log_columns) - b[columns]).sum()

    T, marginal = finish(g)
    if len(rows) <= len(columns):
        further = newton(heavy, sweep(heavy, st, log_a, log_b), log_a, log_b)
        moved = T if further is None else finish(further.g)[0]
    else:
        back = heavy.transpose()
        further = newton(back, sweep(back, st, log_b, log_a), log_b, log_a)
        moved = T if further is None else finish(further.f)[0]
    change = np.sqrt(np.square(moved - T).sum(1)).max()
    # a light point whose mass is off shows here
    light = st.worst * np.ptp(y[columns], axis=0).max()
    return Solution(T, marginal, max(change, light))


def self_transport(x, a, eps, origin, until=math.inf):
    "The map of a cloud to itself, minus an origin: averaged sweeps of the one symmetric potential."
    C = costs(x, x)
    columns = np.flatnonzero(a > 0)
    heavy = C.take(columns, columns)
    log_a = np.log(a[columns])
    u = -log_a / 2  # the solution where no point sees another
    for _ in range(500):
        off = -logsumexp(u[None, :] + log_a[None, :] - heavy.high / eps, 1) - u
        if np.abs(off).max() < 1e-13 or time.process_time() > until:
            break
        u = u + off / 2
    wide = C.take(np.arange(len(x)), columns)
    g = Long(eps * u, np.zeros(len(u)))
    start = Long(wide.high.min(1), np.zeros(len(x)))
    f = row_step(wide, start, g, eps, log_a)
    T = rows_of(wide, f, g, eps, log_a, x[columns] - origin)
    marginal = np.abs(np.exp(log_a) * np.expm1(-off)).sum()
    return Solution(T, marginal, np.abs(off).max() * np.ptp(x[columns], axis=0).max())


# --- a velocity -----------------------------------------------------------------------------------


@dataclass
class Answer:
    "The right velocity of one problem (not a batch), in the units of its points."

    v: np.ndarray | None  # (n, d), float64; None: unchecked
    pull: float = math.nan  # rms of |T_xy - x| under the weights
    size: float = math.nan  # rms distance under the weights of x and of y from the mean of y, added
    blur: float = math.nan  # the blur that was used
    marginal: float = math.nan  # L1 error of the worse of the two plans
    doubt: float = math.nan  # how far the worst row of v may still move
    reason: str = ""  # why it is unchecked


def inner_scale(x, y, a, b):
    "sqrt(tr(Σx Σy)) under the weights, floored for clouds that are perpendicular."
    X = (x - a @ x) * np.sqrt(a)[:, None]
    Y = (y - b @ y) * np.sqrt(b)[:, None]
    inner = np.linalg.norm(X @ Y.T)
    return max(inner, 0.01 * math.sqrt(np.linalg.norm(X.T @ X) * np.linalg.norm(Y.T @ Y)))


def rms(z, weights):
    "Root of the mean square length of rows."
    return math.sqrt(weights @ np.square(z).sum(1))


def masked_exists(a):
    "Has a plan without a diagonal these marginals? Only where no point holds half of the mass."
    weights = np.sort(a[a > 0])
    if len(weights) == 2:
        return weights[0] == weights[1]
    return len(weights) > 2 and weights[-1] < 0.5 * (1 - 1e-9)


def velocity(x, y, blur=None, relative_blur=None, self_term="same", x_self=None, a=None, b=None):
    "v = T_xy - T_xx of float64 arrays x (n, d), y (m, d); weights need not sum to 1."
    until = time.process_time() + BUDGET
    everything = np.concatenate([x, y] if x_self is None else [x, y, x_self])
    spread = np.abs(everything - everything[0]).max()
    power = 0 if spread == 0 else math.frexp(spread)[1]
    x, y = np.ldexp(x, -power), np.ldexp(y, -power)
    x_self = None if x_self is None else np.ldexp(x_self, -power)
    a = np.full(len(x), 1.0) if a is None else np.ldexp(a, -math.frexp(a.max())[1])
    b = np.full(len(y), 1.0) if b is None else np.ldexp(b, -math.frexp(b.max())[1])
    a, b = a / math.fsum(a), b / math.fsum(b)
    if blur is None:
        s = inner_scale(x, y, a, b)
        if s == 0:
            return Answer(None, reason="a relative blur of a point mass")
        eps = relative_blur**2 * s
    else:
        unit_blur = math.ldexp(blur, -power)
        if unit_blur < 1e-10:
            return Answer(None, reason="blur below 1e-10 of the scale")
        eps = min(unit_blur, 1e100) ** 2
    if self_term == "masked" and not masked_exists(a):
        return Answer(None, reason="no masked plan has these weights")
    origin = x[0]
    cross = transport(x, y, a, b, eps, origin, until=until)
    if self_term == "same":
        own = self_transport(x, a, eps, origin, until)
    elif self_term == "masked":
        own = transport(x, x, a, a, eps, origin, masked=True, until=until)
    else:
        c = np.full(len(x_self), 1 / len(x_self))
        own = transport(x, x_self, a, c, eps, origin, until=until)
    length = math.ldexp(1.0, power)
    mid = b @ y
    answer = Answer(
        v=(cross.T - own.T) * length,
        pull=rms(cross.T - (x - origin), a) * length,
        size=(rms(x - mid, a) + rms(y - mid, b)) * length,
        blur=math.sqrt(eps) * length,
        marginal=max(cross.marginal, own.marginal),
        doubt=(cross.change + own.change) * length,
    )
    if not answer.marginal <= MARGINAL:
        answer.v, answer.reason = None, f"marginal error {answer.marginal:.1e}"
    return answer
