"""2000 problems, each held against a reference that is another algorithm: results by stratum.

    python bench/certificate.py [--numbers 0 2000] [--part 0 1] [--out FILE] [--scratch FILE]

The problems are those of tests/problems.py, the reference that of tests/reference.py, the
comparison that of tests/verdict.py. What was done with the code of today is kept in runs/, so a
stopped run goes on. Three minutes on one idle core.

0 false promises in 2000 problems say that the rate is below .15 % (95 %), on these strata.
"""

import argparse
import hashlib
import json
import sys
from collections import Counter
from pathlib import Path

from record import ROOT, changed, facts, locked, modules, write

sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
OUT = Path(__file__).parent / "results" / "certificate.json"  # the table
SCRATCH = ROOT / "runs" / "certificate.json"  # what is done, problem by problem; git ignores it
SAVE = 20  # problems between two writings
HOW = {
    "promise": "rms error of v, weighted and with all points alike, at most 2 tol × unit",
    "unit": "the scale passed, else rms |T_xy - x|, at least 1e-6 of the rms distance",
    "checked": "reference to an L1 marginal error of 1e-10, in doubt by at most .01 tol × unit",
    "share_converged": "of the problems whose temperature float64 resolves to a tenth of tol",
}


REMARKABLE = ("exception", "nan", "unchecked", "false_promise", "broken_bound", "wrong_blur")


def short(verdict):
    "What is kept of one problem."
    row = dict(
        number=verdict.number,
        stratum=verdict.stratum,
        kind=verdict.kind,
        converged=verdict.converged,
        above_floor=verdict.above_floor,
        seconds=round(verdict.seconds, 3),
        reference_seconds=round(verdict.reference_seconds, 3),
    )
    if verdict.outcome != "answer":
        row["exception" if verdict.exception else "refused"] = verdict.message
    if verdict.nan:
        row["nan"] = verdict.nan
    if not verdict.checked:
        row["unchecked"] = next(item.why for item in verdict.items if not item.checked)
    for what in ("false_promise", "light_promise", "false_doubt", "broken_bound", "wrong_blur"):
        if verdict.some(what):
            row[what] = True
    if verdict.items and verdict.checked:
        row["error"] = max(item.ratio for item in verdict.items)
    return row


def count(rows):
    "One line of the table."

    def numbers(what):
        return [row["number"] for row in rows if what in row]

    resolved = [row for row in rows if row["above_floor"] and "refused" not in row]
    answered = [row for row in rows if "refused" not in row and "exception" not in row]
    return dict(
        count=len(rows),
        checked=sum("unchecked" not in row for row in answered),
        unchecked=numbers("unchecked"),
        exceptions=numbers("exception"),
        refused=numbers("refused"),
        nan=numbers("nan"),
        false_promises=numbers("false_promise"),
        of_light_points_only=numbers("light_promise"),
        broken_bounds=numbers("broken_bound"),
        wrong_blur=numbers("wrong_blur"),
        false_doubts=numbers("false_doubt"),
        converged=sum(row["converged"] for row in rows),
        resolved=len(resolved),
        share_converged=round(sum(r["converged"] for r in resolved) / max(1, len(resolved)), 4),
        seconds=round(sum(row["seconds"] for row in rows), 1),
        reference_seconds=round(sum(row["reference_seconds"] for row in rows), 1),
    )


def table(rows, names):
    "By stratum, and in all."
    by = {name: [row for row in rows if row["stratum"] == name] for name in names}
    return {name: count(part) for name, part in by.items() if part} | {"all": count(rows)}


def show(strata):
    "The table, for reading: the counts."
    keys = ("exceptions", "nan", "false_promises", "broken_bounds", "wrong_blur", "false_doubts")
    head = "".join(f"{key:>16}" for key in keys)
    print(f"{'stratum':16}{'count':>6}{'checked':>8}{'refused':>8}{head}  converged")
    for name, line in strata.items():
        print(
            f"{name:16}{line['count']:6}{line['checked']:8}{len(line['refused']):8}",
            "".join(f"{len(line[key]):16}" for key in keys),
            f"  {line['share_converged']:.3f}",
            sep="",
        )


def checker():
    "A hash of the problems, the reference and the comparison."
    files = [ROOT / "tests" / f"{name}.py" for name in ("problems", "reference", "verdict")]
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:12]


def main():
    import problems
    import torch
    import verdict

    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--numbers", type=int, nargs=2, default=(0, problems.TOTAL))
    parser.add_argument("--part", type=int, nargs=2, default=(0, 1), help="k and m: every m-th")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--scratch", type=Path, default=SCRATCH)
    options = parser.parse_args()
    names = [name for name, _, _ in problems.STRATA]
    options.scratch.parent.mkdir(parents=True, exist_ok=True)
    with locked(options.scratch, rows=[], modules={}, checker="") as result:
        if changed(result["modules"]) or result["checker"] != checker():
            result.update(rows=[], modules=modules("estimator"), checker=checker())
        known = {row["number"] for row in result["rows"]}
    part, parts = options.part
    todo = [n for n in range(*options.numbers) if n not in known and n % parts == part]
    for k in range(0, len(todo), SAVE):
        new = [short(verdict.judge(problems.problem(number))) for number in todo[k : k + SAVE]]
        with locked(options.scratch) as result:
            rows = {row["number"]: row for row in [*result["rows"], *new]}
            result["rows"] = [rows[number] for number in sorted(rows)]
        seen = Counter(key for row in new for key in row if row[key] is True)
        print(f"{len(rows)} of {problems.TOTAL}", dict(seen), flush=True)
    done = json.loads(options.scratch.read_text())
    rows = done["rows"]
    strata = table(rows, names)
    show(strata)
    kept = [row for row in rows if any(key in row for key in REMARKABLE)]
    write(
        options.out,
        facts()
        | {key: done[key] for key in ("modules", "checker")}
        | dict(how=HOW, strata=strata, remarkable=kept),
    )


if __name__ == "__main__":
    main()
