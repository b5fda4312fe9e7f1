"Members of the family on inputs that once broke them: each with the right value, or one sentence."

import math

import numpy as np
import pytest
import torch

from nsgf_nb.core import make_generator
from nsgf_nb.evaluation.advice import advise
from nsgf_nb.family.energies import HalfMMD
from nsgf_nb.family.growth import growth, unbalanced_plan, unbalanced_velocity
from nsgf_nb.family.kale import KALE
from nsgf_nb.family.lipschitz import LipschitzDivergence
from nsgf_nb.family.plan import EntropicPlan
from nsgf_nb.family.semidiscrete import SemidiscretePlan
from nsgf_nb.family.trajectory import Trajectory
from nsgf_nb.flow import NSGF
from nsgf_nb.sets.snapshots import snapshots
from nsgf_nb.sinkhorn import sinkhorn_potentials
from nsgf_nb.straight import StraightFlow


def clouds(n=40, m=30, seed=0):
    g = make_generator(seed, "family truth")
    return torch.randn(n, 2, generator=g), torch.randn(m, 2, generator=g) + 1


FAST = dict(iterations=4, batch_size=16)


# Plans whose masses may change


def test_mass_that_nearly_vanishes_still_goes_somewhere():
    "Rows of e^-1e8 gave a map of NaN"
    x, y = clouds()
    plan = unbalanced_plan(x, y + 1e4, 0.3, (1.0, 1.0))
    assert (plan.rows == 0).all() and plan.map().isfinite().all()
    corner = (y + 1e4)[(y + 1e4).square().sum(1).argmin()]
    assert (plan.map() - corner).abs().max() < 1


def test_the_growing_velocity_carries_no_gradient():
    "It had one that left out how the plan moves"
    x, y = clouds()
    v = unbalanced_velocity(x.clone().requires_grad_(), y, 0.3, (1.0, 1.0))
    assert not v.requires_grad and torch.equal(v, unbalanced_velocity(x, y, 0.3, (1.0, 1.0)))


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.int64])
def test_numpy_numbers_as_reaches(kind):
    x, y = clouds()
    v = unbalanced_velocity(x, y, np.float32(0.5), (kind(1), kind(2)))
    assert torch.equal(v, unbalanced_velocity(x, y, 0.5, (1.0, 2.0)))


def test_a_reach_beyond_all_squares_keeps_the_masses():
    x, y = clouds()
    kept = unbalanced_plan(x, y, 0.5, (math.inf, math.inf))
    assert torch.equal(unbalanced_plan(x, y, 0.5, (1e200, 1e200)).rows, kept.rows)
    assert unbalanced_plan(x, y, 0.5, (1e-200, 1.0)).f.abs().max() == 0


def test_points_without_weight_do_not_change_the_growth():
    x, y = clouds()
    far = torch.cat([y, torch.full((5, 2), 1e4)])
    b = torch.cat([torch.full((30,), 1 / 30), torch.zeros(5)])
    assert (growth(x, far, 0.3, b=b) - growth(x, y, 0.3)).abs().max() < 1e-6


@pytest.mark.parametrize("blur", [1e200, 1e-200])
def test_a_blur_whose_square_is_no_number_is_refused(blur):
    "OverflowError and ZeroDivisionError"
    x, y = clouds()
    said = r"blur: expected a length from 1e-145 to 1e145, got 1e[+-]200"
    for call in (
        lambda: growth(x, y, blur),
        lambda: HalfMMD(blur),
        lambda: KALE(blur),
    ):
        with pytest.raises(ValueError, match=said):
            call()
    with pytest.raises(ValueError, match="blur²: expected a finite number > 0"):
        sinkhorn_potentials(x, y, blur)


def test_a_tolerance_that_is_none_is_refused():
    x, y = clouds()
    for tol in (0, -1, math.nan):
        with pytest.raises(ValueError, match="tol: expected a finite number > 0"):
            unbalanced_plan(x, y, 0.5, (1.0, 1.0), tol=tol)


# Plans


def test_numpy_numbers_as_options_of_a_plan():
    x, y = clouds()
    plan = EntropicPlan(x, y, np.float32(0.5), tol=np.float64(1e-3), chunk=np.int64(7))
    assert torch.allclose(plan.map(x), EntropicPlan(x, y, 0.5).map(x), atol=1e-5)


