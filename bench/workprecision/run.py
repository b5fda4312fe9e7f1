"""Time and error of every solver on every problem, at each of its efforts.

    python bench/workprecision/run.py [--problems NAME …] [--solvers NAME …] [--threads 1]
                                      [--device cpu] [--minutes N] [--cap 2] [--long 10]
                                      [--out FILE]

A solver is a file, by default each in bench/workprecision/solvers. `--solver path/to/file.py` adds
one from anywhere. It holds

    NAME = "what it is called"
    EFFORTS = (…)                      # from cheap to dear, whatever it takes: a tolerance, a count

    def velocity(x, y, a, b, blur, effort):  # float32: (n, d), (m, d), (n,), (m,)
        return v                             # (n, d), any precision

and, where it needs them, `serves(x, y)`: does it serve this problem, and `warm(x, y, a, b, blur)`,
which compiles what it will call. One whose imports fail is left out, with a line.

Each solver runs in a process of its own with the same number of threads, pinned to as many cores
where the system can. On each problem the solvers take turns: a first call that is not timed (it
compiles), then three rounds over all solvers and efforts. Kept are the medians of wall clock and of
CPU time, of all threads together. After ten seconds (`--long`) a point gets no further call, so a
call of more is its own median, the first one included. A call of more than the cap is ended, and
higher efforts of this solver are not tried; nor are they once the error is below a millionth. The
cap is in seconds for up to a thousand points, and grows with sqrt(nm) above. Conversions to a
library's own arrays are part of a call.

The error of v is sqrt(Σ a |v - v*|²) / sqrt(Σ a |T_xy - x|²), see answers.py. Stopped and started
again, it goes on. A pair of solver and problem is run again where the adapter, the version of what
it imports, or for ours the package's code has changed.
"""

import argparse
import hashlib
import importlib.util
import json
import math
import os
import signal
import statistics
import sys
import time
import warnings
from multiprocessing import get_context
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
OUT = ROOT / "bench" / "results" / "workprecision.json"
PACKAGES = ("numpy", "POT", "geomloss", "pykeops", "jax", "ott-jax", "flash-sinkhorn", "numba")
LIBRARIES = ("OMP", "MKL", "OPENBLAS", "NUMEXPR", "NUMBA")  # each reads NAME_NUM_THREADS
REPEATS = 3
ACCURATE = 1e-6  # error below which more effort is not tried
GRACE = 5.0  # seconds in which a call that took too long may end by itself
LOADING = 300.0  # seconds that a process may take to import and to make a problem


# --- in the process of a solver -----------------------------------------------------------------


def adapter(file):
    "The module of a solver."
    spec = importlib.util.spec_from_file_location(f"solver_{Path(file).stem}", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def first_points(given, count=16):
    "A problem of few points, for what is made once: modules, clusters, formulas."
    x, y, a, b = given
    a, b = a[:count], b[:count]
    return x[:count], y[:count], a / a.sum(), b / b.sum()


def interrupt_after(seconds):
    "Raise a TimeoutError then, between two steps of Python; 0: do not. Not on every system."
    if hasattr(signal, "setitimer"):
        signal.signal(signal.SIGALRM, too_long)
        signal.setitimer(signal.ITIMER_REAL, seconds)


def too_long(*_):
    raise TimeoutError


def with_gradients():
    "Switch torch's gradients on: a call that was interrupted may have left them off."
    import torch

    torch.set_grad_enabled(True)


class Solver:
    "What answers the requests of the runner: `open`, `load` and `call`."

    def __init__(self, file, threads, device):
        self.file, self.threads, self.device = file, threads, device

    def open(self):
        "Import the adapter: its name and its efforts."
        self.module = adapter(self.file)
        import torch

        torch.set_num_threads(self.threads)
        return dict(name=self.module.NAME, efforts=list(self.module.EFFORTS))

    def load(self, name):
        "Make a problem. Does the solver serve it?"
        import answers
        import frozen

        with_gradients()
        given = frozen.problem(name)
        self.answer = answers.answer_of(given)
        a, b = answers.weights_of(given.a, given.x), answers.weights_of(given.b, given.y)
        self.given = [z.to(self.device) for z in (given.x, given.y, a.float(), b.float())]
        self.blur = given.blur
        serves = getattr(self.module, "serves", None)
        if serves is not None and not serves(*self.given[:2]):
            return dict(serves=False)
        if hasattr(self.module, "warm"):
            self.module.warm(*self.given, self.blur)
        else:
            self.module.velocity(*first_points(self.given), self.blur, self.module.EFFORTS[0])
        return dict(serves=True)

    def call(self, number, cap):
        "Seconds and error of one call at an effort."
        import answers
        import torch

        with_gradients()
        interrupt_after(cap)
        cuda = self.device.startswith("cuda")
        if cuda:
            torch.cuda.synchronize()
        cpu, wall = time.process_time(), time.perf_counter()
        v = self.module.velocity(*self.given, self.blur, self.module.EFFORTS[number])
        if cuda:
            torch.cuda.synchronize()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        return dict(wall=wall, cpu=cpu, error=answers.error_of(v, self.answer))


def serve(pipe, file, threads, device, cores):
    "Answer requests until there are no more; what goes wrong is a reply too."
    if cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)
    sys.path[:0] = [str(HERE), str(ROOT)]
    warnings.simplefilter("ignore")
    solver = Solver(file, threads, device)
    while True:
        try:
            request, *arguments = pipe.recv()
        except EOFError:  # the runner was ended
            return
        if request == "close":
            return
        try:
            reply = getattr(solver, request)(*arguments)
        except TimeoutError:
            reply = None
        except Exception as e:  # whatever somebody's solver raises is recorded
            reply = dict(failed=f"{type(e).__name__}: {str(e)[:200]}")
        finally:
            interrupt_after(0)
        pipe.send(reply)


