"""What the estimator said about a problem, held against the reference."""

import math
import time
import warnings
from dataclasses import dataclass

import numpy as np
import reference
import torch

from nsgf_nb.estimator import SinkhornVelocity

# of VelocityInfo, never NaN
NUMBERS = ("err_v", "err_marginal", "gap", "self_diag", "cross_perplexity")


@dataclass
class Item:
    "One problem, or one of a batch, checked."

    converged: bool
    checked: bool
    unit: float = math.nan  # what tol multiplies
    weighted: float = math.nan  # rms error of v under the weights a
    error: float = math.nan  # rms error of v, every point counted alike
    worst: float = math.nan  # error of the worst row
    slack: float = math.nan  # rounding of v and of the coordinates, the reference's own doubt
    allowed: float = math.nan  # 2·tol·unit + slack
    bound: float | None = None  # bound_v, where there is one
    wrong_blur: bool = False  # the temperature is not the one that was asked for
    why: str = ""  # why it is unchecked

    @property
    def ratio(self):
        "The larger rms error in units of what is allowed."
        return max(self.weighted, self.error) / self.allowed if self.allowed else 0.0

    @property
    def good(self):
        "Is v right within the promise?"
        return bool(self.checked and max(self.weighted, self.error) <= self.allowed)

    @property
    def false_promise(self):
        return self.checked and self.converged and not self.good

    @property
    def light_promise(self):
        "A false promise that only points of little weight show."
        return bool(self.false_promise and self.weighted <= self.allowed)

    @property
    def false_doubt(self):
        return self.good and not self.converged

    @property
    def broken_bound(self):
        "Is the proved bound below the error? The rounding of v at the end is no part of it."
        if self.bound is None or not self.checked:
            return False
        return not self.weighted <= self.bound * (1 + 1e-6) + self.slack


@dataclass
class Verdict:
    "What happened to one problem."

    number: int
    stratum: str
    kind: str
    outcome: str  # "answer", "refused" or "exception"
    message: str = ""
    may_refuse: str = ""
    nan: str = ""  # where a NaN or an infinity was
    above_floor: bool = True  # float64 resolves this temperature to the tolerance
    seconds: float = 0.0
    reference_seconds: float = 0.0
    items: tuple = ()

    @property
    def exception(self):
        return self.outcome == "exception" or (self.outcome == "refused" and not self.may_refuse)

    @property
    def converged(self):
        return self.outcome == "answer" and all(i.converged for i in self.items)

    @property
    def checked(self):
        return all(i.checked for i in self.items)

    def some(self, what):
        return any(getattr(i, what) for i in self.items)


def array(z):
    "A tensor of any floating dtype as float64, exactly."
    return None if z is None else z.double().numpy()


def answers(problem):
    "The reference's answer to each problem of a batch, or to the only one."
    return [
        reference.velocity(
            array(p.x),
            array(p.y),
            p.blur,
            p.relative_blur,
            p.self_term,
            array(p.x_self),
            array(p.a),
            array(p.b),
        )
        for p in problem.alone()
    ]


def ask(problem, device="cpu", **settings):
    "The estimator's answer: v and info, with the tensors of the problem on a device."
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        init = None
        if problem.init is not None:
            init = ask(problem.init, device)[1]
        vel = SinkhornVelocity(**problem.settings(), **settings)
        there = {
            name: z.to(device) if isinstance(z, torch.Tensor) else z
            for name, z in problem.arguments().items()
        }
        v, info = vel(**there, init=init, return_info=True)
        return v.cpu(), info


def rms(z, weights=None):
    "Root of the mean square length of rows, from the largest, so that squares stay in range."
    top = np.abs(z).max()
    if not 0 < top < math.inf:
        return float(top)
    squares = np.square(z / top).sum(1)
    return float(top * math.sqrt(squares.mean() if weights is None else weights @ squares))


def rounding(v, dtype):
    "Rms length of what rounding v to its dtype can change."
    info = torch.finfo(dtype)
    least = float(info.tiny) * float(info.eps)
    return rms(np.abs(v) * float(info.eps) / 2 + least / 2)


def share(a, n):
    "Weights of sum 1."
    if a is None:
        return np.full(n, 1 / n)
    a = array(a) / array(a).max()
    return a / a.sum()


def check(problem, right, v, info):
    "One problem, not a batch."
    pot = info.potentials
    wrong_blur = right.v is not None and not math.isclose(
        math.sqrt(pot.eps),
        right.blur,
        rel_tol=1e-3,
        abs_tol=1e-161,  # blur² may be subnormal
    )
    bound = info.bound_v
    if right.v is None:
        return Item(info.converged, False, wrong_blur=wrong_blur, bound=bound, why=right.reason)
    unit = max(problem.scale or right.pull, 1e-6 * right.size)
    if right.doubt > 0.01 * problem.tol * unit:
        return Item(
            info.converged,
            False,
            unit,
            bound=bound,
            why=f"doubt {right.doubt / unit:.1e} of the unit",
        )
    off = array(v.flatten(1)) - right.v
    spacing = 1e-15 * max(problem.x.double().abs().max(), problem.y.double().abs().max()).item()
    slack = rounding(right.v, v.dtype) + spacing + right.doubt
    return Item(
        converged=bool(info.converged),
        checked=True,
        unit=unit,
        weighted=rms(off, share(problem.a, len(off))),
        error=rms(off),
        worst=max(rms(row[None]) for row in off),
        slack=slack,
        allowed=2 * problem.tol * unit * (1 + 1e-6) + slack,
        bound=bound,
        wrong_blur=wrong_blur,
    )


def not_finite(v, infos):
    "What is NaN; the error alone may be infinite."
    if not v.isfinite().all():
        return "v"
    bad = [name for info in infos for name in NUMBERS if math.isnan(getattr(info, name))]
    return ", ".join(sorted(set(bad)))


def top_cost(p):
    "Largest cost of a problem, in units of eps."
    both = np.concatenate([array(p.x), array(p.y)])
    span = np.abs(both - both[0]).max()
    if span == 0:
        return 0.0
    centred = (both - both[0]) / span
    centred = centred - centred.mean(0)
    blur = p.blur
    if blur is None:
        return 0.0 if p.may_refuse else 4 / p.relative_blur**2  # a guess, of the right order
    return (
        2 * np.square(centred).sum(1).max() * (span / min(blur, 1e300)) * (span / min(blur, 1e300))
    )


def judge(problem, right=None, device="cpu", **settings):
    "Ask the estimator and the reference, and compare."
    new = Verdict(
        problem.number, problem.stratum, problem.kind, "answer", may_refuse=problem.may_refuse
    )
    floor = max(2e-16 * top_cost(p) for p in problem.alone())
    new.above_floor = bool(floor <= problem.tol / 10)
    start = time.process_time()
    try:
        v, info = ask(problem, device, **settings)
    except (ValueError, TypeError) as e:
        new.outcome, new.message = "refused", f"{type(e).__name__}: {e}"
        return new
    except Exception as e:  # whatever it is, it is counted
        new.outcome, new.message = "exception", f"{type(e).__name__}: {e}"
        return new
    new.seconds = time.process_time() - start
    infos = [info[i] for i in range(len(problem.x))] if problem.batched else [info]
    new.nan = not_finite(v, infos)
    start = time.process_time()
    right = answers(problem) if right is None else right
    new.reference_seconds = time.process_time() - start
    parts = zip(problem.alone(), right, v if problem.batched else [v], infos)
    new.items = tuple(check(*part) for part in parts)
    return new
