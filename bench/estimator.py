"""The Sinkhorn velocity against GeomLoss (and POT where installed), on the same inputs.

    python bench/estimator.py [--device cpu] [--part tier1 batch tier2] [--quick] [--out FILE]

Tier 1: trajectories. Medians of five in turns after a warm-up, wall and CPU time, error of the
endpoint against the converged float64 endpoints of bench/make_reference.py.
Tier 2: large clouds in the plane,
streamed: seconds per 10⁶ pairs and half iteration, extra memory, rows of T against float64.
The results are in bench/results/estimator.json.
"""

import argparse
import json
import math
import os
import sys
import threading
import time
import warnings
from multiprocessing import get_context
from pathlib import Path
from statistics import median

import make_reference as ref
import torch
from record import facts, write

HERE = Path(__file__).parent
LONG = 10.0  # seconds after which the first call of a method is its only one
PACKAGES = ("numpy", "geomloss", "pykeops", "POT", "flash-sinkhorn")


class Peak:
    "Extra bytes at the peak: of the allocator on CUDA, else of the resident set, each millisecond."

    def __init__(self, device):
        self.cuda = device.type == "cuda"

    def rss(self):
        with open("/proc/self/statm") as f:
            return int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def watch(self):
        while not self.stop.is_set():
            self.top = max(self.top, self.rss())
            time.sleep(1e-3)

    def __enter__(self):
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()
            self.base = torch.cuda.memory_allocated()
        else:
            self.base = self.top = self.rss()
            self.stop = threading.Event()
            self.thread = threading.Thread(target=self.watch)
            self.thread.start()
        return self

    def __exit__(self, *_):
        if self.cuda:
            self.bytes = torch.cuda.max_memory_allocated() - self.base
        else:
            self.stop.set()
            self.thread.join()
            self.bytes = max(self.top, self.rss()) - self.base


def once(f, device):
    "Wall and CPU seconds of one call, and its result."
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    wait()
    wall, cpu = time.perf_counter(), time.process_time()
    out = f()
    wait()
    return time.perf_counter() - wall, time.process_time() - cpu, out


def timed(f, device, repeats):
    "Median seconds, and the last result; the caller has warmed up."
    calls = [once(f, device) for _ in range(repeats)]
    return median(wall for wall, _, _ in calls), calls[-1][2]


def ours(blur, **kw):
    from nsgf_nb.estimator import SinkhornVelocity
    from nsgf_nb.particles import particle_flow

    vel = SinkhornVelocity(blur, **kw)
    return lambda x, y, steps, eta: particle_flow(x, y, vel, steps, eta)


def differentiated(loss):
    "Euler steps along minus n times the gradient of a loss: the published way."

    def run(x, y, steps, eta):
        for _ in range(steps):
            z = x.clone().requires_grad_(True)
            x = x - eta * len(x) * torch.autograd.grad(loss(z, y), z)[0]
        return x

    return run


def pot(blur):
    "T_xy - T_xx from two plans of POT's stabilised Sinkhorn, each to its default tolerance."
    import ot

    def velocity(x, y):
        plan = lambda p, q: ot.bregman.sinkhorn_stabilized(
            [], [], ot.dist(p, q).double().numpy(), 2 * blur**2, numItermax=2000
        )
        T = lambda P, q: torch.from_numpy(P / P.sum(1, keepdims=True)) @ q.double()
        return (T(plan(x, y), y) - T(plan(x, x), x)).to(x)

    def run(x, y, steps, eta):
        for _ in range(steps):
            x = x + eta * velocity(x, y)
        return x

    return run


