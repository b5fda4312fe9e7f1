"""What the package does on a GPU: agreement, speed, training, images; no package index is needed.

    python bench/gpu.py --minutes 6                 all parts but the images, while minutes last
    python bench/gpu.py --part images --minutes 8   NSGF++, OT-CFM and FM on MNIST, equal seconds
    python bench/gpu.py --quick --device cpu        every part, small, on a CPU: tests the script

A part gives rows, and each row is written to --out (bench/results/gpu.json; with --quick a file in
runs/) when it is there: a run that is cut off loses one row, and a part without a row leaves the
record of an earlier run. A part that fails says so in the file, and the next one begins.
A part begins only while there is time, and it stops between two rows when its share is used up.
Seconds are medians between synchronisations. The images are read from $NSGF_DATA (else ./data), as
torchvision keeps them; `bench/gpu_pack.sh FOLDER` gathers what a machine without a network needs.
"""

import argparse
import itertools
import json
import math
import shutil
import subprocess
import sys
import time
import traceback
import warnings
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from importlib import import_module
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace

import make_reference as reference
import torch
from estimator import methods, once, timed
from record import ROOT, facts, write

OUT = ROOT / "bench" / "results" / "gpu.json"
QUICK_OUT = ROOT / "runs" / "gpu-quick.json"  # no figures: a check that all parts run
PACKAGES = ("numpy", "triton", "POT", "geomloss", "flash-sinkhorn")


# --- clocks -----------------------------------------------------------------------------------


def synchronize(device):
    if device.type == "cuda":
        torch.cuda.synchronize()


def seconds_of(f, device, repeats=5, least=0.02):
    "Median seconds of one call of f, over as many calls at a time as take `least` seconds."
    once(f, device)
    warm = once(f, device)[0]
    if warm > 1:
        return warm
    inner = max(1, min(500, math.ceil(least / warm)))

    def several():
        for _ in range(inner):
            f()

    several()  # the clock of a GPU rises with its load
    return timed(several, device, repeats)[0] / inner


# --- what the machine can do ------------------------------------------------------------------


def maximum_clock():
    "SM clock in Hz that the driver allows; None where there is no driver."
    query = ["nvidia-smi", "--query-gpu=clocks.max.sm", "--format=csv,noheader,nounits"]
    try:
        said = subprocess.run(query, capture_output=True, text=True, timeout=20).stdout
        return 1e6 * float(said.splitlines()[0])
    except (OSError, ValueError, IndexError, subprocess.TimeoutExpired):
        return None


def machine(device, quick):
    "Peaks of this machine, measured, and the exponentials that its data sheet promises."
    big = 2**20 if quick else 2**28
    a, b = torch.rand(big, device=device), torch.empty(big, device=device)
    copied = seconds_of(lambda: b.copy_(a), device)
    yield dict(what="copy, bytes read and written a second", value=8 * big / copied)
    size = 256 if quick else 8192
    for name, dtype, tf32 in (
        ("float32", torch.float32, False),
        *([("TF32", torch.float32, True)] if device.type == "cuda" else []),
        ("bfloat16", torch.bfloat16, False),
        ("float64", torch.float64, False),
    ):
        torch.backends.cuda.matmul.allow_tf32 = tf32
        p = torch.randn(size, size, device=device).to(dtype)
        q = torch.randn(size, size, device=device).to(dtype)
        took = seconds_of(lambda: p @ q, device)
        yield dict(
            what=f"product of matrices, {name}, operations a second", value=2 * size**3 / took
        )
    torch.backends.cuda.matmul.allow_tf32 = False
    if device.type == "cuda":
        some = torch.rand(2**20, device=device)
        launch = seconds_of(lambda: some[:32].add_(1.0), device)
        yield dict(what="seconds of a small operation", value=launch)
        count = torch.cuda.get_device_properties(device).multi_processor_count
        clock = maximum_clock()
        limit = None if clock is None else 16 * count * clock
        yield dict(what="exponentials a second, 16 a clock and multiprocessor", value=limit)


