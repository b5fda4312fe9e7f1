"""The loss beside GeomLoss's SamplesLoss: errors of value, gradient and Hessian, CPU time, batches.

    python bench/loss.py

Times are medians of CPU time on one thread (time.process_time), forward and backward. Errors are
relative, in float64, against sinkhorn_divergence at tol=1e-13, itself held against the plain
log-domain solver of the first lesson on Sinkhorn. One minute on an idle core.
"""

import statistics
import sys
import time
from functools import partial
from pathlib import Path

import torch
from record import ROOT, facts, modules, write

sys.path.insert(0, str(ROOT))
from nsgf_nb.sinkhorn import sinkhorn_divergence  # noqa: E402
from nsgf_nb.transport.divergence import plain_divergence, plain_gradient  # noqa: E402

OUT = Path(__file__).parent / "results" / "loss.json"
BLUR = 0.5
REPEATS = 15
SCALINGS = (0.5, 0.8, 0.95)
SIZES = ((256, 256), (256, 255), (1000, 1000), (1000, 999))


def clouds(n, m, dtype=torch.float64):
    "N(0, I) and N(1, I) in the plane."
    gen = torch.Generator().manual_seed(0)
    x = torch.randn(n, 2, generator=gen, dtype=torch.float64)
    y = torch.randn(m, 2, generator=gen, dtype=torch.float64) + 1
    return x.to(dtype), y.to(dtype)


def seconds(**calls):
    "Median, least and largest CPU time of calls that are made in turn."
    taken = {name: [] for name in calls}
    for repeat in range(REPEATS + 1):
        for name, call in calls.items():
            start = time.process_time()
            call()
            if repeat:  # the first is for warming up
                taken[name].append(time.process_time() - start)
    return {
        k: dict(median=statistics.median(t), least=min(t), largest=max(t)) for k, t in taken.items()
    }


def both_ways(loss, x, y):
    "A call that evaluates a loss and its gradient."

    def call():
        p = x.clone().requires_grad_()
        loss(p, y).backward()
        return p.grad

    return call


def derivatives(loss, x, y, v):
    "Value, gradient, and Hessian times v."
    p = x.clone().requires_grad_()
    value = loss(p, y)
    (gradient,) = torch.autograd.grad(value, p, create_graph=True)
    (hessian,) = torch.autograd.grad((gradient * v).sum(), p)
    return value.detach(), gradient.detach(), hessian


def relative(z, true):
    return ((z - true).norm() / true.norm()).item()


def ours(x, y):
    return sinkhorn_divergence(x, y, BLUR, batched=x.ndim == 3)


def batch():
    "16 clouds of 64 points."
    gen = torch.Generator().manual_seed(2)
    return torch.randn(16, 64, 2, generator=gen), torch.randn(16, 64, 2, generator=gen) + 1


def methods():
    "Names and losses."
    found = {"sinkhorn_divergence": ours}
    try:
        from geomloss import SamplesLoss
    except ImportError:
        print("geomloss is not installed (extra 'compare'): its rows are left out")
        return found
    for scaling in SCALINGS:
        found[f"SamplesLoss, scaling {scaling}"] = SamplesLoss(
            p=2, blur=BLUR, scaling=scaling, backend="tensorized"
        )
    return found


def compare():
    "One row a method."
    x, y = clouds(256, 255)
    v = torch.randn(256, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    true = derivatives(lambda x, y: sinkhorn_divergence(x, y, BLUR, tol=1e-13), x, y, v)
    plain = plain_divergence(x, y, BLUR, tol=1e-13), plain_gradient(x, y, BLUR, tol=1e-13)[0]
    check = dict(value=relative(true[0], plain[0]), gradient=relative(true[1], plain[1]))
    rows = []
    for name, loss in methods().items():
        errors = [relative(z, t) for z, t in zip(derivatives(loss, x, y, v), true)]
        row = dict(
            method=name, value_error=errors[0], gradient_error=errors[1], hessian_error=errors[2]
        )
        took = seconds(
            float32=both_ways(loss, *clouds(256, 255, torch.float32)),
            float64=both_ways(loss, *clouds(256, 255, torch.float64)),
            batch=lambda: loss(*batch()),
        )
        row["seconds"] = {k: took[k]["median"] for k in ("float32", "float64")}
        row["batch"] = took["batch"]["median"]
        row["spread"] = {k: [t["least"], t["largest"]] for k, t in took.items()}
        rows.append(row)
        print(
            f"{name:28} errors {errors[0]:.1e} {errors[1]:.1e} {errors[2]:.1e}, "
            f"seconds {took['float32']['median']:.3f} {took['float64']['median']:.3f} "
            f"{row['batch']:.3f}"
        )
    return rows, check


def sizes():
    "CPU time of forward and backward, and with a Hessian product, by size and dtype."
    rows = []
    for n, m in SIZES:
        calls = {}
        for name, dtype in (("float32", torch.float32), ("float64", torch.float64)):
            x, y = clouds(n, m, dtype)
            calls[name] = both_ways(ours, x, y)
            calls[f"{name}, with a Hessian product"] = partial(
                derivatives, ours, x, y, torch.ones_like(x)
            )
        took = seconds(**calls)
        rows.append(dict(n=n, m=m, seconds=took))
        print(f"{n} and {m}:", {k: round(t["median"], 3) for k, t in took.items()})
    return rows


def main():
    torch.set_num_threads(1)
    rows, check = compare()
    result = dict(
        blur=BLUR,
        repeats=REPEATS,
        threads=1,
        methods=rows,
        reference_against_plain=check,
        sizes=sizes(),
    )
    write(OUT, facts("geomloss") | dict(modules=modules("sinkhorn")) | result)


if __name__ == "__main__":
    main()