def methods(data, blur, n, device):
    "name -> function that makes the trajectory; what cannot be imported is left out."
    from importlib.util import find_spec

    out = {
        "ours dense": ours(blur, backend="dense"),
        "ours stream": ours(blur, backend="stream"),
        "ours auto": ours(blur),
    }
    if find_spec("geomloss"):
        from geomloss import SamplesLoss

        for scaling in (0.5, 0.8, 0.95) if n <= 512 else (0.5, 0.8):
            out[f"GeomLoss {scaling:g}"] = differentiated(
                SamplesLoss("sinkhorn", p=2, blur=blur, scaling=scaling, backend="tensorized")
            )
        if find_spec("pykeops"):
            online = ["online"] if n <= 512 else []
            for backend in (*online, *(["multiscale"] if data == "8gaussians" else [])):
                out[f"GeomLoss 0.8 {backend}"] = differentiated(
                    SamplesLoss("sinkhorn", p=2, blur=blur, scaling=0.8, backend=backend)
                )
    if device.type == "cuda" and find_spec("flash_sinkhorn"):
        from flash_sinkhorn import SamplesLoss as Flash

        out["flash-sinkhorn"] = differentiated(
            Flash("sinkhorn", blur=blur, half_cost=True, debias=True, allow_tf32=False)
        )
    if device.type == "cpu" and n <= 512 and find_spec("ot"):
        out["POT stabilized"] = pot(blur)
    return out


def repeats_of(name, n, quick):
    "How often a trajectory is timed: what takes long less often."
    if quick or name.startswith("POT"):
        return 1
    if name.startswith("ours") or n <= 512:
        return 5
    return 3 if name in ("GeomLoss 0.5", "GeomLoss 0.8") else 1


def in_turns(runs, n, device, quick):
    "Calls of each method, one round after the other; a method that fails is left out."
    calls = {name: [] for name in runs}
    for k in range(6):  # the first round warms up
        for name, run in runs.items():
            if name not in calls or k > repeats_of(name, n, quick):
                continue
            slow = calls[name] and calls[name][0][0] > LONG
            if slow and not name.startswith("ours"):  # ours may have been compiled in it
                continue
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    calls[name].append(once(run, device))
            except Exception as e:
                print(f"{name:22} {type(e).__name__}: {str(e)[:80]}", flush=True)
                del calls[name]
    return {name: made[1:] or made for name, made in calls.items()}


def tier1(device, quick):
    from safetensors.torch import load_file

    ends, rows = load_file(ref.FILE), []
    for case in ref.cases():
        data, n, blur = case
        if ref.key(*case) not in ends or (quick and n > 512):
            continue
        x, y = (z.to(device) for z in ref.inputs(data, n))
        end, (steps, eta) = ends[ref.key(*case)].to(device), ref.STEPS[data]
        known = methods(data, blur, n, device).items()
        runs = {name: lambda run=run: run(x, y, steps, eta) for name, run in known}
        for name, made in in_turns(runs, n, device, quick).items():
            seconds, cpu = (median(call[k] for call in made) for k in (0, 1))
            row = dict(case=ref.key(*case), data=data, n=n, blur=blur, method=name)
            row |= dict(seconds=seconds, cpu_seconds=cpu, repeats=len(made))
            row |= dict(error=((made[-1][2] - end).norm() / (end - x).norm()).item())
            rows.append(row)
            print(
                f"{row['case']:22} {name:22} {1e3 * seconds:10.1f} ms  CPU {1e3 * cpu:10.1f} ms"
                f"  error {row['error']:.1e}",
                flush=True,
            )
    return rows


def fresh(f, *args):
    "In a process of its own: what an earlier call has left in the heap would hide what this needs."
    with get_context("spawn").Pool(1) as pool:
        return pool.apply(f, args)


def memory_of(device, case, name):
    "Extra bytes of one trajectory."
    device = torch.device(device)
    data, n, blur = case
    x, y = (z.to(device) for z in ref.inputs(data, n))
    run = methods(data, blur, n, device)[name]
    run(x[:64], y[:64], 1, 0.1)  # libraries load and allocate their own
    with Peak(device) as peak, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run(x, y, *ref.STEPS[data])
    return peak.bytes


def memory(device):
    rows = []
    for case in {
        (data, n): (data, n, blur) for data, n, blur in ref.cases() if blur != 1.0
    }.values():  # one blur of each: memory does not depend on it
        for name in ("ours dense", "ours stream", "GeomLoss 0.8"):
            if name.startswith("GeomLoss") and not any(
                m == name for m in methods(case[0], case[2], case[1], device)
            ):
                continue
            rows.append(
                dict(
                    case=ref.key(*case),
                    method=name,
                    extra_bytes=fresh(memory_of, str(device), case, name),
                )
            )
            print(
                f"{ref.key(*case):22} {name:22} {rows[-1]['extra_bytes'] / 2**20:8.1f} MiB",
                flush=True,
            )
    return rows