# --- agreement with float64 -------------------------------------------------------------------


def our_backends(device):
    "Those that run there; Triton's interpreter takes a CPU's tensors, slowly, for tests only."
    here = device.type == "cuda" and find_spec("triton")
    return ("dense", "stream", "triton") if here else ("dense", "stream")


def clouds(n, m, d, seed, device, shift=1.0):
    "A normal cloud, and a narrower one beside it."
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=g)
    y = 0.5 * torch.randn(m, d, generator=g)
    y[:, 0] += shift
    return x.to(device), y.to(device)


def agreement(device, quick, backends=None):
    "The true error of each backend, against plain float64 on the CPU, beside the stated one."
    from nsgf_nb.estimator import SinkhornVelocity
    from nsgf_nb.transport.scale import inner_scale
    from nsgf_nb.velocity import sinkhorn_velocity

    sizes = ((200, 200, 2), (300, 170, 2), (256, 256, 64), (200, 256, 784))
    for n, m, d in ((40, 30, 2),) if quick else sizes:
        x, y = clouds(n, m, d, seed=n + d, device=device)
        for r in (0.5,) if quick else (0.5, 0.2):
            blur = r * math.sqrt(inner_scale(x.cpu(), y.cpu()))
            exact = sinkhorn_velocity(x.cpu().double(), y.cpu().double(), blur)
            unit = exact.square().sum(1).mean().sqrt()
            kinds = itertools.product(backends or our_backends(device), ("float32", "float64"))
            for backend, dtype in kinds:
                if backend == "flash" and dtype == "float64":
                    continue
                velocity, number = SinkhornVelocity(blur, backend=backend), getattr(torch, dtype)
                v, info = velocity(x.to(number), y.to(number), return_info=True)
                off = (v.cpu().double() - exact).square().sum(1).mean().sqrt()
                yield dict(
                    n=n,
                    m=m,
                    d=d,
                    relative_blur=r,
                    backend=backend,
                    dtype=dtype,
                    error=(off / unit).item(),
                    stated=info.err_v / unit.item(),
                    converged=info.converged,
                    passes=info.n_iter,
                )


def from_tests(name):
    "A module beside the tests."
    if (tests := str(ROOT / "tests")) not in sys.path:
        sys.path[:0] = [str(ROOT), tests]
    return import_module(name)


def judged(numbers, device):
    "Verdicts on problems of tests/problems.py, with their tensors on the device."
    import certificate

    problems, verdict = from_tests("problems"), from_tests("verdict")
    torch.set_num_threads(1)
    return [
        certificate.short(verdict.judge(problems.problem(number), device=device))
        for number in numbers
    ]


def strata(numbers):
    "The numbers of problems, by stratum."
    problems, found = from_tests("problems"), {}
    for number in numbers:
        found.setdefault(problems.place(number)[0], []).append(number)
    return found


def certificate(device, quick):
    "The 2000 problems of tests/problems.py against their reference: by stratum, and in all."
    import certificate as record

    by, rows = strata(range(0, 2000, 100 if quick else 1)), []
    pool = ThreadPoolExecutor(1) if quick else ProcessPoolExecutor(8, get_context("spawn"))
    try:
        parts = {
            name: [pool.submit(judged, numbers[k::8], device) for k in range(8)]
            for name, numbers in by.items()
        }
        for name, own in parts.items():
            some = sum((part.result() for part in own), [])
            rows += some
            yield dict(stratum=name, **record.count(some))
        yield dict(stratum="all", **record.count(rows))
    finally:
        pool.shutdown(cancel_futures=True)


