"""Who is fastest to an error, problem by problem, from what run.py measured.

    python bench/workprecision/report.py [FILE] [--clock wall|cpu]

The time of a solver to an error is that of its fastest effort whose error is at most this one. Ours
is held against the fastest rival of each problem, which is another one from problem to problem: a
ratio of 4 says that the best choice among all rivals takes four times as long.
"""

import argparse
import json
import math
from dataclasses import dataclass
from pathlib import Path

FILE = Path(__file__).resolve().parents[1] / "results" / "workprecision.json"
ERRORS = (1e-1, 1e-2, 1e-3, 1e-5)
CLOCKS = {"wall": "seconds", "cpu": "cpu"}  # key of a row
OURS = "ours"


@dataclass(frozen=True)
class Comparison:
    "Ours against the fastest rival, to one error."

    error: float
    ratios: dict  # problem -> time of the fastest rival over ours, where both reach the error
    rivals: dict  # problem -> (name of the fastest rival, its seconds)
    alone: list  # problems on which only ours reaches it
    missed: list  # problems on which a rival reaches it and ours does not

    @property
    def mean(self):
        "Geometric mean of the ratios; nan where there is none."
        logs = [math.log(ratio) for ratio in self.ratios.values()]
        return math.exp(sum(logs) / len(logs)) if logs else math.nan

    @property
    def lost(self):
        "Problems on which a rival is faster, the worst first; those that ours misses come first."
        slower = [name for name, ratio in self.ratios.items() if ratio < 1]
        return self.missed + sorted(slower, key=self.ratios.get)


def times(rows, error, clock="wall"):
    "problem -> solver -> least seconds to an error; solvers that do not reach it are absent."
    found = {}
    for row in rows:
        solvers = found.setdefault(row["problem"], {})
        reached = row.get("error") is not None and row["error"] <= error
        if reached:
            seconds = row[CLOCKS[clock]]
            solvers[row["solver"]] = min(seconds, solvers.get(row["solver"], math.inf))
    return found


def compare(rows, error, clock="wall", ours=OURS):
    "Ours against the fastest rival of each problem."
    ratios, fastest = {}, {}
    alone, missed = [], []
    for problem, solvers in times(rows, error, clock).items():
        rivals = {name: seconds for name, seconds in solvers.items() if name != ours}
        if rivals:
            best = min(rivals, key=rivals.get)
            fastest[problem] = best, rivals[best]
        if rivals and ours in solvers:
            ratios[problem] = rivals[best] / solvers[ours]
        elif rivals:
            missed.append(problem)
        elif ours in solvers:
            alone.append(problem)
    return Comparison(error, ratios, fastest, alone, missed)


def against(rows, error, rival, clock="wall", ours=OURS):
    "Ours against one rival."
    return compare([row for row in rows if row["solver"] in (ours, rival)], error, clock, ours)


def curve(rows, problem, solver, clock="wall"):
    "Seconds and errors of one solver on one problem, by effort."
    points = [
        (row[CLOCKS[clock]], row["error"])
        for row in rows
        if (row["problem"], row["solver"]) == (problem, solver) and row.get("error") is not None
    ]
    return [seconds for seconds, _ in points], [error for _, error in points]


def names(rows):
    "Of the solvers, ours first."
    return sorted({row["solver"] for row in rows}, key=lambda name: (name != OURS, name.lower()))


def table(rows, error, clock):
    "Milliseconds to an error, by problem and solver."
    found, solvers = times(rows, error, clock), names(rows)
    print(f"\nMilliseconds ({clock}) to an error of {error:g}")
    print(f"{'':40}" + "".join(f"{name[:11]:>12}" for name in solvers))
    for problem, took in found.items():
        entries = (
            f"{1e3 * took[name]:12.1f}" if name in took else f"{'–':>12}" for name in solvers
        )
        print(f"{problem:40}" + "".join(entries))


def verdict(rows, clock):
    "The ratios, and the problems on which a rival wins."
    print(f"\nTime ({clock}) of the fastest rival over ours")
    for error in ERRORS:
        c = compare(rows, error, clock)
        print(
            f"to {error:g}: geometric mean {c.mean:.2f} over {len(c.ratios)} problems,"
            f" only ours on {len(c.alone)}, a rival wins on {len(c.lost)}"
        )
        for problem in c.lost:
            rival, seconds = c.rivals[problem]
            ratio = f"{c.ratios[problem]:.2f}" if problem in c.ratios else "ours does not reach it"
            print(f"    {problem:40} {rival:20} {1e3 * seconds:10.2f} ms  {ratio}")
    print(f"\nTime ({clock}) of each rival over ours, geometric mean (problems that both reach)")
    for name in names(rows)[1:]:
        found = [against(rows, error, name, clock) for error in ERRORS]
        print(f"{name:20}", *(f"{c.error:g}: {c.mean:8.2f} ({len(c.ratios):2})  " for c in found))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("file", type=Path, nargs="?", default=FILE)
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    options = parser.parse_args()
    result = json.loads(options.file.read_text())
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    print(f"{result['machine']}, {result['threads']} threads, torch {result['torch']}, {versions}")
    print(f"{result['date']}, revision {result['revision']}")
    for error in ERRORS:
        table(result["rows"], error, options.clock)
    verdict(result["rows"], options.clock)


if __name__ == "__main__":
    main()
