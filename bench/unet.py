"""CPU time of a training step of the U-Net: what patches, widths, memory formats and 16 bits do.

    python bench/unet.py [--repeats 15] [--out bench/results/unet.json]

One thread, 128 images of 28 × 28, AdamW. The variants take turns, so that what else runs on the
machine meets all of them; CPU time, least and median.
"""

import argparse
import time
from pathlib import Path

import torch
from record import facts, write
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from nsgf_nb.core import keep_random_state
from nsgf_nb.learning.networks import preset_unet

VARIANTS = {
    "`mnist`": {},
    "`mnist`, not channels_last": dict(format=torch.contiguous_format),
    "`mnist`, bfloat16": dict(half=True),
    "`mnist`, bfloat16, not channels_last": dict(half=True, format=torch.contiguous_format),
    "`mnist`, multipliers 1, 2, 2": dict(multipliers=(1, 2, 2)),
    "`mnist`, attention at 4": dict(attention=(4,)),
    "`mnist`, attention at 7": dict(attention=(7,)),
    "without patches": dict(patch_size=1),
    "without patches, multipliers 1, 2, 2": dict(patch_size=1, multipliers=(1, 2, 2)),
}
X, T = (
    torch.randn(128, 1, 28, 28, generator=torch.Generator().manual_seed(0)),
    torch.linspace(0, 1, 128),
)


def step(net, opt, half):
    opt.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        v = net(X, T)
    (v.float() - X).square().mean().backward()
    opt.step()


def seconds(f):
    t = time.process_time()
    f()
    return time.process_time() - t


def main():
    a = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    a.add_argument("--repeats", type=int, default=15)
    a.add_argument("--out", default=Path(__file__).parent / "results" / "unet.json")
    a = a.parse_args()
    torch.set_num_threads(1)
    runs, rows = {}, []
    for what, v in VARIANTS.items():
        v = dict(v)
        form, half = v.pop("format", torch.channels_last), v.pop("half", False)
        with keep_random_state(0):
            net = preset_unet("mnist", **v)
        net.memory_format = form
        net.to(memory_format=form)
        with FlopCounterMode(display=False) as count:
            net(X[:1], T[:1]).square().mean().backward()
        runs[what] = (net, torch.optim.AdamW(net.parameters(), 2e-3, fused=True), half)
        rows.append(
            dict(
                what=what,
                parameters=sum(p.numel() for p in net.parameters()),
                gflop=128 * count.get_total_flops() / 1e9,
                ms=[],
            )
        )
        step(*runs[what])
    m, gemm = torch.randn(1024, 1024), []
    for _ in range(a.repeats):
        for r in rows:
            r["ms"].append(1e3 * seconds(lambda: step(*runs[r["what"]])))
        gemm.append(10 * 2 * 1024**3 / 1e9 / seconds(lambda: [m @ m for _ in range(10)]))
    for r in rows:
        r |= dict(least=min(r["ms"]), median=sorted(r["ms"])[a.repeats // 2])
        print(
            f"{r['what']:45} {r['parameters']:9,} {r['gflop']:7.1f} GFLOP {r['least']:6.0f} … "
            f"{r['median']:6.0f} ms",
            flush=True,
        )
    with profile(activities=[ProfilerActivity.CPU]) as p:
        step(*runs["`mnist`"])
    times = {e.key: e.self_cpu_time_total for e in p.key_averages()}
    part = lambda *names: (
        sum(t for k, t in times.items() if any(n in k for n in names)) / sum(times.values())
    )
    share = {"convolution": part("convolution"), "norm and silu": part("group_norm", "silu")}
    print(share, f"{max(gemm):.0f} GFLOP/s")
    write(a.out, dict(facts(), threads=1, gemm=max(gemm), share=share, rows=rows))


if __name__ == "__main__":
    main()