def batch(device, quick):
    "Many small problems in one call, against one call each; each answer against its own call."
    from nsgf_nb.estimator import SinkhornVelocity

    for count, n, blur in ((4, 64, 0.5),) if quick else ((132, 512, 0.5), (32, 256, 0.5)):
        pairs = [clouds(n, n, 2, seed, device) for seed in range(count)]
        x, y = (torch.stack(z) for z in zip(*pairs))
        velocity = SinkhornVelocity(blur)
        together = seconds_of(lambda: velocity(x, y, batched=True), device, repeats=3)
        v = velocity(x, y, batched=True)
        few = min(count, 12)
        single = (
            seconds_of(lambda: [velocity(p, q) for p, q in pairs[:few]], device, repeats=1) / few
        )
        off = max((v[i] - velocity(*pairs[i])).abs().max().item() for i in range(few))
        yield dict(
            problems=count,
            n=n,
            blur=blur,
            seconds=together,
            seconds_of_one=single,
            share_of_a_call_each=together / (count * single),
            difference=off,
        )


# --- half iterations: pairs a second ----------------------------------------------------------


def limit_of(d, machine_rows):
    "Pairs a second of a half iteration that this machine's peaks allow, and what binds."
    peak = {row["what"]: row["value"] for row in machine_rows}
    exponentials = peak.get("exponentials a second, 16 a clock and multiprocessor")
    products = peak.get("product of matrices, TF32, operations a second")
    if not exponentials or not products:
        return None, None
    by_products = math.inf if d <= 8 else products / (2 * d)
    if exponentials <= by_products:
        return exponentials, "exponentials"
    return by_products, "TF32 products"


def our_pass(x, y, eps, kind, precision=None):
    "One evaluation of the dual's state (two half iterations) by the kernel of the package."
    from nsgf_nb.solver.dual import start
    from nsgf_nb.solver.triton import TritonKernel, make_kernel

    mid = y.mean(0)
    n, m = len(x), len(y)
    a, b = x.new_full((1, n), 1 / n), x.new_full((1, m), 1 / m)
    clouds = (x - mid)[None], (y - mid)[None], a, b
    kernel = TritonKernel(*clouds, precision=precision) if precision else make_kernel(kind, *clouds)
    state = start(kernel, x.new_tensor([eps]), x.new_zeros(1, m))
    return lambda: kernel.both(state.v, kernel.a, inverse=True)


def flash_seconds(x, y, eps, tf32, device, few=5, many=25):
    "Seconds of one half iteration of flash-sinkhorn: the difference of two runs, without set-up."
    from flash_sinkhorn import SamplesLoss

    def run(iterations):
        loss = SamplesLoss(
            "sinkhorn",
            backend="alternating",
            use_epsilon_scaling=False,
            eps=eps,
            n_iters=iterations,
            half_cost=True,
            allow_tf32=tf32,
            potentials=True,
            last_extrapolation=False,
        )
        return lambda: loss(x, y)

    short, long = (seconds_of(run(k), device, repeats=3) for k in (few, many))
    return (long - short) / (2 * (many - few))


def wide_problem(n, d, device):
    "Two clouds and a temperature at which entries are neither all alike nor mostly zero."
    return *clouds(n, n, d, seed=d, device=device), 0.25 * d / 2


def rate_row(n, d, method, seconds, peaks):
    "What one half iteration's seconds mean."
    rate = n * n / seconds
    limit, binds = limit_of(d, peaks)
    share = None if limit is None else rate / limit
    return dict(
        n=n, d=d, method=method, seconds=seconds, pairs=rate, limit=limit, binds=binds, share=share
    )


def pairs(device, quick):
    "Pairs a second of a half iteration by each kernel, beside the limit."
    peaks = list(machine(device, True)) if quick else _rows_of("machine")
    for d in (2, 64) if quick else (2, 8, 64, 784):
        for n in (300,) if quick else (1000, 10_000, 50_000):
            x, y, eps = wide_problem(n, d, device)
            kinds = ["dense"] * (12 * n * n < 2**35) + ["stream"] * (n <= 10_000)
            for kind in kinds + ["triton"] * ("triton" in our_backends(device)):
                took = seconds_of(our_pass(x, y, eps, kind), device) / 2
                yield rate_row(n, d, kind, took, peaks)
            if d > 8 and "triton" in our_backends(device):
                rounded = our_pass(x, y, eps, "triton", precision="tf32")
                yield rate_row(n, d, "triton, TF32", seconds_of(rounded, device) / 2, peaks)


