"""Converged answers in float64, kept in answers.safetensors.

    python bench/workprecision/make_answers.py [--problems NAME …] [--again]

The package's solver gives a start, in float64 and to 1e-6. From there dense Newton steps in the log
domain, which share nothing with it, go on until the columns are right to 1e-12 or no step brings
them nearer. What is then asked of an answer, or the script stops:

- marginals: rows exact, columns to an L1 error of 1e-10, added up block by block in the log domain;
- doubt: one more Newton step moves v by less than 1e-8 of the unit (rms of T_xy - x);
- for n and m up to 300: v agrees to 1e-7 of the unit with tests/reference.py, which sweeps in the
  log domain with twice the digits of float64 and has its own Newton steps.

Each of these numbers is in the metadata of the file. What is there for the same inputs is kept.
"""

import argparse
import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from answers import FILE, answer_from, doubles, error_of, half_costs, load
from frozen import ROWS, available, problem
from torch import Tensor

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
MARGINAL = 1e-10
DOUBT = 1e-8
APART = 1e-7
SMALL = 300  # points up to which tests/reference.py is asked
ENOUGH = 1e-13  # L1 error of columns at which Newton steps end
MOST = 30  # Newton steps


@dataclass(frozen=True)
class Term:
    "One potential of one transport problem, and what it leaves."

    potential: Tensor  # of the columns, (m,)
    off: float  # L1 error of the columns


def solve_positive(H, right):
    "H⁻¹ right for a matrix that is positive up to rounding."
    scale = H.diagonal().clamp(min=1e-300).rsqrt()
    H.mul_(scale[:, None]).mul_(scale[None, :])
    H.diagonal().add_(1e-15)
    factor = torch.linalg.cholesky(H)
    return scale * torch.cholesky_solve((scale * right)[:, None], factor)[:, 0]


def newton_cross(p, C, g):
    "A Newton step of g, with rows made exact: g and the L1 error before it."
    plan = torch.softmax((g - C) / p.eps + p.b.log(), 1)
    columns = p.a @ plan
    weighted = p.a[:, None].sqrt() * plan
    H = -(weighted.T @ weighted)
    H.diagonal().add_(columns)
    H += torch.outer(columns, columns)  # the constant, which changes nothing
    step = solve_positive(H, p.b - columns)
    return Term(g, (columns - p.b).abs().sum().item()), g + p.eps * step


def newton_self(p, C, h):
    "The same of the one potential of the symmetric term."
    plan = torch.exp((h[:, None] + h[None, :] - C) / p.eps + p.a.log()[None, :])
    rows = plan.sum(1)  # each should be 1
    H = p.a[:, None] * plan
    off = (p.a * (rows - 1)).abs().sum().item()
    H.diagonal().add_(p.a * rows)
    step = solve_positive(H, p.a * (1 - rows))
    return Term(h, off), h + p.eps * step


def sweeps_self(p, C, count=30):
    "Averaged sweeps of the symmetric term, from nothing: few are needed."
    h = torch.zeros_like(p.a)
    for _ in range(count):
        swept = -p.eps * torch.logsumexp((h - C) / p.eps + p.a.log(), 1)
        h = (h + swept) / 2
    return h


def climb(step, p, C, potential):
    "Newton steps until the error is small enough or halves no longer: the best, and the one after."
    best, after = step(p, C, potential)
    for _ in range(MOST):
        if best.off < ENOUGH:
            break
        new, further = step(p, C, after)
        if not new.off < best.off / 2:
            break
        best, after = new, further
    return best.potential, after


def start_of_cross(given, tol=1e-6):
    "The package's potential of y, in float64."
    from nsgf_nb.estimator import SinkhornVelocity

    velocity = SinkhornVelocity(given.blur, tol=tol, max_iter=100_000)
    _, info = velocity(given.x.double(), given.y.double(), a=given.a, b=given.b, return_info=True)
    return info.potentials.g.double().flatten()


def reference_error(given, answer):
    "How far tests/reference.py is from the answer, in its unit; None where it gives none."
    import reference

    p = doubles(given)
    other = reference.velocity(p.x.numpy(), p.y.numpy(), given.blur, a=p.a.numpy(), b=p.b.numpy())
    if other.v is None:
        return None
    return error_of(torch.from_numpy(other.v), answer)


def solve(given):
    "Potentials g and h of a problem, and what is known of them."
    p = doubles(given)
    C = half_costs(p.x, p.y)
    g, g_after = climb(newton_cross, p, C, start_of_cross(given))
    C = half_costs(p.x, p.x)
    h, h_after = climb(newton_self, p, C, sweeps_self(p, C))
    del C
    answer = answer_from(given, g, h)
    after = answer_from(given, g_after, h_after)
    known = dict(
        digest=given.digest,
        cross_columns=answer.cross_columns,
        self_columns=answer.self_columns,
        doubt=error_of(after.v, answer),
        pull=answer.pull,
        speed=(answer.weights @ answer.v.square().sum(1)).sqrt().item(),
    )
    if max(len(given.x), len(given.y)) <= SMALL:
        known["apart"] = reference_error(given, answer)
    return g, h, known


def complaint(known):
    "Why an answer is not good enough; None where it is."
    if not max(known["cross_columns"], known["self_columns"]) <= MARGINAL:
        return f"columns are off by {known['cross_columns']:.1e} and {known['self_columns']:.1e}"
    if not known["doubt"] <= DOUBT:
        return f"a further Newton step moves v by {known['doubt']:.1e}"
    if "apart" in known and (known["apart"] is None or known["apart"] > APART):
        return f"tests/reference.py is {known['apart']} away"
    return None


def keep(potentials, known):
    "Write the file under a temporary name, then rename it."
    from safetensors.torch import save_file

    metadata = {name: json.dumps(facts) for name, facts in known.items()}
    temporary = FILE.with_suffix(".tmp")
    save_file(potentials, temporary, metadata)
    os.replace(temporary, FILE)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--problems", nargs="+", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--again", action="store_true", help="also what is in the file")
    options = parser.parse_args()
    potentials, known = load() if FILE.exists() else ({}, {})
    bad = 0
    for name in options.problems:
        if not available(name):
            print(f"{name:40} left out: no MNIST under $NSGF_DATA or ./data", flush=True)
            continue
        given = problem(name)
        if known.get(name, {}).get("digest") == given.digest and not options.again:
            continue
        began = time.process_time()
        g, h, facts = solve(given)
        why = complaint(facts)
        numbers = " ".join(
            f"{key} {value:.0e}" for key, value in facts.items() if isinstance(value, float)
        )
        print(f"{name:40} {numbers} {time.process_time() - began:.1f} s", flush=True)
        if why is not None:
            print(f"    not kept: {why}", flush=True)
            bad += 1
            continue
        potentials |= {f"{name} g": g.contiguous(), f"{name} h": h.contiguous()}
        known[name] = facts
        keep(potentials, known)
    return bad


if __name__ == "__main__":
    sys.exit(main())