def batch(device, B=32, n=256, blur=0.5, steps=5):
    """B problems of n points in the plane, one call for all against one call each.

    GeomLoss takes them in its own batched mode.
    """
    from nsgf_nb.estimator import SinkhornVelocity

    x, y = zip(*[ref.inputs("8gaussians", n + i) for i in range(B)])
    x, y = (torch.stack([z[:n] for z in c]).to(device) for c in (x, y))
    vel, rows = SinkhornVelocity(blur), []

    def flow(velocity, x):
        info = None
        for _ in range(steps):
            v, info = velocity(x, info)
            x = x + 0.2 * v
        return x

    calls = {
        "ours, one call": lambda: flow(
            lambda x, i: vel(x, y, init=i, batched=True, return_info=True), x
        ),
        "ours, a call each": lambda: torch.stack(
            [flow(lambda z, i: vel(z, y[k], init=i, return_info=True), x[k]) for k in range(B)]
        ),
    }
    try:
        from geomloss import SamplesLoss

        loss = SamplesLoss("sinkhorn", p=2, blur=blur, scaling=0.8, backend="tensorized")

        def gl(x, _):
            z = x.clone().requires_grad_(True)
            return -n * torch.autograd.grad(loss(z, y).sum(), z)[0], None

        calls["GeomLoss 0.8, one call"] = lambda: flow(gl, x)
    except ImportError:
        pass
    took = {name: [] for name in calls}
    for f in calls.values():
        f()
    for _ in range(11):  # in turns: what the machine does besides hits all alike
        for name, f in calls.items():
            took[name].append(timed(f, device, 1)[0])
    for name, seconds in took.items():
        ratios = sorted(s / a for s, a in zip(seconds, took["ours, a call each"]))
        rows.append(
            dict(
                problems=B,
                n=n,
                blur=blur,
                steps=steps,
                method=name,
                seconds=sorted(seconds)[5],
                to_a_call_each=ratios[5],
                least=ratios[0],
                most=ratios[-1],
            )
        )
        print(
            f"{B} × {n:4}               {name:22} {1e3 * rows[-1]['seconds']:10.1f} ms, "
            f"{ratios[5]:.3f} [{ratios[0]:.3f}, {ratios[-1]:.3f}] of a call each",
            flush=True,
        )
    return rows


def tier2(device, sizes):
    return [fresh(large, str(device), n) for n in sizes]


def large(device, n, blur=0.5):
    """Streamed: ten fixed half iterations (five passes).

    Extra memory, and the rows of the same potentials in float64.
    """
    from nsgf_nb.solver.dual import State, start, sweep_direction
    from nsgf_nb.solver.triton import make_kernel

    device = torch.device(device)
    x, y = (z.to(device) for z in ref.inputs("8gaussians", n))
    mid = y.mean(0)
    x, y = (x - mid)[None], (y - mid)[None]
    a, eps = torch.full((1, n), 1 / n, device=device), torch.tensor([blur**2], device=device)
    make_kernel("stream", x[:, :2], y[:, :2], a[:, :2], a[:, :2])  # loads the compiled loops
    with Peak(device) as peak:
        K = make_kernel("stream", x, y, a, a)
        t0 = time.perf_counter()
        st = start(K, eps, torch.zeros(1, n, device=device))
        for _ in range(4):
            st = State(K, st.psi + sweep_direction(K, st))
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - t0
        pick = torch.randperm(n, generator=torch.Generator().manual_seed(0))[:256].to(device)
        T = K.mean(st.v, K.y, st.t)[0][pick]
    psi = (K.psi0 + st.psi)[0].double()
    C = (
        torch.cdist(
            x[0][pick].double(), y[0].double(), compute_mode="donot_use_mm_for_euclid_dist"
        ).square()
        / 2
    )
    exact = torch.softmax(psi - C / blur**2, 1) @ y[0].double()
    off = (T.double() - exact).norm(dim=1).max().item() / exact.norm(
        dim=1
    ).square().mean().sqrt().item()
    row = dict(
        n=n,
        blur=blur,
        seconds=seconds,
        seconds_per_1e6_pairs_and_half_iteration=seconds / 10 / (n * n / 1e6),
        extra_bytes=peak.bytes,
        rows_of_T=off,
    )
    print(
        f"n = {n:6} streamed, 10 half iterations {seconds:8.1f} s  "
        f"{1e3 * row['seconds_per_1e6_pairs_and_half_iteration']:.3f} ms per 10⁶ pairs and half "
        f"iteration  {peak.bytes / 2**20:6.0f} MiB  rows of T {off:.1e}",
        flush=True,
    )
    return row