BLOCKS = {  # rows, columns, warps, stages of loading
    2: ((16, 128, 4, 3), (32, 64, 4, 3), (64, 32, 4, 3), (64, 64, 8, 3), (8, 128, 4, 3)),
    64: ((128, 64, 4, 2), (64, 64, 4, 3), (64, 128, 4, 3), (128, 128, 8, 2), (128, 64, 8, 3)),
    784: ((128, 128, 8, 3), (128, 64, 8, 3), (64, 64, 4, 3)),
}


def blocks(device, quick):
    "Pairs a second of row sums with blocks of several sizes; `nsgf_nb.solver.triton` has the best."
    from nsgf_nb.solver.triton import TritonKernel

    if "triton" not in our_backends(device):
        return
    names = "rows", "columns", "num_warps", "num_stages"
    for d, sizes in BLOCKS.items():
        n = 300 if quick else 10_000
        x, y = clouds(n, n, d, seed=d, device=device)
        a, eps = x.new_full((1, n), 1 / n), x.new_tensor([0.25 * d / 2])
        for precision in ("tf32x3",) if d == 2 else ("tf32x3", "tf32"):
            for size in sizes:
                kernel = TritonKernel(x[None], y[None], a, a, precision=precision)
                block = SimpleNamespace(**dict(zip(names, size)))
                kernel._block = lambda program, block=block: block
                kernel.absorb(torch.zeros_like(a), eps)
                took = seconds_of(lambda: kernel.rows(a), device)
                yield dict(n=n, d=d, precision=precision, block=size, pairs=n * n / took)


def solves(device, quick):
    "Seconds of the program that solves small problems of the plane whole, one launch for all."
    from nsgf_nb.solver.one_launch import potentials
    from nsgf_nb.solver.triton import TritonKernel

    if "triton" not in our_backends(device):
        return
    for n in (64,) if quick else (256, 512, 1024):
        for count in (1, 132):
            pairs = [clouds(n, n, 2, seed, device) for seed in range(count)]
            x, y = (torch.stack(z) for z in zip(*pairs))
            a, eps = x.new_full((count, n), 1 / n), x.new_full((count,), 0.25)
            kernel, none, size = TritonKernel(x, y, a, a), torch.zeros_like(eps), 4 * eps
            solve = lambda: potentials(kernel, eps, 1e-3, none, size, 1000)
            took = seconds_of(solve, device, repeats=3)
            yield dict(n=n, problems=count, seconds=took)


# --- seconds to a converged velocity ----------------------------------------------------------


def converged(device, quick):
    "Cold, to the default tolerance: as the package estimates its error, and as it proves it."
    from nsgf_nb.estimator import SinkhornVelocity

    sizes = (300,) if quick else (1000, 10_000, 50_000)
    for n in sizes:
        for d, r in ((2, 0.3), (64, 0.5), (784, 0.5)):
            if n > 10_000 and d > 2:
                continue
            x, y = clouds(n, n, d, seed=n, device=device)
            for backend in our_backends(device):
                if n > 10_000 and backend != "triton":
                    continue
                velocity = SinkhornVelocity(relative_blur=r, backend=backend)
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    took = seconds_of(lambda: velocity(x, y), device, repeats=1)
                    info = velocity(x, y, return_info=True)[1]
                yield dict(
                    n=n,
                    d=d,
                    relative_blur=r,
                    backend=backend,
                    seconds=took,
                    converged=info.converged,
                    passes=info.n_iter,
                    stated=info.err_v,
                )
            if n > 10_000:
                continue
            certified = SinkhornVelocity(relative_blur=r, certify=True)
            took = seconds_of(lambda: certified(x, y), device, repeats=1)
            info = certified(x, y, return_info=True)[1]
            yield dict(
                n=n,
                d=d,
                relative_blur=r,
                backend="auto, certified",
                seconds=took,
                converged=info.converged,
                passes=info.n_iter,
                stated=info.bound_v,
            )


