"""What reviewers of the method asked, on 8 Gaussians, with small fits.

    python bench/questions.py [--out FILE] [--seeds 70 71 72] [--parts steps eps near along]

A fit is an MLP 3 × 128, 2000 steps, and a pool of 8192 particles in groups of 256.

steps   number of steps × step size
eps     blur, the same at all steps
near    a source near the target
along   matching loss, distance to the particle flow and Grönwall's bound while a flow trains for
        4000 steps, and the drift of the trained one

One thread; rows that are in the file already (bench/results/questions.json) are kept, so a stopped
run goes on. The seeds are those of no other figure.
"""

import argparse
import json
import math
import sys
import time
from pathlib import Path

import torch
from record import facts, modules, revision, write

SMALL = dict(pool_size=8192, group=256, iterations=2000, lr=2e-3)
PARTS = {
    "steps": {
        f"{name} × {T}": dict(num_steps=T, step_size=eta)
        for name, eta in (("equal", None), ("η = .5", 0.5), ("η = .2", 0.2))
        for T in (2, 5, 10)
    },
    "eps": {f"{r:g}": dict(num_steps=10, relative_blur=r) for r in (0.05, 0.1, 0.2, 0.4)},
    "near": {
        f"{s} × {T}": dict(num_steps=T, relative_blur=0.05, source=s)
        for s in ("normal", "8gaussians-cfm")
        for T in (1, 5)
    }
    | {
        f"{s}, groups of 2048 × 5": dict(
            num_steps=5, relative_blur=0.05, source=s, group=2048, pool_size=16384
        )
        for s in ("normal", "8gaussians-cfm")
    },
    "along": {"equal × 10": dict(num_steps=10, iterations=4000)},
}
CHECKS = (1, 2, 3, 5, 8, 12, 20, 35, 60, 100)  # rows of the history, of a hundred


def make(seed, num_steps, **settings):
    "A small NSGF, and its source"
    from nsgf_nb.core import keep_random_state
    from nsgf_nb.flow import NSGF
    from nsgf_nb.learning.nets import MLP

    source = settings.pop("source", None)
    with keep_random_state(seed):
        net = MLP((2,), hidden=128)
    return NSGF(num_steps=num_steps, network=net, **SMALL | settings), None if source in (
        None,
        "normal",
    ) else source


def judge(flow, target, seed):
    """The gate, the total variation of the masses, and the variance within a cloud.

    The variance is a mean over coordinates and clouds, for the learned flow and the particle flow.
    """
    from nsgf_nb.distances import gate
    from nsgf_nb.runs.report import endless

    x = flow.sample(20_000, seed=seed + 1000)
    g, ends = (
        gate(target, endless(flow), seed=seed + 2000),
        torch.cat([flow.pool.path(b)[-1] for b in range(len(flow.pool.groups))]),
    )

    def within(z):
        k = target.component(z)
        return sum(z[k == j].var(0).mean().item() for j in range(8) if (k == j).sum() > 1) / 8

    return dict(
        ratio=g.ratio if math.isfinite(g.ratio) else None,
        low=g.low if math.isfinite(g.low) else None,
        high=g.high if math.isfinite(g.high) else None,
        tv=g.tv,
        floor_w2=g.floor,
        within=within(x),
        within_particles=within(ends),
    )


def one(part, name, settings, seed):
    "Fit and judge"
    from nsgf_nb.data import get_sampler

    target, start = get_sampler("8gaussians"), time.perf_counter()
    flow, source = make(seed, **settings)
    if part == "along":
        return along(flow, target, seed)
    flow.fit(target, source, seed=seed, progress=False)
    last = flow.history[-1]
    return dict(
        judge(flow, target, seed),
        loss=last["loss"],
        val=last["val"],
        floor=last["floor"],
        passes=flow.pool.passes.float().sum(1).mean().item(),
        converged=flow.pool.converged.float().mean().item(),
        time_reached=flow.pool.times[0, -1].item(),
        seconds=time.perf_counter() - start,
    )


def rms(u):
    return u.square().sum(-1).mean().sqrt().item()


def gronwall(flow, made, v, unit):
    """The learned flow beside a group of the particle flow that it has not seen, from equal points.

    With δ_k = x_k - z_k, e_k the error of the network at (z_k, t_k) and Φ(x) = x + η v_θ(x, t_k):
    |δ_{k+1}| <= |Φ(x_k) - Φ(z_k)| + η_k |e_k|. The stretch of Φ is measured: the largest over all
    particles, and in the mean square.
    """
    from nsgf_nb.distances import w2

    z, t, eta = made["x"][0], made["times"][0].tolist(), made["etas"][0].tolist()
    x, e, loss, largest, mean, stretch = z[0], [], [], 0.0, 0.0, []
    with torch.no_grad():
        for k in range(len(eta)):
            there = flow.velocity(z[k], t[k])
            e.append(rms(there - v[k]))
            loss.append(e[-1] ** 2 / 2 / unit[k].item() ** 2)
            here, other = x + eta[k] * flow.velocity(x, t[k]), z[k] + eta[k] * there
            d, moved = (x - z[k]).norm(dim=1), (here - other).norm(dim=1)
            c, m = (
                ((moved / d.clamp(min=1e-6)).max().item(), rms(here - other) / rms(x - z[k]))
                if k
                else (0.0, 0.0)
            )
            largest, mean, x = c * largest + eta[k] * e[-1], m * mean + eta[k] * e[-1], here
            stretch.append(c)
    return dict(
        loss=sum(loss) / len(loss),
        apart=rms(x - z[-1]),
        w2=w2(x, z[-1]),
        bound_largest=largest,
        bound_mean=mean,
        errors=e,
        stretch=stretch,
    )


