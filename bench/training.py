"""Training: rows and steps per second, a pool larger than memory, the time until the gate holds.

    python bench/training.py [--part speed disk hitting] [--seeds 60 61 62 63 64] [--jobs 1]
                             [--gigabytes 10] [--pairs 5] [--scratch FOLDER] [--out FILE]

speed    rows of a pool and training steps per second, one device.
disk     rows per second of training from a pool of --gigabytes on disk (in --scratch; random
         numbers in the shape of CIFAR-10's pool) over those from the same pool in memory, each in
         a process of its own, with an MLP of 3 × 256: --pairs pairs in turns, the median of their
         ratios. Wall and CPU time of a step, wall time of its rows; resident memory; how much of
         the pool the page cache held.
hitting  seconds (pool included) until the gate holds at two consecutive checks,
         NSGF(num_steps=10) beside StraightFlow("ot"), which is OT-CFM: defaults, same network,
         same schedule, averaged weights, checks every 10 % of the steps, which are not counted;
         then the fit ends. Rows that are in the file already (bench/results/training.json) are
         kept.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from statistics import median

import torch
from record import facts, revision, write

CIFAR = dict(group=128, num_steps=5, shape=(3, 32, 32))


def status(key):
    return 1024 * next(int(s.split()[1]) for s in open("/proc/self/status") if s.startswith(key))


# --- speed ----------------------------------------------------------------------------------------


def speed():
    from nsgf_nb.data import get_sampler
    from nsgf_nb.estimator import SinkhornVelocity
    from nsgf_nb.flow import NSGF
    from nsgf_nb.learning.nets import MLP
    from nsgf_nb.motion.simulation import Simulation

    out = []
    images = Simulation(
        get_sampler("normal", shape=CIFAR["shape"], std=0.5),
        get_sampler("normal", shape=CIFAR["shape"], std=0.25),
        SinkhornVelocity(2.0),
        5,
        0.2,
        128,
    )
    for name, sim in {"d = 3072, n = 128, 5 steps (normal laws)": images}.items():
        sim([0])
        took = []
        for k in range(5):
            t = time.perf_counter()
            sim([k + 1])
            took.append(time.perf_counter() - t)
        out.append(
            dict(what=f"pool rows/s, {name}", value=sim.group * sim.num_steps / sorted(took)[2])
        )
    torch.manual_seed(0)
    net = MLP((2,), hidden=256, layers=3)
    flow = NSGF(num_steps=10, iterations=600, pool_size=8192, network=net)
    t = time.perf_counter()
    flow.fit("8gaussians", seed=0, progress=False)
    took = time.perf_counter() - t
    matching = flow.history[-1]["seconds"]
    out += [
        dict(
            what="pool rows/s, 8gaussians, n = 1024, 10 steps",
            value=len(flow.pool) / (took - matching),
        ),
        dict(what="training steps/s, 8gaussians, MLP 3 × 256, 256 rows", value=600 / matching),
    ]
    for r in out:
        print(f"{r['what']:60} {r['value']:10.0f}", flush=True)
    return dict(facts(), threads=torch.get_num_threads(), rows=out)


# --- disk -----------------------------------------------------------------------------------------


class Noise:
    "Stands for a Simulation: groups of random numbers, as fast as the disk takes them"

    def __init__(self):
        from nsgf_nb.data import get_sampler
        from nsgf_nb.estimator import SinkhornVelocity

        self.source = self.target = get_sampler("normal", shape=CIFAR["shape"])
        (
            self.velocities,
            self.num_steps,
            self.group,
            self.step_size,
            self.jitter,
            self.storage,
            self.seed,
        ) = (
            [SinkhornVelocity(1.0)] * CIFAR["num_steps"],
            CIFAR["num_steps"],
            CIFAR["group"],
            0.2,
            False,
            "float32",
            0,
        )

    def __call__(self, numbers):
        g, T, n = len(numbers), self.num_steps, self.group
        one = torch.ones(g, T)
        return dict(
            x=torch.rand(
                g, T + 1, n, *CIFAR["shape"], generator=torch.Generator().manual_seed(numbers[0])
            ),
            etas=0.2 * one,
            times=torch.linspace(0, 0.67, T + 1).repeat(g, 1),
            passes=one.clone(),
            error=0 * one,
            converged=one > 0,
            square=one,
        )


def cached(folder):
    "Fraction of the pool's bytes in the page cache"
    import ctypes
    import mmap

    libc, have, all_ = ctypes.CDLL(None, use_errno=True), 0, 0
    for file in Path(folder).glob("shard-*"):
        size = file.stat().st_size
        pages = (size + 4095) // 4096
        with open(file, "r+b") as f, mmap.mmap(f.fileno(), size) as m:
            vector = (ctypes.c_ubyte * pages)()
            here = ctypes.addressof(ctypes.c_char.from_buffer(m))
            libc.mincore(ctypes.c_void_p(here), ctypes.c_size_t(size), vector)
            del here
            have += sum(v & 1 for v in vector)
            all_ += pages
            import gc

            gc.collect()
    return have / all_


def train_from(folder, memory, steps, warm):
    "Rows per second of training and resident memory; the pool on the disk, or read whole"
    from nsgf_nb.learning.nets import MLP
    from nsgf_nb.learning.training import Task, TrainingOptions, train
    from nsgf_nb.motion.shards import open_pool
    from nsgf_nb.motion.shuffle import BlockShuffle
    from nsgf_nb.processes import batch_part

    pool = open_pool(folder)
    if memory:
        pool = pool.in_memory()
    draw, net, most = (
        BlockShuffle(pool, 256, seed=0),
        MLP(CIFAR["shape"], hidden=256, layers=3),
        [0],
    )
    times, took = {}, {}

    def rows(s, part, net):
        times[s] = time.perf_counter(), time.process_time()
        x, t, v, _ = draw.rows(s, batch_part(256, part))
        took[s] = time.perf_counter() - times[s][0]
        if s % 50 == 0:
            most[0] = max(most[0], status("RssAnon"))
        return x, t, v, None

    train(net, Task(rows), TrainingOptions(iterations=warm + steps), show=False)
    # seconds a step
    wall, cpu = (
        z / (steps - 1) for z in (q - p for p, q in zip(times[warm], times[warm + steps - 1]))
    )
    return dict(
        rows_per_second=256 / wall,
        milliseconds=dict(
            step=1e3 * wall,
            cpu=1e3 * cpu,
            rows=1e3 * sum(took[s] for s in range(warm, warm + steps)) / steps,
        ),
        rss_anon=most[0],
        rss_file=status("RssFile"),
        window_groups=draw.width,
        groups=len(pool.groups),
    )


def disk(gigabytes, scratch, pairs, steps=400, warm=60):
    from nsgf_nb.motion.shards import build_shards

    folder = Path(tempfile.mkdtemp(dir=scratch))
    try:
        t = time.perf_counter()
        pool = build_shards(
            Noise(), folder / "pool", int(gigabytes * 1e9 / (128 * 6 * 3072 * 4)), show=False
        )
        wrote = time.perf_counter() - t
        size = pool.nbytes
        del pool
        runs = []
        with get_context("spawn").Pool(1, maxtasksperchild=1) as p:
            for _ in range(pairs):  # in turns: what else the machine does slows both
                before = cached(folder / "pool")
                read = p.apply(train_from, (folder / "pool", False, steps, warm))
                after = cached(folder / "pool")
                whole = p.apply(train_from, (folder / "pool", True, steps, warm))
                runs.append(
                    dict(
                        cached_before=before,
                        cached_after=after,
                        disk=read,
                        memory=whole,
                        ratio=read["rows_per_second"] / whole["rows_per_second"],
                        load=os.getloadavg()[0],
                    )
                )
                say = " ".join(
                    f"{k} {read['milliseconds'][k]:.1f}/{whole['milliseconds'][k]:.1f}"
                    for k in read["milliseconds"]
                )
                print(
                    f"pool of {size / 1e9:.1f} GB: {read['rows_per_second']:.0f} rows/s from disk "
                    f"({before:.0%} to {after:.0%} in the page cache), "
                    f"{whole['rows_per_second']:.0f} from memory: {runs[-1]['ratio']:.2f}; "
                    f"ms a step: {say}; RssAnon {read['rss_anon'] / 1e6:.0f} MB",
                    flush=True,
                )
    finally:
        shutil.rmtree(folder)
    ratios = sorted(r["ratio"] for r in runs)
    return dict(
        facts(),
        threads=torch.get_num_threads(),
        bytes=size,
        write_seconds=wrote,
        steps=steps,
        runs=runs,
        ratio=median(ratios),
        ratio_range=[ratios[0], ratios[-1]],
    )


# --- hitting --------------------------------------------------------------------------------------


class Hit(Exception):
    pass


def hit(problem, method, seed, checks=10):
    """One fit, until the gate has held twice.

    Seconds are those of the CPU, one thread, without the checks: other work on the machine does not
    count.
    """
    from nsgf_nb.data import get_sampler
    from nsgf_nb.distances import gate
    from nsgf_nb.flow import NSGF
    from nsgf_nb.runs.report import endless
    from nsgf_nb.straight import StraightFlow

    torch.set_num_threads(1)
    code, target = dict(revision=revision()), get_sampler(problem)
    flow = NSGF(num_steps=10) if method == "NSGF" else StraightFlow("ot")
    out, start, pool, task = [], time.process_time(), [], flow.task

    def timed(*args):
        made = task(*args)
        pool.append(time.process_time() - start)
        return made

    def check(row):  # the flow holds the averaged weights of this moment
        nonlocal start
        if (row["step"] * 100 // flow.iterations) % (100 // checks):
            return
        now = time.process_time()
        # all checks and both methods from the same starts, against the same targets
        g = gate(target, endless(flow), seed=seed + 2000)
        out.append(
            dict(
                step=row["step"],
                seconds=now - start,
                ratio=g.ratio,
                low=g.low,
                high=g.high,
                tv=g.tv,
                tv_low=g.tv_low,
                tv_high=g.tv_high,
                pairs=g.pairs,
                bound=g.bound,
                verdict=g.verdict,
                passed=g.passed,
            )
        )
        if len(out) > 1 and out[-1]["passed"] and out[-2]["passed"]:
            raise Hit
        start += time.process_time() - now

    flow.task = timed
    try:
        flow.fit(target, seed=seed, progress=False, callbacks=[check])
        held = None
    except Hit:
        held = out[-2]["seconds"]
    return dict(
        problem=problem,
        method=method,
        seed=seed,
        **code,
        pool_seconds=pool[0],
        seconds=out[-1]["seconds"],
        hit=held,
        checks=out,
    )


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument(
        "--part",
        nargs="+",
        default=["speed", "disk", "hitting"],
        choices=["speed", "disk", "hitting"],
    )
    p.add_argument("--seeds", type=int, nargs="+", default=[60, 61, 62, 63, 64])
    p.add_argument("--problems", nargs="+", default=["8gaussians", "checkerboard"])
    p.add_argument("--jobs", type=int, default=1)
    p.add_argument("--gigabytes", type=float, default=10.0)
    p.add_argument("--pairs", type=int, default=5)
    p.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir()))
    p.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "training.json")
    a = p.parse_args()
    read = lambda: json.loads(a.out.read_text()) if a.out.exists() else {}
    if "speed" in a.part:
        write(a.out, read() | dict(speed=speed()))
    if "disk" in a.part:
        write(a.out, read() | dict(disk=disk(a.gigabytes, a.scratch, a.pairs)))
    if "hitting" in a.part:
        rows = read().get("hitting", {}).get("rows", [])
        done = {(r["problem"], r["method"], r["seed"]) for r in rows}
        with ProcessPoolExecutor(a.jobs) as pool:
            for future in as_completed(
                [
                    pool.submit(hit, q, m, s)
                    for s in a.seeds
                    for q in a.problems
                    for m in ("NSGF", "OT-CFM")
                    if (q, m, s) not in done
                ]
            ):
                rows.append(r := future.result())
                write(
                    a.out,
                    read()
                    | dict(
                        hitting=dict(
                            facts(),
                            threads_per_fit=1,
                            jobs=a.jobs,
                            rows=sorted(rows, key=lambda r: (r["problem"], r["method"], r["seed"])),
                        )
                    ),
                )
                print(
                    f"{r['problem']:13} {r['method']:7} seed {r['seed']}: "
                    f"gate at {'never' if r['hit'] is None else format(r['hit'], '.0f') + ' s'} "
                    f"of {r['seconds']:.0f} s (pool {r['pool_seconds']:.0f} s)",
                    flush=True,
                )


if __name__ == "__main__":
    sys.exit(main())