def two_clusters(device, quick):
    "Two clustered clouds in the plane, 400 points each, eps = .09, and a function for rows."
    from nsgf_nb.velocity import sinkhorn_velocity

    n, eps = (80 if quick else 400), 0.09
    g = torch.Generator().manual_seed(0)
    middles = 3 * torch.rand(2, 8, 2, generator=g)
    pick = torch.randint(8, (2, n), generator=g)
    x, y = (middles[k][pick[k]] + 0.05 * torch.randn(n, 2, generator=g) for k in range(2))
    exact = sinkhorn_velocity(x.double(), y.double(), math.sqrt(eps))

    def row(method, seconds, v, **more):
        error = ((v.cpu().double() - exact).norm() / exact.norm()).item()
        return dict(n=n, eps=eps, method=method, seconds=seconds, error=error, **more)

    return x.to(device), y.to(device), eps, row


def clustered(device, quick):
    "A solution that states its own error, where a fixed number of iterations leaves a large one."
    from nsgf_nb.estimator import SinkhornVelocity

    x, y, eps, row = two_clusters(device, quick)
    for tol in (1e-3, 1e-5):
        velocity = SinkhornVelocity(math.sqrt(eps), tol=tol)
        took = seconds_of(lambda: velocity(x, y), device, repeats=3)
        v, info = velocity(x, y, return_info=True)
        yield row(f"ours, tol {tol:g}", took, v, converged=info.converged, passes=info.n_iter)


def clustered_by_flash(device, quick):
    "What a fixed number of symmetric iterations leaves of the error of the debiased gradient."
    from flash_sinkhorn import SamplesLoss

    x, y, eps, row = two_clusters(device, quick)
    for iterations in (100, 1000, 10_000):
        loss = SamplesLoss(
            "sinkhorn",
            use_epsilon_scaling=False,
            eps=eps,
            n_iters=iterations,
            half_cost=True,
            debias=True,
            allow_tf32=False,
        )

        def gradient():
            z = x.clone().requires_grad_(True)
            return -len(x) * torch.autograd.grad(loss(z, y), z)[0]

        took = seconds_of(gradient, device, repeats=1)
        yield row(f"flash-sinkhorn, {iterations} symmetric iterations", took, gradient())


def pairs_by_flash(device, quick):
    "Pairs a second of its half iterations; it tunes itself for half a minute a shape."
    peaks = _rows_of("machine")
    for tf32, n, d in itertools.product((True, False), (10_000, 50_000), (2, 64)):
        x, y, eps = wide_problem(n, d, device)
        name = "flash-sinkhorn, TF32" if tf32 else "flash-sinkhorn, float32"
        yield rate_row(n, d, name, flash_seconds(x, y, eps, tf32, device), peaks)


def rivals(device, quick):
    "GeomLoss and flash-sinkhorn in the parts above; last, because the second tunes itself."
    if find_spec("geomloss"):
        yield from (dict(of="agreement", **r) for r in agreement(device, quick, ["geomloss"]))
    if device.type != "cuda" or not find_spec("flash_sinkhorn"):
        return
    yield from (dict(of="pairs", **r) for r in pairs_by_flash(device, quick))
    yield from (dict(of="clustered", **r) for r in clustered_by_flash(device, quick))
    yield from (dict(of="agreement", **r) for r in agreement(device, quick, ["flash"]))


def trajectories(device, quick):
    "Tier 1 of bench/estimator.py: whole flows, time and error of the end point, all solvers here."
    from safetensors.torch import load_file

    ends = load_file(reference.FILE)
    for case in reference.cases():
        data, n, blur = case
        if reference.key(*case) not in ends or (quick and (n > 512 or blur != 0.5)):
            continue
        x, y = (z.to(device) for z in reference.inputs(data, n))
        end = ends[reference.key(*case)].to(device)
        steps, eta = reference.STEPS[data]
        for name, run in methods(data, blur, n, device).items():
            if quick and name not in ("ours auto", "GeomLoss 0.5"):
                continue
            try:
                run(x, y, steps, eta)
                repeats = 1 if quick else 3
                took, out = timed(lambda: run(x, y, steps, eta), device, repeats)
            except Exception as problem:
                said = f"{type(problem).__name__}: {str(problem)[:200]}"
                yield dict(case=reference.key(*case), method=name, failed=said)
                continue
            error = ((out - end).norm() / (end - x).norm()).item()
            yield dict(case=reference.key(*case), method=name, seconds=took, error=error)