def converged(device, n=20_000, blur=0.5):
    "One converged call, streamed."
    from nsgf_nb.estimator import SinkhornVelocity

    device = torch.device(device)
    x, y = (z.to(device) for z in ref.inputs("8gaussians", n))
    with Peak(device) as peak:
        seconds, (v, info) = timed(
            lambda: SinkhornVelocity(blur, backend="stream")(x, y, return_info=True), device, 1
        )
    row = dict(
        n=n,
        blur=blur,
        seconds=seconds,
        passes=info.n_iter,
        err_v=info.err_v,
        converged=info.converged,
        extra_bytes=peak.bytes,
    )
    print(
        f"n = {n:6} streamed, converged: {info.converged} in {info.n_iter} passes, "
        f"{seconds:.1f} s, {peak.bytes / 2**20:.0f} MiB",
        flush=True,
    )
    return row


def ratios(rows, of):
    "Of each method to ours: geometric mean and least, over the cases both have."
    by = {}
    for r in rows:
        by.setdefault(r["method"], {})[r["case"]] = r[of]
    mine, out = by["ours auto"], {}
    for name, theirs in by.items():
        if name == "ours auto":
            continue
        found = [theirs[c] / mine[c] for c in mine if c in theirs]
        mean = math.exp(sum(map(math.log, found)) / len(found))
        out[name] = dict(times_faster=mean, least=min(found), cases=len(found))
    return out


def summary(rows):
    "Ratios of wall time, and of CPU time."
    out = ratios(rows, "seconds")
    for name, r in ratios(rows, "cpu_seconds").items():
        out[name] |= dict(times_faster_cpu=r["times_faster"], least_cpu=r["least"])
        print(
            f"{name:22} takes {r['times_faster']:6.1f} times the CPU time of ours (geometric "
            f"mean of {r['cases']}), at least {r['least']:.1f} times",
            flush=True,
        )
    return out


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--out", type=Path, default=HERE / "results" / "estimator.json")
    p.add_argument("--device", default="cpu")
    p.add_argument("--quick", action="store_true", help="small cases, one repetition")
    p.add_argument(
        "--part",
        nargs="+",
        choices=("tier1", "batch", "tier2"),
        default=["tier1", "batch", "tier2"],
        help="these parts only; the others stay as they are in the file",
    )
    p.add_argument("--sizes", type=int, nargs="+", default=[12_500, 25_000, 50_000, 100_000])
    a = p.parse_args()
    device = torch.device(a.device)
    out = json.loads(a.out.read_text()) if a.out.exists() and len(a.part) < 3 else {}
    made = facts(*PACKAGES, device=device) | dict(threads=torch.get_num_threads())
    if "tier1" in a.part:
        out["tier1"] = dict(made, rows=(rows := tier1(device, a.quick)), summary=summary(rows))
    if "batch" in a.part:
        out["batch"] = dict(made, rows=batch(device))
    if "tier2" in a.part:
        out["tier2"] = dict(
            made, memory=memory(device), rows=tier2(device, a.sizes[:1] if a.quick else a.sizes)
        ) | ({} if a.quick else dict(converged=fresh(converged, str(device))))
    write(a.out, out)


if __name__ == "__main__":
    sys.exit(main())
