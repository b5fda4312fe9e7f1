"""The verdicts of recorded gates by today's rule, from the intervals recorded with them.

    python bench/verdicts.py            prints what it finds and changes, and writes it into
                                        gates.json, units.json and training.json
    python bench/verdicts.py --check    exit code 1 where a file would change

Nothing is drawn or fitted. A gate of before had no interval of the masses: it is centred at the
recorded total variation, and as wide as for 20 000 samples with the true masses. Its pairs were 20
(8 repeats of the component gate), from which it was drawn with a variance that is too small by
(m-1)/m and without regard to how little 8 or 20 numbers know of a variance. So it is judged by an
interval that is wider, by sqrt(m/(m-1)) and Student's quantile over that of a normal law: 1.29 for
8, 1.10 for 20 (`widened`).

A time until the gate holds is that of the first of two consecutive checks that pass. A fit that
ended when the earlier rule had passed twice, and has not passed twice by this one, says only that
it takes longer than it was watched (`hit` null, `ended` "early").
"""

import argparse
import json
import sys

import torch
from record import ROOT, write

RESULTS = ROOT / "bench" / "results"
WIDENED = {8: 2.365 / 1.960 * (8 / 7) ** 0.5, 20: 2.093 / 1.960 * (20 / 19) ** 0.5}


def mass_reach(problem):
    "Half width of the interval of the total variation"
    from nsgf_nb.data import get_sampler
    from nsgf_nb.distances import mass_interval

    weights = get_sampler(problem.split(" → ")[-1]).weights.double()
    tv, low, high = mass_interval(20_000 * weights, weights, seed=0)
    return high - tv


def judged(gate, problem, bound):
    "A recorded gate with its verdict"
    from nsgf_nb.distances import MASS_BOUND, verdict

    gate = dict(gate)
    gate.setdefault("bound", bound)
    if "verdict" not in gate:  # of the earlier rule
        gate["pairs"] = 20 if gate["tv"] is None else 8
        gate["widened"] = WIDENED[gate["pairs"]]
    ratio, factor = gate["ratio"], gate.get("widened", 1.0)
    low, high = (ratio + factor * (gate[end] - ratio) for end in ("low", "high"))
    words = [verdict(low, high, gate["bound"])]
    if gate["tv"] is not None:
        if gate.get("tv_low") is None:
            reach = mass_reach(problem)
            gate.update(tv_low=max(0.0, gate["tv"] - reach), tv_high=gate["tv"] + reach)
        words.append(verdict(gate["tv_low"], gate["tv_high"], MASS_BOUND))
    gate["verdict"] = next(w for w in ("failed", "undecided", "passed") if w in words)
    gate["passed"] = gate["verdict"] == "passed"
    return gate


def hitting(row):
    "A fit with the time at which the gate held for the first of two consecutive checks"
    bound = 1.10 if row["problem"] == "8gaussians" else 1.6
    checks = [judged(c, row["problem"], bound) for c in row["checks"]]
    hit = next(
        (a["seconds"] for a, b in zip(checks, checks[1:]) if a["passed"] and b["passed"]), None
    )
    last = checks[-1]["step"]
    ended = "held" if hit is not None else "at its end" if last == 16_000 else "early"
    return row | dict(checks=checks, hit=hit, ended=ended)


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--check", action="store_true")
    a = p.parse_args()
    torch.set_num_threads(1)
    different = 0
    for name in ("gates", "units", "training"):
        file = RESULTS / f"{name}.json"
        old = json.loads(file.read_text())
        new = json.loads(file.read_text())
        if name == "training":
            new["hitting"]["rows"] = [hitting(r) for r in old["hitting"]["rows"]]
            for r in new["hitting"]["rows"]:
                hit = "not held" if r["hit"] is None else f"held after {r['hit']:.0f} s"
                print(
                    f"{r['problem']:20} {r['method']:9} seed {r['seed']}  {hit}, "
                    f"ended {r['ended']} after {r['seconds']:.0f} s"
                )
        else:
            new["rows"] = [
                r | dict(gate=judged(r["gate"], r["problem"], None)) for r in old["rows"]
            ]
            for r in new["rows"]:
                g, name = r["gate"], r.get("method", r.get("variant"))
                interval = f"{g['ratio']:.2f} [{g['low']:.2f}, {g['high']:.2f}], {g['pairs']} pairs"
                print(f"{r['problem']:20} {name:9} seed {r['seed']}  {g['verdict']:9} {interval}")
        if new != old:
            different += 1
            if not a.check:
                write(file, new)
    return int(a.check and different > 0)


if __name__ == "__main__":
    sys.exit(main())