def drift(flow, sim, made, v, unit):
    """Step by step: does the learned cloud keep to the law of the pool, and how wrong is the field?

    error_learned: on the learned cloud, against the converged velocity of that very cloud towards
    fresh targets; error_fresh: on clouds of the pool, towards fresh targets; error_pool: towards
    their own.
    """
    from nsgf_nb.core import make_generator
    from nsgf_nb.distances import w2

    T, rows = sim.num_steps, []
    # from the same points as the pool's
    path = [flow.sample(x0=x0, return_path=True) for x0 in made["x"][:4, 0]]
    y = [sim.target(sim.group, make_generator(sim.seed, "drift target", r)) for r in range(4)]
    t, t0 = made["times"][0].tolist(), None
    for k in range(T + 1):
        z = made["x"][:, k]
        pairs = lambda a, b: math.sqrt(sum(w2(p, q) ** 2 for p, q in zip(a, b)) / len(a))
        row = dict(
            t=t[k],
            learned=pairs([p[k] for p in path], z[4:8]),
            floor=pairs(z[:4], z[4:8]),
            variance=[path[0][k].var(0).mean().item(), z[0].var(0).mean().item()],
        )
        if k < T:

            def error(clouds):
                nonlocal t0
                out = []
                for w, fresh in zip(clouds, y):
                    u = sim.velocities[k](w, fresh, scale=t0)
                    t0 = t0 or rms(u)
                    out.append((rms(flow.velocity(w, t[k]) - u) / unit[k].item()) ** 2 / 2)
                return math.sqrt(sum(out) / len(out))

            row |= dict(
                error_learned=error([p[k] for p in path]),
                error_fresh=error(z[:4]),
                error_pool=math.sqrt(
                    sum(
                        (rms(flow.velocity(made["x"][r, k], t[k]) - v[r][k]) / unit[k].item()) ** 2
                        / 2
                        for r in range(4)
                    )
                    / 4
                ),
            )
        rows.append(row)
    return rows


def along(flow, target, seed):
    "A fit of 4000 steps, watched"
    from nsgf_nb.distances import component_gate, w2
    from nsgf_nb.estimator import SinkhornVelocity
    from nsgf_nb.motion.floor import loss_floor
    from nsgf_nb.motion.simulation import Simulation, velocity_of

    out, state, start = [], {}, time.perf_counter()

    def watch(row):
        if not state:
            sim = Simulation(
                flow.source,
                target,
                [SinkhornVelocity(b, tol=1e-2) for b in flow.pool.blurs],
                flow.num_steps,
                None,
                flow.group,
                seed + 900,
            )
            made = sim(range(8))
            unit = flow.pool.rms()
            state.update(
                sim=sim,
                made=made,
                unit=unit,
                v=[[velocity_of(made, k)[r] for k in range(flow.num_steps)] for r in range(8)],
                floor=loss_floor(flow.pool, unit),
            )
        if 100 * row["step"] / flow.iterations in CHECKS:
            each = [
                gronwall(
                    flow,
                    {k: z[r : r + 1] for k, z in state["made"].items()},
                    state["v"][r],
                    state["unit"],
                )
                for r in range(4)
            ]
            mean = lambda k: sum(e[k] for e in each) / 4
            out.append(
                dict(
                    step=row["step"],
                    train=row["loss"],
                    val=row["val"],
                    ratio=component_gate(
                        target, flow.sample(20_000, seed=seed + 1000), seed=seed + 2000
                    ).ratio,
                    **{k: mean(k) for k in ("loss", "apart", "w2", "bound_largest", "bound_mean")},
                    stretch=each[0]["stretch"],
                    errors=each[0]["errors"],
                )
            )

    flow.fit(target, seed=seed, progress=False, callbacks=[watch])
    ends = state["made"]["x"][:, -1]
    return dict(
        judge(flow, target, seed),
        checks=out,
        floors=state["floor"].tolist(),
        units=state["unit"].tolist(),
        blurs=flow.pool.blurs,
        w2_floor=math.sqrt(sum(w2(ends[r], ends[r + 4]) ** 2 for r in range(4)) / 4),
        drift=drift(flow, state["sim"], state["made"], state["v"], state["unit"]),
        seconds=time.perf_counter() - start,
    )


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "questions.json")
    p.add_argument("--seeds", type=int, nargs="+", default=[70, 71, 72])
    p.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    a = p.parse_args()
    torch.set_num_threads(1)
    rows = json.loads(a.out.read_text())["rows"] if a.out.exists() else []
    done, code = {(r["part"], r["name"], r["seed"]) for r in rows}, revision()
    for seed in a.seeds:
        for part in a.parts:
            for name, settings in PARTS[part].items():
                if (part, name, seed) in done:
                    continue
                row = dict(
                    part=part,
                    name=name,
                    seed=seed,
                    revision=code,
                    **settings,
                    **one(part, name, dict(settings), seed),
                )
                rows.append(row)
                print(
                    f"{part:6} {name:20} seed {seed}  ratio {row['ratio'] or math.inf:6.2f}  "
                    f"tv {row['tv']:.3f}  within {row['within']:.3f} (particles "
                    f"{row['within_particles']:.3f})  {row['seconds']:4.0f} s",
                    flush=True,
                )
                write(
                    a.out,
                    dict(
                        facts(),
                        modules=modules("flow", "distances"),
                        threads=1,
                        small=SMALL,
                        hidden=128,
                        problem="8gaussians",
                        rows=sorted(
                            rows,
                            key=lambda r: (
                                list(PARTS).index(r["part"]),
                                list(PARTS[r["part"]]).index(r["name"]),
                                r["seed"],
                            ),
                        ),
                    ),
                )


if __name__ == "__main__":
    sys.exit(main())