def test_a_plan_in_units_whose_square_is_no_number_is_refused():
    "It was solved, and all its maps were NaN"
    x, y = (1e-170 * z.double() for z in clouds())
    with pytest.raises(ValueError, match="blur: expected a square between 1e-300 and 1e300"):
        EntropicPlan(x, y, 0.3e-170)


@pytest.mark.parametrize(
    "y, kind, said",
    [
        (torch.zeros(0, 2), ValueError, "y: expected at least 1 point, got 0"),
        (np.zeros((4, 2)), TypeError, "y: expected a tensor, got ndarray"),
    ],
)
def test_the_set_of_a_semidiscrete_plan_is_checked_first(y, kind, said):
    with pytest.raises(kind, match=said):
        SemidiscretePlan("normal", y, 0.5)


# Energies


def test_energies_take_any_precision():
    x, y = clouds()
    v = HalfMMD(0.5).velocity(x.half(), y.half())
    assert v.dtype == torch.float16
    assert (
        v.float() - HalfMMD(0.5).velocity(x.half().float(), y.half().float())
    ).abs().max() < 1e-3
    energy = LipschitzDivergence(L=2.0)
    energy.velocity(x, y)
    assert energy.velocity(x.double(), y.double()).norm(dim=1).max() <= 2 + 1e-6


# Fields


def test_a_field_takes_points_of_any_precision():
    "As `log_prob` does: float64 points met a network of float32"
    z = torch.randn(100, 2, generator=make_generator(0, "field"))
    pool = dict(num_steps=2, pool_size=96, group=32)
    trajectory = Trajectory(dict(method="fm", **FAST)).fit({0: z, 1: z + 1}, seed=0, progress=False)
    for flow in (
        StraightFlow(**FAST).fit(z, "normal", seed=0, progress=False),
        NSGF(**FAST, **pool).fit(z, "normal", seed=0, progress=False),
        trajectory,
    ):
        v = flow.velocity(z, 0.5)
        assert torch.equal(flow.velocity(z.double(), 0.5), v)
        assert (flow.velocity(z.half(), 0.5) - v).abs().max() < 0.02 * v.abs().max()


def test_times_are_numbers_of_any_kind():
    z = torch.randn(100, 2, generator=make_generator(0, "times"))
    model = Trajectory(dict(method="fm", **FAST)).fit({0: z, 1: z + 1}, seed=0, progress=False)
    right = model.sample(5, times=0.5, seed=1)
    for one in (np.float32(0.5), np.array(0.5), torch.tensor(0.5)):
        assert torch.equal(model.sample(5, times=one, seed=1), right)
    for several in ([0.5], np.array([0.5]), torch.tensor([0.5])):
        assert torch.equal(model.sample(5, times=several, seed=1), right[None])
    with pytest.raises(TypeError, match="times: expected a number or several, got '0.5'"):
        model.sample(5, times="0.5")


# Tables and advice


@pytest.mark.parametrize("unit", [1e200, 1e-200])
def test_a_column_that_float32_cannot_hold_is_refused(unit):
    "It became a column of zeros"
    z = np.random.default_rng(0).normal(size=60)
    with pytest.raises(
        ValueError, match="dict: expected values of a size that float32 holds, got "
    ):
        snapshots(dict(day=np.repeat([0, 1, 2], 20), a=z, b=unit * z))


def test_advice_does_not_see_points_without_weight():
    "They filled groups, and three points with weight were told of weights that are not positive"
    x, y = clouds(128, 100)
    full = torch.cat([x, torch.full((20, 2), 1e3)])
    a = torch.cat([torch.ones(128), torch.zeros(20)])
    options = dict(relative_blur=0.5, max_group=32, show=False)
    padded, plain = advise(full, y, a=a, **options), advise(x, y, a=torch.ones(128), **options)
    assert padded.points == (128, 100) and padded.settings() == plain.settings()
    assert math.isclose(padded.share(), plain.share(), rel_tol=1e-4)
    few = torch.cat([torch.ones(3), torch.zeros(125)])
    with pytest.raises(ValueError, match="x with weight: expected at least 64 points, got 3"):
        advise(x, y, a=few, show=False)