# --- training ---------------------------------------------------------------------------------


def training(device, quick):
    """Optimiser steps a second: the MLP of the plane, U-Nets of images.

    In float32 and bfloat16; as called, recorded as one launch, compiled and recorded.
    """
    from nsgf_nb.learning.nets import MLP
    from nsgf_nb.learning.networks import preset_unet
    from nsgf_nb.learning.recorded import Recorded
    from nsgf_nb.learning.training import adamw, autocast, matching_loss

    makers = {
        "MLP 3 × 256, 256 rows": (lambda: MLP((2,)), 256, (2,)),
        "U-Net mnist, 128 images": (lambda: preset_unet("mnist"), 128, (1, 28, 28)),
        "U-Net cifar10, 128 images": (lambda: preset_unet("cifar10"), 128, (3, 32, 32)),
    }
    ways = ((False, False), (False, True), (True, True))  # compiled?, recorded?
    if quick:
        makers = {"U-Net digits, 32 images": (lambda: preset_unet("digits"), 32, (1, 8, 8))}
    for name, (make, rows, shape) in makers.items():
        x, t = torch.randn(rows, *shape, device=device), torch.rand(rows, device=device)
        for precision in ("bfloat16", "float32"):
            for compiled, recorded in ways:
                if (recorded or compiled) and device.type != "cuda":
                    continue
                net = make().to(device)
                if compiled:
                    net.compile()
                call, optimiser = autocast(net, precision), adamw(net, 1e-3)

                def learn(x, t, goal):
                    loss = matching_loss(call, x, t, goal)
                    loss.backward()
                    return loss.detach()

                if recorded:
                    learn = Recorded(learn, list(net.parameters()))

                def step():
                    optimiser.zero_grad()
                    learn(x, t, x)
                    optimiser.step()

                first = once(step, device)[0]
                took = seconds_of(step, device, repeats=3, least=0.02 if quick else 0.2)
                yield dict(
                    what=name,
                    precision=precision,
                    compiled=compiled,
                    recorded=recorded,
                    steps=1 / took,
                    first_step=first,
                )


# --- images -----------------------------------------------------------------------------------

IMAGE_SECONDS = 60  # of training for a method
IMAGE_CALLS = (5, 10, 20)


def image_methods(iterations):
    "Arguments of each method for so many optimiser steps; the same U-Net and batch for all."
    common = dict(iterations=iterations, batch_size=128, lr=1e-3, ema=0.999, precision="bfloat16")
    first = dict(
        num_steps=1, step_size=0.5, relative_blur=0.15, network="mlp", lr=4e-3, batch_size=128
    )
    first |= (
        dict(group=1024, pool_size=16384, iterations=600)
        if iterations > 10
        else dict(group=64, pool_size=192, iterations=4)
    )
    return {
        "NSGF++": dict(sinkhorn=first, straight=dict(coupling="ot", **common), start="sinkhorn"),
        "OT-CFM": dict(coupling="ot", **common),
        "FM": dict(coupling="independent", **common),
    }


def image_flow(arguments, device, quick):
    "A flow whose U-Net is compiled on a GPU."
    from nsgf_nb.learning.networks import preset_unet
    from nsgf_nb.plusplus import NSGFPlusPlus
    from nsgf_nb.straight import StraightFlow

    net = preset_unet("digits" if quick else "mnist")
    if device.type == "cuda":
        net.compile()
    if "sinkhorn" in arguments:
        return NSGFPlusPlus(
            **arguments | dict(straight=dict(arguments["straight"], network=net)),
            device=str(device),
        )
    return StraightFlow(**arguments, network=net, device=str(device))


