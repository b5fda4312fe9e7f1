"""The compiled solver: the promises of the reference, problem by problem, and what a user sees."""

import os
import subprocess
import sys
from dataclasses import replace

import problems
import pytest
import torch
import verdict

from nsgf_nb.estimator import SinkhornVelocity
from nsgf_nb.motion.mixtures import fewer_products
from nsgf_nb.particles import particle_flow

FAR = (202, 242, 332)  # points of x without weight, far from all others
NUMBERS = [*range(5, 2000, 31), *FAR]  # some of each stratum


def clouds(n=300, m=200, d=2):
    g = torch.Generator().manual_seed(0)
    return 3 * torch.randn(n, d, generator=g), torch.randn(m, d, generator=g)


def run(code, **environment):
    "A process of its own."
    return subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=600,
    )


def broken(numbers, backend):
    "Problems of the certificate on which a path breaks a promise, and which."
    found = {}
    for number in numbers:
        v = verdict.judge(replace(problems.problem(number), backend=backend))
        kinds = [k for k in ("false_promise", "broken_bound", "wrong_blur") if v.some(k)]
        if v.exception or v.nan or kinds:
            found[number] = v.exception or v.nan or kinds
    return found


def test_problems_of_the_certificate():
    "Those that the other test gives to the reference, too"
    assert broken(NUMBERS, "auto") == {}


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["auto", "dense"])
def test_all_problems_of_the_certificate(backend):
    assert broken(range(2000), backend) == {}


@pytest.mark.parametrize("self_term", ["same", "masked", "two_batch"])
@pytest.mark.parametrize("d", [1, 2, 3, 5, 20])
def test_it_states_what_the_reference_states(self_term, d):
    x, y = clouds(d=d)
    other = x.flip(0) + 0.1 if self_term == "two_batch" else None
    blur = 0.3 * d
    v, info = SinkhornVelocity(blur, self_term=self_term)(x, y, other, return_info=True)
    dense = SinkhornVelocity(blur, self_term=self_term, backend="dense")
    w, known = dense(x, y, other, return_info=True)
    assert info.converged and known.converged
    assert (v - w).norm() < 2e-3 * w.norm()
    assert abs(info.cross_perplexity / known.cross_perplexity - 1) < 0.01
    assert abs(info.self_diag - known.self_diag) < 1e-3


@pytest.mark.parametrize("far", [10.0, 1000.0])
def test_a_source_point_without_weight_is_as_if_it_were_not_there(far):
    x, y = clouds()
    a = torch.ones(len(x))
    a[0], x[0] = 0, far
    v, info = SinkhornVelocity(blur=0.5)(x, y, a=a, return_info=True)
    others = SinkhornVelocity(blur=0.5)(x[1:], y)
    assert info.converged and (v[1:] - others).norm(dim=1).max() < 1e-3 * others.norm(dim=1).max()


def test_points_that_coincide_and_a_single_point():
    for n, m in ((1, 1), (1, 50), (50, 1)):
        x, y = torch.zeros(n, 2), torch.ones(m, 2)
        v, info = SinkhornVelocity(0.5)(x, y, return_info=True)
        assert info.converged and (v - 1).abs().max() < 1e-5


def test_a_batch_is_solved_by_threads_to_the_same_bits():
    x, y = clouds()
    batch = torch.stack([x, x + 1, 2 * x, -x])
    vel, before = SinkhornVelocity(0.5), torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        v = vel(batch, y.expand(4, *y.shape), batched=True)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(v[i], vel(batch[i], y)) for i in range(4))


