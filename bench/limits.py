"""How far the passes of the solver are from what this machine can do, on one thread of a CPU.

    python bench/limits.py [--points 4096] [--out FILE]

The machine's own peaks are measured here: exponentials a second, the fastest of torch's and the
package's on numbers that stay in the cache, and bytes a second, read and copied, of arrays that do
not fit into it. An absorption (a kernel from its costs) has one exponential and two entries of
memory for each pair of points, a pass (K v and Kᵀ u) one entry to read, a streamed pass one
exponential. The limit of each is the longer of its two times. Least of many calls, wall clock: the
machine should do nothing else. The results are in bench/results/limits.json.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from record import ROOT, facts, write

RESULT = ROOT / "bench" / "results" / "limits.json"
IN_CACHE, IN_MEMORY = 4096, 2**26  # float32 numbers
BLUR = 0.5


def least_seconds(f, times):
    "Of so many calls, after one that warms up."
    f()
    took = []
    for _ in range(times):
        began = time.perf_counter()
        f()
        took.append(time.perf_counter() - began)
    return min(took)


def peaks():
    "Seconds of an exponential, of a byte that is read, of a byte that is copied."
    from nsgf_nb.solver.compiled import powers

    z = torch.linspace(-20, 0, IN_CACHE)
    out, row = torch.empty_like(z), z.numpy().copy()
    by_torch = least_seconds(lambda: torch.exp(z, out=out), 2000)
    by_loops = least_seconds(lambda: powers(row, 20.0), 2000)  # again and again it stays near 2⁻²⁰
    big, other = torch.ones(IN_MEMORY), torch.empty(IN_MEMORY)
    product = lambda: torch.mv(big.view(-1, IN_CACHE), big[:IN_CACHE])
    read = min(least_seconds(f, 10) for f in (big.sum, big.amax, big.numpy().sum, product))
    copied = least_seconds(lambda: other.copy_(big), 10)
    return dict(
        exponential=min(by_torch, by_loops) / IN_CACHE,
        byte_read=read / (4 * IN_MEMORY),
        byte_copied=copied / (8 * IN_MEMORY),
    )


def stored(n, x, y):
    "Seconds of an absorption and of a pass over a stored kernel."
    from nsgf_nb.solver.compiled import absorbed, both, minus_costs

    costs, K = np.empty((n, n), np.float32), np.empty((n, n), np.float32)
    v, t, columns = np.ones(n, np.float32), np.empty(n, np.float32), np.empty(n, np.float32)
    minus_costs(x.numpy(), np.ascontiguousarray(y.numpy().T), costs)
    absorption = least_seconds(lambda: absorbed(costs, BLUR**2, 0 * v, K, t), 15)
    return absorption, least_seconds(lambda: both(K, v, v, False, t, columns), 15)


def streamed(n, x, y):
    "Seconds of a pass over a kernel that is made again."
    from nsgf_nb.solver.dual import State
    from nsgf_nb.solver.streamed import LoopKernel

    a, psi = torch.full((1, n), 1 / n), torch.zeros(1, n)
    K = LoopKernel(x[None], y[None], a, a)
    K.absorb(psi, torch.tensor([BLUR**2]))
    return least_seconds(lambda: State(K, psi), 10)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--points", type=int, default=4096)
    parser.add_argument("--out", type=Path, default=RESULT)
    a = parser.parse_args()
    torch.set_num_threads(1)
    import make_reference as ref

    n = a.points
    x, y = (z - z.mean(0) for z in ref.inputs("8gaussians", n))
    peak, (absorption, stored_pass) = peaks(), stored(n, x, y)
    limits = dict(
        absorption=max(peak["exponential"], 8 * peak["byte_copied"]),
        stored_pass=4 * peak["byte_read"],
        streamed_pass=peak["exponential"],
    )
    took = dict(absorption=absorption, stored_pass=stored_pass, streamed_pass=streamed(n, x, y))
    rows = []
    for what, seconds in took.items():
        entry = seconds / n**2
        rows.append(dict(what=what, entry=entry, limit=limits[what], times=entry / limits[what]))
        print(
            f"{what:14} {1e9 * entry:.2f} ns an entry, limit {1e9 * limits[what]:.2f}, "
            f"{rows[-1]['times']:.2f} times"
        )
    print(
        f"exponentials {1e-9 / peak['exponential']:.2f} a ns, bytes read "
        f"{1e-9 / peak['byte_read']:.1f}, copied {1e-9 / peak['byte_copied']:.1f} a ns"
    )
    write(a.out, facts("numpy", "numba") | dict(points=n, blur=BLUR, peaks=peak, rows=rows))


if __name__ == "__main__":
    main()
