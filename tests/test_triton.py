"""The programs for a GPU without one: Triton's interpreter against float64, machine code, launches.

On a machine with a GPU the same tests run on it. What Triton is needed for is skipped without it.
"""

import json
import os
import re
import subprocess
import sys
import warnings
from dataclasses import replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from launches import Launches

from nsgf_nb.estimator import SinkhornVelocity
from nsgf_nb.sinkhorn import sinkhorn_divergence
from nsgf_nb.solver import bound, derivatives, one_launch, problem
from nsgf_nb.solver import triton as kernels
from nsgf_nb.solver.annealing import cold_start
from nsgf_nb.solver.dual import State, newton_direction
from nsgf_nb.solver.kernel import Kernel
from nsgf_nb.solver.problem import prepare, solve_group

ROOT = Path(__file__).resolve().parent.parent
GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if GPU else "cpu")
LOCKED = re.search(r"^triton==(\S+)", (ROOT / "requirements-lock.txt").read_text(), re.M)[1]
# operations of torch, reads by the host, programs of a cold solve of two problems
MOST = {"dense": (1650, 34), "triton": (1680, 41, 165), "one launch": (222, 8, 12)}
# the interpreter of older versions does not go with today's NumPy
HERE = find_spec("triton") is not None
HERE = HERE and (GPU or tuple(map(int, version("triton").split(".")[:2])) >= (3, 9))
needs_triton = pytest.mark.skipif(not HERE, reason="Triton 3.9 is not installed")