# --- the runner ---------------------------------------------------------------------------------


class Worker:
    "A solver's process, seen from the runner; one that was ended is started again when needed."

    def __init__(self, file, threads, device, cores):
        self.settings = str(file), threads, device, cores
        self.file, self.process = Path(file), None
        self.loaded = None
        reply = self.ask(LOADING, "open")
        self.failed = reply.get("failed")
        self.name, self.efforts = reply.get("name"), reply.get("efforts")

    def start(self):
        "A fresh process."
        context = get_context("spawn")
        self.pipe, other = context.Pipe()
        self.process = context.Process(target=serve, args=(other, *self.settings), daemon=True)
        self.process.start()
        other.close()

    def ask(self, seconds, *request):
        "The reply; None where it takes longer, and then the process is ended."
        if self.process is None:
            self.start()
            if request[0] != "open":
                self.ask(LOADING, "open")
        self.pipe.send(request)
        try:
            if self.pipe.poll(seconds):
                return self.pipe.recv()
        except EOFError:  # the process died, of memory for instance
            self.end()
            return dict(failed="the process ended")
        self.end()
        return None

    def end(self):
        self.process.kill()
        self.process.join()
        self.process, self.loaded = None, None

    def close(self):
        if self.process is not None:
            self.pipe.send(("close",))
            self.process.join(5)
            self.end()

    def load(self, name):
        "Make a problem there, if it is not there already: does the solver serve it?"
        if self.loaded != name or self.process is None:
            reply = self.ask(LOADING, "load", name) or dict(failed=f"no reply in {LOADING:g} s")
            if "failed" in reply:
                return reply
            self.loaded, self.serves = name, reply["serves"]
        return dict(serves=self.serves)

    def call(self, name, number, cap):
        "One call; what is returned has `failed` where it took too long or raised."
        loaded = self.load(name)
        if "failed" in loaded:
            return loaded
        reply = self.ask(cap + GRACE, "call", number, cap)
        if reply is None or reply.get("wall", 0.0) > cap:
            return dict(failed=f"longer than {cap:.3g} s", capped=True)
        return reply


class Points:
    "The efforts of one solver on one problem."

    def __init__(self, worker, problem, cap):
        self.worker, self.problem, self.cap = worker, problem, cap
        self.calls = [[] for _ in worker.efforts]
        self.last = None  # effort that is the last to be tried
        self.failed = {}

    def first(self):
        "One call at each effort, from cheap to dear, until one is accurate or too dear."
        for number in range(len(self.worker.efforts)):
            reply = self.worker.call(self.problem, number, self.cap)
            if "failed" in reply:
                self.failed[number] = reply["failed"]
                if "capped" in reply or self.worker.process is None:
                    return
                continue
            self.calls[number].append(reply)
            if reply["error"] < ACCURATE:
                return

    def again(self, long):
        "One more call at each effort that has not had so many seconds."
        for number, calls in enumerate(self.calls):
            if not calls or sum(call["wall"] for call in calls) > long:
                continue
            reply = self.worker.call(self.problem, number, self.cap)
            if "failed" in reply:
                self.failed[number] = reply["failed"]
            else:
                calls.append(reply)

    def rows(self):
        "A row for each effort that was tried."
        for number, effort in enumerate(self.worker.efforts):
            row = dict(problem=self.problem, solver=self.worker.name, effort=effort)
            calls = self.calls[number]
            if number in self.failed:
                yield row | dict(failed=self.failed[number])
            elif calls:
                yield row | summary(calls)


def summary(calls):
    "Medians of the calls after the first; of the first where it is the only one."
    timed = calls[1:] or calls
    error = max(call["error"] for call in timed)
    return dict(
        seconds=statistics.median(call["wall"] for call in timed),
        cpu=statistics.median(call["cpu"] for call in timed),
        calls=len(timed),
        spread=max(call["wall"] for call in timed) / min(call["wall"] for call in timed),
        first=calls[0]["wall"],
        error=error if math.isfinite(error) else None,
    )


def code_of(file, versions):
    "A hash of what makes a solver's numbers: its adapter, its packages, for ours the package."
    from record import modules

    text = file.read_text()
    hasher = hashlib.sha256(text.encode())
    hasher.update(json.dumps(versions).encode())
    if "nsgf_nb" in text:
        hasher.update(json.dumps(modules("estimator")).encode())
    return hasher.hexdigest()[:12]


