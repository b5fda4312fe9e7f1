"A large kernel that is held where it counts: the answers of the stored one, whatever the clouds"

import pytest
import torch

from nsgf_nb.core import compiled_module, make_generator
from nsgf_nb.estimator import SinkhornVelocity

truncated = compiled_module("solver.truncated")
pytestmark = pytest.mark.skipif(truncated is None, reason="numba is not installed")
MANY = 4200  # more than 4096 × 4096 entries


def cloud(n, d, name, scale=1.0):
    return scale * torch.randn(n, d, generator=make_generator(7, name, d))


def both_ways(x, y, blur=0.1, self_term="same", **given):
    "Velocity and what is known of it: truncated, and stored by torch"
    found = []
    for backend in ("auto", "dense"):
        vel = SinkhornVelocity(blur, tol=1e-3, self_term=self_term, backend=backend)
        found.append(vel(x, y, return_info=True, **given))
    return found


def check_alike(ours, theirs):
    "Both within the errors that they state"
    (v, info), (u, known) = ours, theirs
    assert info.converged and known.converged
    apart = (v - u).square().sum(-1).mean().sqrt().item()
    assert apart <= 2 * (info.err_v + known.err_v) + 1e-5
    assert info.bound_v <= 1.5 * known.bound_v + 1e-3


@pytest.mark.parametrize("d, self_term", [(1, "same"), (2, "masked"), (3, "same")])
def test_it_is_the_map_of_the_stored_kernel(d, self_term):
    x, y = cloud(MANY, d, "x"), 0.5 * cloud(MANY, d, "y") + 1
    check_alike(*both_ways(x, y, blur=0.3, self_term=self_term))


def test_weights_of_which_some_are_zero():
    x, y = cloud(MANY, 2, "x"), cloud(MANY, 2, "y") + 1
    a, b = torch.rand(MANY, generator=make_generator(7, "a")), torch.ones(MANY)
    a[:100], b[-3000:] = 0, 0  # whole blocks of columns have no mass
    (v, info), theirs = both_ways(x, y, blur=0.3, a=a, b=b)
    assert v.isfinite().all() and info.converged
    alive = a > 0
    assert (v - theirs[0])[alive].square().sum(-1).mean().sqrt() < 1e-2


def test_few_rows_and_very_many_columns():
    x, y = cloud(90, 2, "x"), cloud(200_000, 2, "y")
    vel = SinkhornVelocity(0.2, tol=1e-2)
    v, info = vel(x, y, return_info=True)
    assert info.converged and v.isfinite().all()
    u, _ = SinkhornVelocity(0.2, tol=1e-2)(x, y[:150_000], return_info=True)
    assert (v - u).square().sum(-1).mean().sqrt() < 0.05


def test_clouds_that_are_far_from_each_other_for_their_blur():
    x, y = cloud(MANY, 2, "x", 0.01), cloud(MANY, 2, "y", 0.01) + 50
    (v, info), theirs = both_ways(x, y, blur=0.01)
    assert v.isfinite().all()
    check_alike((v, info), theirs)


def test_points_that_are_all_the_same():
    x, y = torch.ones(MANY, 2), torch.zeros(MANY, 2)
    v, info = SinkhornVelocity(0.1)(x, y, return_info=True)
    assert info.converged and torch.allclose(v, torch.full_like(v, -1.0), atol=1e-5)


def test_a_flow_with_small_blurs_in_float64():
    from nsgf_nb.particles import particle_flow

    x, y = cloud(MANY, 2, "x").double(), 0.3 * cloud(MANY, 2, "y").double() + 1
    vel = SinkhornVelocity(0.05, tol=1e-2)
    end, infos = particle_flow(x, y, vel, 3, return_info=True)
    assert all(info.converged for info in infos)
    assert abs(end.std(0) - y.std(0)).max() < 0.02


def alike_as_streamed(x, y, blur, **given):
    "The class at a small size"
    found = []
    for backend in ("stream", "dense"):
        vel = SinkhornVelocity(blur, tol=1e-3, backend=backend)
        found.append(vel(x, y, return_info=True, **given))
    check_alike(*found)
    assert found[0][1].n_iter <= 3 * found[1][1].n_iter


@pytest.mark.parametrize("d", [1, 2])
def test_a_pilot_that_sees_one_class_in_many(d):
    "Classes in turn: every k-th point is of one class, so the whole cloud has to follow the path"
    n = 600
    centres = 3 * cloud(3, d, "centres")
    y = centres[torch.arange(n) % 3] + cloud(n, d, "y", 0.1)
    alike_as_streamed(cloud(n, d, "x"), y, 0.05)


def test_columns_so_light_that_float32_has_no_number_for_them():
    y = 2 * torch.rand(200, 2, generator=make_generator(7, "light")) - 1
    b = torch.exp(-y.double().square().sum(1) / 2 / 0.08**2)
    alike_as_streamed(cloud(200, 2, "x", 0.5), y, 0.1, b=b)