def clouds(n, m, d, count=2, seed=0, dtype=torch.float32):
    "Problems with exponents of some units; a third of the columns has no weight."
    g = torch.Generator().manual_seed(seed)
    x, y = torch.randn(count, n, d, generator=g), 0.5 * torch.randn(count, m, d, generator=g) + 0.2
    a, b = torch.rand(count, n, generator=g) + 0.1, torch.rand(count, m, generator=g) + 0.1
    b[:, 5 : 5 + m // 3] = 0
    a, b = a / a.sum(1, keepdim=True), b / b.sum(1, keepdim=True)
    eps = torch.linspace(0.2, 0.5, count) * d
    return [z.to(DEVICE, dtype) for z in (x, y, a, b, eps)]


def exact_products(x, y, a, b, eps, psi, move, masked):
    "Float64, written out: row potential, columns, averages of y, and what comes back of x."
    x, y, a, b, eps, psi, move = (z.double() for z in (x, y, a, b, eps, psi, move))
    C = torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist").square() / 2
    S = (psi + move + b.log())[:, None] - C / eps[:, None, None]
    if masked:
        S.diagonal(0, 1, 2).fill_(-torch.inf)
    P = a[..., None] * torch.softmax(S, 2)
    return -S.logsumexp(2), P.sum(1), P @ y / a[..., None], P.mT @ x


def errors(n, m, d, dtype=torch.float32, masked=False, own=False):
    "Largest differences between the products of the programs and float64."
    x, y, a, b, eps = clouds(n, m, d, dtype=dtype)
    if own:
        y, b = x, a
    g = torch.Generator().manual_seed(1)
    psi, move = (0.5 * torch.randn(*b.shape, generator=g).to(b) for _ in range(2))
    K = kernels.TritonKernel(x, y, a, b, masked=masked)
    K.absorb(psi, eps)
    v = K.weigh(move)
    t, columns = K.both(v, K.a, inverse=True)
    assert torch.equal(t, K.rows(v)) and (columns > 0).all()
    fused, apart = K.mean(v, K.y), K.mean(v, K.y, t)
    back = v[..., None] * K.back((a / t)[..., None] * x)
    phi, c, T, P_x = exact_products(x, y, a, b, eps, psi, move, masked)
    off = lambda z, known, unit: ((z.double() - known).abs().max() / unit).item()
    return dict(
        potential=off(K.phi0 - t.log(), phi, 1),
        columns=off(v * columns, c, c.max()),
        map=max(off(fused, T, y.abs().max()), off(apart, T, y.abs().max())),
        back=off(back, P_x, P_x.abs().max()),
    )


@needs_triton
@pytest.mark.parametrize(
    "n, m, d",
    [(70, 150, d) for d in (1, 2, 3, 5, 64)] + [(33, 65, d) for d in (2, 64, 784)] + [(64, 128, 2)],
)
def test_every_product_is_within_1e_5_of_float64(n, m, d):
    "Two problems at once, columns without weight, sizes that are no multiples of a block"
    found = errors(n, m, d)
    assert max(found.values()) <= 1e-5, found


@needs_triton
@pytest.mark.parametrize("d", [2, 20])
@pytest.mark.parametrize("masked", [False, True])
def test_a_cloud_with_itself(d, masked):
    found = errors(70, 70, d, masked=masked, own=True)
    assert max(found.values()) <= 1e-5, found


@needs_triton
@pytest.mark.parametrize("d", [1, 2, 5])
def test_float64_in_few_dimensions(d):
    found = errors(40, 70, d, dtype=torch.float64)
    assert max(found.values()) <= 1e-13, found


@needs_triton
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_column_that_nobody_sees_has_a_logarithm(dtype):
    "Its entries are smaller than any number; the stored kernel cuts exponents, a program adds"
    x, y, a, b, _ = clouds(20, 30, 2, dtype=dtype)
    y[:, 0] = 100.0
    K = kernels.TritonKernel(x, y, a, b)
    K.absorb(torch.zeros_like(b), torch.full_like(b[:, 0], 0.5))
    t, columns = K.both(K.weigh(torch.zeros_like(b)), a, inverse=True)
    assert (columns[:, 0] > 0).all() and columns.log().isfinite().all()
    assert (columns[:, 0] <= 1.01 * K.least).all()


@needs_triton
def test_many_columns_are_shared():
    "Several programs have a part of the columns each; the result is that of one program"
    x, y, a, b, eps = clouds(30, 1100, 2)
    K = kernels.TritonKernel(x, y, a, b)
    assert K._shares(K._block("row_sums"), 128, 1100)[1] > 1
    K.absorb(torch.zeros_like(b), eps)
    v = K.weigh(torch.zeros_like(b))
    assert (K.rows(v) - 1).abs().max() < 1e-5  # rows have sum 1
    one = kernels.TritonKernel(x, y, a, b)
    one._shares = lambda block, n, m: (n // block.rows, 1)
    one.absorb(torch.zeros_like(b), eps)
    assert (one.phi0 - K.phi0).abs().max() < 1e-5
    assert (one.mean(v, y) - K.mean(v, y)).abs().max() < 1e-5


@needs_triton
def test_the_problems_that_are_kept():
    x, y, a, b, eps = clouds(40, 50, 2, count=3)
    K = kernels.TritonKernel(x, y, a, b)
    K.absorb(torch.zeros_like(b), eps)
    keep = torch.tensor([True, False, True], device=DEVICE)
    few, v = K.take(keep), K.weigh(torch.zeros_like(b))
    assert len(few.x) == 2 and torch.equal(few.rows(v[keep]), K.rows(v)[keep])


@needs_triton
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n, m, d", [(1, 3, 1), (70, 50, 2), (33, 65, 3)])
def test_what_a_program_proves(n, m, d, dtype, monkeypatch):
    "At the start of an ascent and at its end: what torch proves, or a little less"
    x, y, a, b, eps = clouds(n, m, d, count=3, dtype=dtype)
    y = torch.where((b > 0)[..., None], y, 1e4)  # padding, far away
    K = kernels.TritonKernel(x, y, a, b)
    for psi in (torch.zeros_like(b), 0.1 * torch.randn_like(b)):
        K.absorb(psi, eps)
        for move in (torch.zeros_like(b), 0.3 * torch.randn_like(b)):
            st = State(K, move)
            found = bound.bounds(K, st)
            with monkeypatch.context() as by_torch:
                by_torch.setattr(bound, "proved", lambda K, st: None)
                known = bound.bounds(K, st)
            for name in ("gap", "error", "rounding"):
                ours, theirs = getattr(found, name), getattr(known, name)
                assert ((ours >= theirs) & (ours <= theirs * (1 + 1e-4))).all(), name
    worse = State(K, torch.zeros_like(b))
    worse.t = worse.t * torch.nan
    assert not bound.bounds(K, worse).error.isfinite().any()


@needs_triton
@pytest.mark.parametrize("self_term", ["same", "masked", "two_batch"])
@pytest.mark.parametrize("d, dtype", [(2, torch.float32), (2, torch.float64), (12, torch.float32)])
def test_the_estimator_finds_what_the_stored_kernel_finds(d, dtype, self_term):
    "In float64 and many dimensions there is no program, and the kernel is streamed"
    x, y, a, b, _ = (z[0] for z in clouds(50, 60, d, dtype=dtype))
    other = x.flip(0) + 0.1 if self_term == "two_batch" else None
    found = {}
    for backend in ("dense", "triton"):
        velocity = SinkhornVelocity(0.7 * d**0.5, self_term=self_term, backend=backend)
        found[backend] = velocity(x, y, other, a=a, b=b, return_info=True)
    (v, info), (known, stored) = found["triton"], found["dense"]
    assert info.converged and stored.converged
    assert (v - known).square().sum(1).mean().sqrt() <= info.err_v + stored.err_v
    assert abs(info.self_diag - stored.self_diag) < 1e-4


@needs_triton
@pytest.mark.parametrize("d", [2, 12])
def test_the_divergence_and_its_gradients(monkeypatch, d):
    "Value and gradients in points and weights, as a GPU makes them: no plan is stored"
    x, y, a, _, _ = (z[0] for z in clouds(40, 50, d))
    found = {}
    for kind in ("dense", "triton"):
        monkeypatch.setattr(derivatives, "kernel_kind", lambda *_, kind=kind, **options: kind)
        leaves = [z.clone().requires_grad_() for z in (x, y, a)]
        p, q, weights = leaves
        value = sinkhorn_divergence(p, q, 0.5 * d**0.5, weights, tol=1e-5)
        found[kind] = value.detach(), *torch.autograd.grad(value, leaves)
    for ours, stored in zip(found["triton"], found["dense"]):
        assert (ours - stored).abs().max() <= 1e-4 * stored.abs().max()


@needs_triton
def test_a_program_is_not_believed(monkeypatch):
    "Where the other kernel sees worse columns, the problem is solved launch by launch"
    x, y, _, _, _ = clouds(50, 40, 2, count=1)
    velocity = SinkhornVelocity(0.5)
    group, right = [prepare(velocity, x[0], y[0])], SinkhornVelocity(0.5, tol=1e-6)(x[0], y[0])
    true, programs = one_launch.potentials, []

    def lying(*arguments):
        found = true(*arguments)
        programs.append(len(found.g))
        found.g = found.g + 0.1 * torch.randn_like(found.g)
        return found

    monkeypatch.setattr(problem, "potentials", lying)
    ((v, info),) = solve_group(velocity, group, "triton")
    assert programs == [1] and info.converged
    assert (v - right).norm() < 2 * velocity.tol * right.norm()


class Refused:
    "A program that does not compile"

    def __getitem__(self, grid):
        raise RuntimeError("at 3:30: this version knows no such thing\nand more")


@needs_triton
def test_a_program_that_does_not_compile(monkeypatch):
    "It is said once for each form, and problems are solved launch by launch"
    whole = one_launch.programs()
    names = "ascend", "settle", "prove"
    modified = SimpleNamespace(Form=whole.Form, **{name: Refused() for name in names})
    monkeypatch.setattr(one_launch, "programs", lambda: modified)
    monkeypatch.setattr(one_launch, "_refused", set())
    x, y, _, _, _ = clouds(30, 40, 2, count=1)
    velocity = SinkhornVelocity(0.5)
    group = [prepare(velocity, x[0], y[0])]
    ((known, stored),) = solve_group(velocity, group, "dense")
    said = r"solved launch by launch: Triton refuses the program '[a-z]+': at 3:30: [^\n]*$"
    with pytest.warns(RuntimeWarning, match=said) as told:
        ((v, info),) = solve_group(velocity, group, "triton")
    assert (
        len([w for w in told if w.category is RuntimeWarning and "refuses" in str(w.message)]) == 3
    )
    assert info.converged
    assert (v - known).square().sum(1).mean().sqrt() <= info.err_v + stored.err_v
    with warnings.catch_warnings(record=True) as again:
        warnings.simplefilter("always")
        solve_group(velocity, group, "triton")
    assert not [w for w in again if "refuses" in str(w.message)]


@needs_triton
@pytest.mark.parametrize("start", ["the solution", "nonsense", "nothing at all"])
def test_a_program_starts_from_potentials(start):
    x, y, _, _, _ = clouds(30, 40, 2, count=1)
    velocity = SinkhornVelocity(0.3)
    cold = SinkhornVelocity(0.3, tol=1e-5)(x[0], y[0], return_info=True)
    info = cold[1]
    if start != "the solution":
        g = info.potentials.g
        wrong = 1e3 * torch.randn_like(g) if start == "nonsense" else g * torch.nan
        info = replace(info, potentials=replace(info.potentials, g=wrong))
    ((v, found),) = solve_group(velocity, [prepare(velocity, x[0], y[0], init=info)], "triton")
    assert found.converged and (v - cold[0]).norm() < 2 * velocity.tol * cold[0].norm()


@needs_triton
def test_problems_together(monkeypatch):
    "Two solves and their bounds for all, and each problem gets to its own tolerance in float32"
    velocity, launches = SinkhornVelocity(0.5), Launches()
    monkeypatch.setattr(one_launch, "run", launches.counting(one_launch.run))
    x, y, _, _, _ = clouds(30, 40, 2, count=6)
    x = x * torch.linspace(0.3, 2.0, 6)[:, None, None].to(x)
    group = [prepare(velocity, p, q) for p, q in zip(x, y)]
    found = solve_group(velocity, group, "triton")
    assert launches.programs == 4
    for (v, info), (known, stored) in zip(found, solve_group(velocity, group, "dense")):
        assert info.converged
        assert (v - known).square().sum(1).mean().sqrt() <= info.err_v + stored.err_v


def test_it_says_what_it_needs(monkeypatch):
    x = torch.zeros(4, 2)
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    if find_spec("triton"):
        with pytest.raises(ValueError, match="expected tensors on a CUDA device, or TRITON_INTER"):
            SinkhornVelocity(1.0, backend="triton")(x, x + 1)
        with pytest.warns(RuntimeWarning, match="Triton does not run on cpu: backend 'triton'"):
            assert not kernels.triton_runs.__wrapped__(torch.device("cpu"))
    monkeypatch.setattr(kernels, "has_triton", lambda: False)
    with pytest.raises(ImportError, match=r"expected Triton, pip install 'nsgf_nb\[gpu\]'"):
        SinkhornVelocity(1.0, backend="triton")(x, x + 1)


def test_which_kernel():
    "On a GPU: programs in up to 8 dimensions, then stored, then programs; blocks without Triton"
    kind = lambda d, **more: kernels.kernel_kind(
        "auto", d, **(dict(on_gpu=True, fits=True, triton=True) | more)
    )
    assert [kind(d) for d in (1, 2, 8, 9, 784)] == ["triton"] * 3 + ["dense"] * 2
    assert kind(784, fits=False) == "triton"
    assert [kind(2, triton=False, fits=f) for f in (True, False)] == ["dense", "stream"]
    assert [kind(2, on_gpu=False, fits=f) for f in (True, False)] == ["dense", "stream"]
    for backend in ("dense", "stream", "triton"):
        assert kernels.kernel_kind(backend, 2, on_gpu=True, fits=True, triton=True) == backend


def test_import_needs_no_triton():
    "Neither the estimator nor the module of the kernel imports it"
    code = (
        "import sys, nsgf_nb.estimator, nsgf_nb.solver.triton; assert 'triton' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


@needs_triton
@pytest.mark.parametrize(
    "n, m, d, dtype, kept",
    [
        (70, 150, 2, torch.float32, 1e-3),
        (33, 1100, 3, torch.float32, 1e-3),
        (60, 90, 20, torch.float32, 1e-3),
        (40, 70, 2, torch.float64, 1e-10),
    ],
)
def test_iterations_on_the_device_are_those_of_torch(n, m, d, dtype, kept):
    "Also for more columns than a program takes at a time; a problem that asks for nothing gets it"
    x, y, a, b, eps = clouds(n, m, d, count=3, dtype=dtype)
    near = cold_start(K := Kernel(x, y, a, b), eps)
    g, rtol = (K.psi0 + near.psi) * eps[:, None], torch.full_like(eps, 1e-2)
    wanted = torch.tensor([True, False, True], device=DEVICE)
    found = []
    for kind in (Kernel, kernels.TritonKernel):
        K = kind(x, y, a, b)
        K.absorb(g / eps[:, None], eps)
        found.append(newton_direction(K, State(K, torch.zeros_like(g)), wanted, rtol))
    (theirs, count, solved), (ours, made, stopped) = found
    assert torch.equal(made.cpu(), count.cpu()) and torch.equal(stopped, solved)
    assert made[1] == 0 and (made[[0, 2]] > 0).all() and not ours[1].any()
    assert (ours - theirs).abs().max() <= kept * theirs.abs().max()


# --- machine code -----------------------------------------------------------------------------


@needs_triton
@pytest.mark.skipif(
    HERE and version("triton") != LOCKED,
    reason=f"counts are those of Triton {LOCKED}",
)
def test_instructions_for_each_pair():
    "Compiled for an A100 and an H100, which need not be here"
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    command = [sys.executable, ROOT / "tests/instructions.py", "80", "90"]
    said = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)
    assert said.returncode == 0, said.stderr
    rows = json.loads(said.stdout)["rows"]
    count = {(r["capability"], r["what"]): r["per_pair"] for r in rows if r["number"] == "fp32"}
    for capability in (80, 90):
        assert count[capability, "rows, plane"] <= 8
        assert count[capability, "map fused, plane"] <= 11
        assert count[capability, "soft rows, plane"] <= 13
    few = {(r["capability"], r["what"]): r["spilled"] for r in rows if r["spilled"]}
    products = {(c, what) for c, what in count if "coordinates" in what and "8 coord" not in what}
    assert set(few) <= products and max(few.values(), default=0) <= 512, few
    assert all(r["shared"] <= (163 if r["capability"] == 80 else 227) * 1024 for r in rows)


# --- launches ---------------------------------------------------------------------------------


def counted(kind, n, monkeypatch, d=2):
    "What a cold solve of two problems asks for; one alone is NumPy's on a CPU."
    x, y, _, _, _ = clouds(n, n, d)
    velocity = SinkhornVelocity(0.5)
    group = [prepare(velocity, p, q) for p, q in zip(x, y)]
    launches = Launches()
    launch = launches.counting(kernels.TritonKernel._run)
    monkeypatch.setattr(kernels.TritonKernel, "_run", launch)
    monkeypatch.setattr(one_launch, "run", launches.counting(one_launch.run))
    with launches:
        solved = solve_group(velocity, group, kind)
    assert all(info.converged for _, info in solved)
    return launches


def test_launches_of_the_stored_kernel(monkeypatch):
    "Today's numbers are bounds, with room of a twentieth for another processor; they may only fall"
    found = counted("dense", 512, monkeypatch)
    assert found.operations <= MOST["dense"][0] and found.reads <= MOST["dense"][1]


@needs_triton
def test_launches_of_the_programs(monkeypatch):
    found = counted("triton", 64, monkeypatch)
    operations, reads, programs = MOST["one launch"]
    assert found.operations <= operations and found.reads <= reads and found.programs <= programs


@needs_triton
def test_a_pilot_is_one_launch(monkeypatch):
    "A large cloud begins with the potentials of few of its points, found by one program"
    x, y, a, b, eps = clouds(300, 200, 2)
    b = torch.ones_like(b) / 200
    states, launches = {}, Launches()
    monkeypatch.setattr(one_launch, "run", launches.counting(one_launch.run))
    for kind in (Kernel, kernels.TritonKernel):
        states[kind] = cold_start(kind(x, y, a, b), eps, pilot=64)
    assert launches.programs == 1
    stored, ours = (states[kind].marginal for kind in (Kernel, kernels.TritonKernel))
    assert (ours < 1.2 * stored + 0.02).all() and (ours < 0.5).all()


@needs_triton
def test_launches_of_the_programs_in_more_dimensions(monkeypatch):
    found = counted("triton", 64, monkeypatch, d=4)
    operations, reads, programs = MOST["triton"]
    assert found.operations <= operations and found.reads <= reads and found.programs <= programs


@needs_triton
def test_a_pass_is_two_launches(monkeypatch):
    "However many problems and points: rows, and columns; the map with its row sums is one"
    x, y, a, b, eps = clouds(150, 200, 2, count=3)
    launches = Launches()
    launch = launches.counting(kernels.TritonKernel._run)
    monkeypatch.setattr(kernels.TritonKernel, "_run", launch)
    K = kernels.TritonKernel(x, y, a, b)
    with launches:
        K.absorb(torch.zeros_like(b), eps)
        assert launches.programs == 1
        v = K.weigh(torch.zeros_like(b))
        K.both(v, a)
        assert launches.programs == 3
        K.mean(v, y)
        assert launches.programs == 4 and launches.reads == 0