def opened(files, threads, device, cores):
    "Workers of the solvers that can be imported; a line for each that cannot."
    workers = []
    for file in files:
        worker = Worker(file, threads, device, cores)
        if worker.failed:
            print(f"{file.name:24} left out: {worker.failed}", flush=True)
            worker.close()
        else:
            workers.append(worker)
    return workers


def seconds_allowed(name, cap):
    "Most seconds of a call on this problem."
    import frozen

    row = frozen.ROWS[name]
    return cap * max(1.0, math.sqrt(row.n * row.m) / 1000)


def on_problem(name, workers, cap, long):
    "Rows of one problem: the solvers take turns."
    points = []
    for worker in workers:
        loaded = worker.load(name)
        if "failed" in loaded:
            row = dict(problem=name, solver=worker.name, effort=None)
            yield row | dict(failed=loaded["failed"])
        elif loaded["serves"]:
            points.append(Points(worker, name, cap))
    for one in points:
        one.first()
    for _ in range(REPEATS):
        for one in points:
            one.again(long)
    for one in points:
        yield from one.rows()


def show(row):
    "A line of what was measured."
    head = f"{row['problem']:40} {row['solver']:20} {row['effort']!s:>8}"
    if "failed" in row:
        return f"{head}  {row['failed'][:60]}"
    error = "nan" if row["error"] is None else f"{row['error']:.1e}"
    return f"{head} {1e3 * row['seconds']:10.2f} ms {1e3 * row['cpu']:10.2f} ms CPU  error {error}"


def arguments():
    import frozen

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--problems", nargs="+", choices=list(frozen.ROWS), metavar="NAME")
    parser.add_argument("--solvers", nargs="*", metavar="NAME", help="only these of solvers/")
    parser.add_argument("--solver", type=Path, action="append", default=[], help="one more")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin no problem after")
    parser.add_argument("--cap", type=float, default=2.0, help="most seconds of a call")
    parser.add_argument("--long", type=float, default=10.0, help="seconds after which to stop")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    options.problems = options.problems or list(frozen.ROWS)
    return options


def chosen(options):
    "The files of the solvers that were asked for."
    files = sorted((HERE / "solvers").glob("*.py"))
    if options.solvers is not None:
        unknown = set(options.solvers) - {file.stem for file in files}
        if unknown:
            raise SystemExit(f"--solvers: expected names of files in solvers/, got {unknown}")
        files = [file for file in files if file.stem in options.solvers]
    return files + [file.resolve() for file in options.solver]


def share_equally(threads):
    "Give all solvers the same threads: by the variables that libraries read, and by cores."
    for library in LIBRARIES:
        os.environ[f"{library}_NUM_THREADS"] = str(threads)
    os.environ["XLA_FLAGS"] = (
        f"--xla_cpu_multi_thread_eigen={'true' if threads > 1 else 'false'}"
        f" intra_op_parallelism_threads={threads}"
    )
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / "runs" / "jax"))
    if not hasattr(os, "sched_getaffinity"):
        return None
    return set(sorted(os.sched_getaffinity(0))[-threads:])


def main():
    sys.path[:0] = [str(HERE), str(ROOT), str(ROOT / "bench")]
    import frozen
    from record import facts, write

    options = arguments()
    began = time.monotonic()
    cores = share_equally(options.threads)
    settings = {key: getattr(options, key) for key in ("threads", "cap", "long", "device")}
    made = facts(*PACKAGES, device=options.device) | settings
    result = json.loads(options.out.read_text()) if options.out.exists() else made | {"rows": []}
    for key in ("machine", *settings):
        if result[key] != made[key]:
            raise SystemExit(f"{options.out}: holds {key} {result[key]}, this run is {made[key]}")
    workers = opened(chosen(options), options.threads, options.device, cores)
    codes = {worker.name: code_of(worker.file, made["versions"]) for worker in workers}
    for name in options.problems:
        if not frozen.available(name):
            print(f"{name:40} left out: no MNIST under $NSGF_DATA or ./data", flush=True)
            continue
        if time.monotonic() - began > 60 * options.minutes:
            print("out of time: start again to go on", flush=True)
            break
        done = {(r["problem"], r["solver"], r["code"]) for r in result["rows"]}
        todo = [w for w in workers if (name, w.name, codes[w.name]) not in done]
        if not todo:
            continue
        load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
        cap = seconds_allowed(name, options.cap)
        rows = list(on_problem(name, todo, cap, options.long))
        for row in rows:
            row.update(code=codes[row["solver"]], load=load)
            print(show(row), flush=True)
        fresh = {(name, worker.name) for worker in todo}
        kept = [r for r in result["rows"] if (r["problem"], r["solver"]) not in fresh]
        result = made | dict(rows=kept + rows)
        write(options.out, result)
    for worker in workers:
        worker.close()


if __name__ == "__main__":
    main()