def fit_seconds(arguments, data, device, quick, folder=None):
    "A fitted flow and its seconds; with a folder it goes on where it was stopped."
    flow = image_flow(arguments, device, quick)
    synchronize(device)
    begin = time.perf_counter()
    flow.fit(data, seed=0, progress=False, workdir=folder, resume=folder is not None)
    synchronize(device)
    return flow, time.perf_counter() - begin


def planned_steps(method, data, device, quick, folder):
    "Optimiser steps that the seconds allow; kept in the folder for a run that goes on."
    plan = folder / "plan.json"
    if plan.exists():
        return json.loads(plan.read_text())
    if device.type == "cuda":
        fit_seconds(image_methods(1)[method], data, device, quick)  # compiles
    few = 2 if quick else 1000  # a hundred rows of the history, as in the fit itself
    flow, took = fit_seconds(image_methods(few)[method], data, device, quick)
    first, *_, last = getattr(flow, "straight", flow).history
    step = (last["seconds"] - first["seconds"]) / (last["step"] - first["step"])
    steps = few if quick else few + max(0, int((_image_seconds - took) / step))
    folder.mkdir(parents=True, exist_ok=True)
    write(plan, dict(steps=steps, steps_a_second=1 / step))
    return json.loads(plan.read_text())


def images(device, quick):
    """MNIST: each method gets the same seconds, pool included.

    A short fit tells its steps a second, and the learning rate's schedule is laid out for the steps
    that the seconds allow. A checkpoint is written each minute, and a run that was stopped goes on;
    methods that it has finished are not fitted again.
    Scores: FID-LeNet of 10 000 samples against the test images.
    """
    import images

    from nsgf_nb.core import make_generator
    from nsgf_nb.data import get_sampler
    from nsgf_nb.evaluation.classifier import lenet_features
    from nsgf_nb.evaluation.frechet import frechet

    def seen(x):
        "Features of images; small ones get a margin."
        margin = (28 - x.shape[-1]) // 2
        return lenet_features(torch.nn.functional.pad(x, 4 * [margin], value=-1.0))

    if quick:
        data, _ = get_sampler("digits")(1797, make_generator(0, "split"))
        n, test, others = 100, data[:200], data[200:400]
    else:
        data, n = images.mnist(), 10_000
        test, _ = images.mnist(train=False)(n, make_generator(1, "real"))
        others, _ = data(n, make_generator(2, "real"))
    features = seen(test)
    floor = frechet(seen(others), features)
    yield dict(method="floor", scores={"FID-LeNet": float(floor)}, n=n)
    root = _out.parent / "gpu-images-quick" if quick else ROOT / "runs" / "gpu-images"
    if quick:
        shutil.rmtree(root, ignore_errors=True)
    for method in image_methods(1):
        folder = root / f"{method}, {_image_seconds:g} s"
        row = folder / "row.json"
        if not row.exists():
            write(row, image_row(method, data, n, test, features, seen, device, quick, folder))
        yield json.loads(row.read_text())
    shutil.rmtree(root)


def image_row(method, data, n, test, features, seen, device, quick, folder):
    "A fit that may go on where it was stopped, and its scores."
    import images

    from nsgf_nb.evaluation.frechet import frechet

    resumed = folder.exists()
    plan = planned_steps(method, data, device, quick, folder)
    arguments = image_methods(plan["steps"])[method]
    flow, took = fit_seconds(arguments, data, device, quick, folder)
    scores = {}
    for calls in IMAGE_CALLS[:1] if quick else IMAGE_CALLS:
        x = flow.sample(n, seed=1, batch_size=1000, **images.calls(flow, calls, "euler"))
        x = x.float().cpu().clamp(-1, 1)
        fid = float(frechet(seen(x), features))
        scores[str(calls)] = {"FID-LeNet": fid, "variance": x.flatten(1).var(0).sum().item()}
    return dict(
        method=method,
        seconds=took,
        resumed=resumed,  # then the seconds are those of the rest
        **plan,
        n=n,
        scores=scores,
        data_variance=test.flatten(1).var(0).sum().item(),
    )


