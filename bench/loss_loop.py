"""The loss in a training loop, beside GeomLoss's SamplesLoss: values and CPU time.

    python bench/loss_loop.py

A small network learns to draw 256 points of a cloud in space, by SinkhornLoss. Every step is
evaluated, forward and backward, by each loss in turn, on the same points. Values are held against
SamplesLoss with scaling .99; at the last step both are held against the plain solver of the first
lesson, so that a difference has an owner. Times are CPU seconds of all steps, on one thread, in
float32. Four minutes on an idle core.
"""

import statistics
import sys
import time
from pathlib import Path

import torch
from record import ROOT, facts, modules, write

sys.path.insert(0, str(ROOT))
from nsgf_nb.sinkhorn import SinkhornLoss  # noqa: E402
from nsgf_nb.transport.divergence import plain_divergence  # noqa: E402

OUT = Path(__file__).parent / "results" / "loss-loop.json"
BLURS = (0.05, 0.2, 0.5)
SEEDS = (0, 1, 2)
STEPS = 20
SCALINGS = (0.8, 0.99)
TOLS = (1e-5, 1e-8)  # the first is the usual one


def losses(blur):
    "By name; all mean the same divergence."
    from geomloss import SamplesLoss

    rivals = {
        f"SamplesLoss, scaling {s}": SamplesLoss(p=2, blur=blur, scaling=s, backend="tensorized")
        for s in SCALINGS
    }
    ours = {f"SinkhornLoss, tol {tol:g}": SinkhornLoss(blur=blur, tol=tol) for tol in TOLS}
    return ours | rivals


def loop(blur, seed):
    "Seconds and values of each loss along one training, and their errors at its end."
    torch.manual_seed(seed)
    y = torch.randn(256, 3) * torch.tensor([1.0, 0.5, 0.2]) + 1
    net = torch.nn.Sequential(torch.nn.Linear(3, 64), torch.nn.SiLU(), torch.nn.Linear(64, 3))
    adam = torch.optim.Adam(net.parameters(), lr=0.01)
    by_name = losses(blur)
    seconds, values = {k: 0.0 for k in by_name}, {k: [] for k in by_name}
    for step in range(STEPS + 1):
        made = net(torch.randn(256, 3))
        for name, loss in by_name.items():
            x = made.detach().requires_grad_()
            start = time.process_time()
            value = loss(x, y)
            value.backward()
            if step:  # the first is for warming up
                seconds[name] += time.process_time() - start
                values[name].append(value.item())
            if name == f"SinkhornLoss, tol {TOLS[0]:g}":
                slope = x.grad
        adam.zero_grad()
        made.backward(slope)
        adam.step()
    exact = plain_divergence(x.detach().double(), y.double(), blur, tol=1e-10).item()
    errors = {name: abs(of[-1] - exact) / exact for name, of in values.items()}
    return seconds, values, errors


def main():
    torch.set_num_threads(1)
    rows = []
    for blur in BLURS:
        runs = [loop(blur, seed) for seed in SEEDS]
        for name in losses(blur):
            taken = [seconds[name] for seconds, _, _ in runs]
            off = [
                max(
                    abs(a - b) / b
                    for a, b in zip(values[name], values["SamplesLoss, scaling 0.99"])
                )
                for _, values, _ in runs
            ]
            last = [errors[name] for _, _, errors in runs]
            rows.append(
                dict(
                    blur=blur,
                    loss=name,
                    seconds=taken,
                    largest_difference=off,
                    error_at_the_end=last,
                )
            )
            print(
                f"blur {blur:4}: {name:27} {statistics.median(taken):6.2f} s "
                f"[{min(taken):.2f}, {max(taken):.2f}], off by at most {max(off):.0e}, "
                f"error at the end {max(last):.0e}",
                flush=True,
            )
    about = dict(steps=STEPS, seeds=SEEDS, threads=1, points=256, rows=rows)
    write(OUT, facts("geomloss") | dict(modules=modules("sinkhorn")) | about)


if __name__ == "__main__":
    main()