def test_without_numba_everything_is_as_it_was():
    code = """
import sys, torch
sys.modules["numba"] = None
from nsgf_nb.estimator import SinkhornVelocity
g = torch.Generator().manual_seed(0)
x, y = torch.randn(50, 2, generator=g), torch.randn(40, 2, generator=g)
v = SinkhornVelocity(.5)(x, y)
print(torch.equal(v, SinkhornVelocity(.5, backend="dense")(x, y)))
print(torch.allclose(v, SinkhornVelocity(.5, backend="stream")(x, y), atol=2e-3))
print("nsgf_nb.solver.streamed" in sys.modules)
"""
    done = run(code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["True", "True", "False"]


def test_a_streamed_problem_of_a_thread_that_outlives_the_program():
    "And of a program whose new tensors are elsewhere"
    code = """
import threading, time, torch
from nsgf_nb.estimator import SinkhornVelocity
torch.set_num_threads(2)
x = torch.randn(1500, 2)
torch.set_default_device("meta")
def late():
    time.sleep(.5)
    print(SinkhornVelocity(1., backend="stream")(x, x + 1).shape)
threading.Thread(target=late).start()
"""
    done = run(code)
    assert done.stdout.split() == ["torch.Size([1500,", "2])"], done.stderr


def test_importing_the_estimator_does_not_import_numba():
    done = run("import sys, nsgf_nb.estimator; print('numba' in sys.modules)")
    assert done.stdout.split() == ["False"], done.stderr


@pytest.mark.slow
def test_the_first_call_says_what_it_waits_for(tmp_path):
    "And the second process does not wait"
    code = """
import torch
from nsgf_nb.estimator import SinkhornVelocity
SinkhornVelocity(.5)(torch.randn(20, 2), torch.randn(20, 2))
"""
    first, second = (run(code, NUMBA_CACHE_DIR=str(tmp_path)) for _ in range(2))
    assert first.stderr.count("compiling loops for this processor, once") == 1
    assert first.returncode == second.returncode == 0
    assert "compiling" not in second.stderr


# --- flows by inner products ----------------------------------------------------------------------


def images(B=2, n=40, m=30):
    g = torch.Generator().manual_seed(0)
    x = torch.randn(B, n, 3, 12, 12, generator=g).cumsum(-1) / 3
    y = 0.5 * torch.randn(B, m, 3, 12, 12, generator=g).cumsum(-2) / 3 + 0.3
    return x, y


def both_ways(x, y, blur, **how):
    "The same flow by mixtures and with points."
    found = []
    for backend in ("auto", "dense"):
        vel = SinkhornVelocity(blur, backend=backend)
        out = particle_flow(x, y, vel, 6, return_path=True, return_info=True, **how)
        found.append(out)
    return found


@pytest.mark.filterwarnings("ignore:the self plan is the identity")
@pytest.mark.parametrize("blur", [1.0, 5.0, 20.0])
def test_a_flow_of_images_is_the_flow_with_points(blur):
    "From points that stay, at a small blur, to points that all move one another"
    x, y = images()
    assert fewer_products(40, 30, 432, 6, 6)
    (path, infos), (reference, known) = both_ways(x, y, blur, batched=True)
    unit = 6 * (reference[:, 1] - reference[:, 0]).flatten(2).norm(dim=-1).mean()
    apart = (path - reference).flatten(3).norm(dim=-1).mean((0, 2)).max()
    assert path.shape == reference.shape and apart < 3e-3 * unit
    for info, other in zip(infos, known):
        assert all(info.converged) and info.converged == other.converged
        for mine, theirs in zip(info.self_diag, other.self_diag):
            assert abs(mine - theirs) < 1e-3


@pytest.mark.filterwarnings("ignore:the self plan is the identity")
def test_a_flow_of_weighted_images_far_from_the_origin():
    x, y = images(1)
    g = torch.Generator().manual_seed(1)
    weights = dict(a=torch.rand(1, 40, generator=g) + 0.1, b=torch.rand(1, 30, generator=g) + 0.1)
    (path, _), (reference, _) = both_ways(x + 1000, y + 1000, 2.0, batched=True, **weights)
    assert (path - reference).abs().max() < 0.02  # float32 has steps of 6e-5 there


@pytest.mark.filterwarnings("ignore:the self plan is the identity")
def test_a_flow_that_mixtures_cannot_follow_goes_on_with_points():
    "A tolerance that float32 cannot hold"
    x, y = images(1)
    vel = SinkhornVelocity(2.0, tol=1e-8)
    out, infos = particle_flow(x[0], y[0], vel, 6, return_info=True)
    reference = particle_flow(x[0], y[0], SinkhornVelocity(2.0, tol=1e-8, backend="dense"), 6)
    assert len(infos) == 6 and all(info.converged for info in infos)
    assert (out - reference).abs().max() < 1e-5