# --- the run ----------------------------------------------------------------------------------

PARTS = dict(
    machine=machine,
    agreement=agreement,
    certificate=certificate,
    batch=batch,
    pairs=pairs,
    blocks=blocks,
    solves=solves,
    clustered=clustered,
    converged=converged,
    trajectories=trajectories,
    training=training,
    rivals=rivals,
    images=images,
)
SHARE = dict(
    machine=20,
    agreement=30,
    certificate=100,
    batch=30,
    pairs=60,
    blocks=40,
    solves=20,
    clustered=30,
    converged=45,
    trajectories=60,
    training=60,
    rivals=120,
    images=480,
)
_result, _out = {}, OUT
_image_seconds = IMAGE_SECONDS


def _rows_of(part):
    return _result.get(part, {}).get("rows", [])


def run_part(name, device, quick, until):
    "All rows of a part, each written when it is there; True where it came to its end."
    before = _result.get(name)
    part = dict(facts(*PACKAGES, device=device), quick=quick, complete=False, rows=[])
    _result[name] = part
    part["stopped"] = "before its first row"
    begin = time.monotonic()
    end = min(until, begin + SHARE[name])
    try:
        for row in PARTS[name](device, quick):
            part["rows"].append(row)
            part["stopped"] = "in the row after these"
            print(f"{name:12} " + "  ".join(f"{k} {_short(v)}" for k, v in row.items()), flush=True)
            write(_out, _result)
            if time.monotonic() > end and not quick:
                part["stopped"] = "its share of the time was used up"
                break
        else:
            part["complete"] = True
            del part["stopped"]
    except Exception as problem:
        part["failed"] = f"{type(problem).__name__}: {problem}"[:500]
        traceback.print_exc()
    part["seconds"] = time.monotonic() - begin
    if before and not part["rows"] and not part["complete"]:
        _result[name] = before  # no row came: what was known stays
    write(_out, _result)
    return part["complete"]


def headline():
    "Seconds to a certified velocity, in one line for each size."
    for row in _rows_of("converged"):
        if row["backend"] == "auto, certified":
            said = "certified" if row["converged"] else "not certified"
            size = f"{row['n']} points, {row['d']} coordinates"
            print(f"{size}: {said} in {_short(row['seconds'])} s, proved {_short(row['stated'])}")


def _short(value):
    return f"{value:.4g}" if isinstance(value, float) else value


def main():
    global _out, _image_seconds
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--minutes", type=float, default=6.0, help="after which no further part begins")
    p.add_argument(
        "--part",
        nargs="+",
        choices=PARTS,
        help="these only; default: all but images, with --quick all",
    )
    p.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    p.add_argument("--quick", action="store_true", help="small, every part to its end")
    p.add_argument(
        "--image-seconds", type=float, default=IMAGE_SECONDS, help="of training a method"
    )
    p.add_argument("--out", type=Path, help=f"default: {OUT.name}, with --quick one in runs/")
    a = p.parse_args()
    if not (a.quick or a.device.startswith("cuda")):
        p.error("device: expected one of CUDA, or --quick")
    a.out = a.out or (QUICK_OUT if a.quick else OUT)
    a.out.parent.mkdir(parents=True, exist_ok=True)
    device, _out, _image_seconds = torch.device(a.device), a.out, a.image_seconds
    if _out.exists():
        _result.update(json.loads(_out.read_text()))
    until = time.monotonic() + 60 * a.minutes
    parts = a.part or [name for name in PARTS if a.quick or name != "images"]
    done = []
    for name in parts:
        if time.monotonic() > until:
            print(f"{name}: no time left", flush=True)
            continue
        done.append(run_part(name, device, a.quick, until))
    if "converged" in parts:
        headline()
    print(f"{sum(done)} of {len(parts)} parts complete, in {_out}", flush=True)
    return not all(done) if a.quick else 0


if __name__ == "__main__":
    raise SystemExit(main())
