"Inputs on which the estimator once said what was not so: each with the right value."

import math
import warnings

import pytest
import torch

from nsgf_nb.core import make_generator
from nsgf_nb.data import get_sampler
from nsgf_nb.estimator import SinkhornVelocity
from nsgf_nb.motion.pool import build_pool
from nsgf_nb.motion.simulation import Simulation
from nsgf_nb.particles import particle_flow
from nsgf_nb.sinkhorn import sinkhorn_potentials, transport_plan
from nsgf_nb.transport.scale import inner_length
from nsgf_nb.velocity import sinkhorn_velocity


def clouds(n=40, m=40, d=2, seed=0):
    g = make_generator(seed, "truth")
    return torch.randn(n, d, generator=g), torch.randn(m, d, generator=g) + 1


@pytest.mark.parametrize("backend", ["dense", "stream"])
@pytest.mark.parametrize("seed", range(8))
def test_a_column_without_weight_is_not_there(backend, seed):
    x, y = clouds(seed=seed)
    b = torch.ones(40)
    b[0] = 0
    v, info = SinkhornVelocity(0.2, backend=backend)(x, y, b=b, return_info=True)
    right = sinkhorn_velocity(x.double(), y[1:].double(), 0.2)
    assert info.converged and (v - right).abs().max() < 5e-3


def test_a_batch_with_padding_is_solved_as_its_parts():
    (x, y), (p, q) = clouds(), clouds(30, 25, seed=1)
    a, b = torch.ones(2, 40), torch.ones(2, 40)
    a[1, 30:], b[1, 25:] = 0, 0
    pad = torch.full((15, 2), 1e3)
    both = torch.stack([x, torch.cat([p, pad[:10]])]), torch.stack([y, torch.cat([q, pad])])
    v, info = SinkhornVelocity(0.3)(*both, a=a, b=b, batched=True, return_info=True)
    assert all(info.converged) and v.isfinite().all()
    assert (v[0] - sinkhorn_velocity(x.double(), y.double(), 0.3)).abs().max() < 5e-3
    assert (v[1, :30] - sinkhorn_velocity(p.double(), q.double(), 0.3)).abs().max() < 5e-3


def test_a_light_point_moves_as_a_heavy_one_would():
    x, y = torch.tensor([[0.0], [1.0]]), torch.tensor([[3.0], [4.0]])
    v, info = SinkhornVelocity(1.0)(x, y, a=torch.tensor([1.0, 1e-7]), return_info=True)
    assert info.converged and (v - torch.tensor([[3.5], [3.7311]])).abs().max() < 1e-3


@pytest.mark.parametrize("settings", [dict(relative_blur=0.5), dict(blur=15.0)])
@pytest.mark.parametrize("n, d", [(100, 784), (50, 2)])
def test_what_surrounds_the_call_changes_nothing(n, d, settings):
    g = make_generator(0, "wide")
    x, y = torch.randn(n, d, generator=g), 0.5 * torch.randn(80, d, generator=g)
    before = torch.get_float32_matmul_precision()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        vel = SinkhornVelocity(**settings)
        alone = vel(x, y)
        torch.set_float32_matmul_precision("medium")
        torch.set_default_dtype(torch.float64)
        try:
            with torch.autocast("cpu", torch.bfloat16):
                inside = vel(x.requires_grad_(), y)
            with torch.inference_mode():
                untracked = vel(x, y)
        finally:
            torch.set_float32_matmul_precision(before)
            torch.set_default_dtype(torch.float32)
    assert torch.equal(alone, inside) and torch.equal(alone, untracked)
    assert not inside.requires_grad and inside.dtype == torch.float32


@pytest.mark.parametrize("form", ["negated", "turned", "every other", "reversed", "array"])
def test_points_that_lie_otherwise_in_memory(form):
    x, y = clouds()
    one = SinkhornVelocity(0.5)(x, y)
    as_given = {
        "negated": lambda z: torch.complex(z, -z).conj().imag,
        "turned": lambda z: z.T.contiguous().T,
        "every other": lambda z: z.repeat_interleave(2, 0)[::2],
        "reversed": lambda z: z.flip(0).numpy()[::-1],
        "array": lambda z: z.numpy(),
    }[form]
    found = torch.as_tensor(SinkhornVelocity(0.5)(as_given(x), as_given(y)))
    assert (found - one).abs().max() < 1e-5  # one is worked on by torch, with other roundings


@pytest.mark.parametrize("self_term", ["same", "masked", "two_batch"])
def test_points_at_one_place_do_not_move(self_term):
    x, y = torch.full((5, 2), 0.3), torch.full((3, 2), 0.3)
    other = x if self_term == "two_batch" else None
    v, info = SinkhornVelocity(0.1, self_term=self_term)(x, y, other, return_info=True)
    assert (v == 0).all() and info.converged and info.err_v == 0


@pytest.mark.parametrize(
    "size, dtype",
    [
        (1e-19, torch.float32),
        (1e18, torch.float32),
        (1e-160, torch.float64),
        (1e150, torch.float64),
    ],
)
@pytest.mark.parametrize("share", [1e-3, 0.3, 1e6])
def test_scales_at_the_end_of_the_range(size, dtype, share):
    x, y = clouds()
    one = SinkhornVelocity(share)(x.double(), y.double())
    v, info = SinkhornVelocity(share * size)(
        size * x.to(dtype), size * y.to(dtype), return_info=True
    )
    assert info.converged and (v.double() / size - one).abs().max() < 5e-3


@pytest.mark.parametrize("self_term", ["same", "masked"])
@pytest.mark.parametrize("backend", ["auto", "dense", "stream"])
@pytest.mark.parametrize("blur", [1e12, 1e30])
def test_a_blur_beyond_all_costs_moves_all_points_alike(blur, backend, self_term):
    x, y = clouds()
    b = torch.ones(40)
    b[0] = 1e-4
    vel = SinkhornVelocity(blur, backend=backend, self_term=self_term)
    for weights in (None, b):
        v, info = vel(x, y, b=weights, return_info=True)
        middle = y.mean(0) if weights is None else b @ y / b.sum()
        assert info.converged and (v - (middle - x.mean(0))).abs().max() < 0.2


def test_weights_whose_sum_their_dtype_cannot_hold():
    x, y = clouds(20, 30)
    a = torch.full((20,), 6e4).half()
    v = SinkhornVelocity(0.5)(x.half(), y.half(), a=a)
    assert (
        v.float() - SinkhornVelocity(0.5)(x.half().float(), y.half().float())
    ).abs().max() < 5e-3


def test_the_error_is_a_number_where_one_column_has_all_the_weight():
    x, y = clouds(3, 3)
    b = torch.tensor([1.0, 0.0, 0.0])
    v, info = SinkhornVelocity(26.4, tol=1e-8)(x, y, b=b, return_info=True)
    assert info.converged and info.err_v < 1e-6
    assert (v.double() - (y[0] - x.double().mean(0))).abs().max() < 1e-2


@pytest.mark.parametrize("far", [20.0, 1e4, math.nan])
def test_a_warm_start_from_anywhere_is_as_good_as_a_cold_one(far):
    x, y = clouds(50, 60)
    vel = SinkhornVelocity(0.1)
    _, info = vel(x, y + (0 if math.isnan(far) else far), return_info=True)
    if math.isnan(far):
        info.potentials.g.fill_(far)
    v, warm = vel(x, y, init=info, return_info=True)
    assert warm.converged and (v - vel(x, y)).abs().max() < 5e-3


def test_a_point_mass_has_no_relative_blur():
    x, y = clouds()
    with pytest.raises(ValueError, match="y: expected spread-out points for a relative blur"):
        SinkhornVelocity(relative_blur=0.3)(x, y[:1].repeat(5, 1))


def test_the_relative_blur_knows_the_weights():
    x, y = clouds()
    a = torch.ones(40)
    a[20:] = 0
    x[20:] *= 100
    _, info = SinkhornVelocity(relative_blur=0.3)(x, y, a=a, return_info=True)
    _, alone = SinkhornVelocity(relative_blur=0.3)(x[:20], y, return_info=True)
    assert math.isclose(info.potentials.eps, alone.potentials.eps, rel_tol=1e-9)


def test_weights_of_both_ends_reach_the_pool():
    x = torch.arange(80.0)[:, None].repeat(1, 2)
    light = torch.cat([torch.zeros(40), torch.ones(40)])
    source = get_sampler(x, weights=1 - light)
    target = get_sampler(x, weights=light)
    pool = build_pool(
        Simulation(source, target, SinkhornVelocity(1.0), num_steps=2, group=40, seed=0),
        2,
        show=False,
    )
    path = torch.cat([shard["x"] for shard in pool.shards])
    start, end = path[:, 0], path[:, -1]
    assert start.max() == 39 and start.min() == 0
    assert end.min() > 39.5 and end.max() < 79.5


def test_the_default_blurs_converge_on_easy_data():
    g = make_generator(0, "easy")
    x = torch.tensor([2.0, 0.0, 1.0]) + 0.3 * torch.randn(500, 3, generator=g)
    y = -1 + 0.5 * torch.randn(500, 3, generator=g)
    length = inner_length(x, y)
    shares = [0.5 * (0.05 / 0.5) ** (k / 9) for k in range(10)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _, infos = particle_flow(
            x, y, [SinkhornVelocity(r * length) for r in shares], 10, return_info=True
        )
    assert all(info.converged for info in infos)


def test_certify_proves_what_it_says():
    x, y = clouds(100, 90)
    for self_term in ("same", "two_batch"):
        other = x.flip(0) + 0.1 if self_term == "two_batch" else None
        vel = SinkhornVelocity(0.4, self_term=self_term, certify=True)
        v, info = vel(x, y, other, return_info=True)
        exact = sinkhorn_velocity(
            x.double(),
            y.double(),
            0.4,
            x_self=None if other is None else other.double(),
            self_term=self_term,
        )
        off = (v - exact).square().sum(1).mean().sqrt()
        unit = (exact.square().sum(1).mean().sqrt()).item()
        assert info.converged and off <= info.bound_v <= 3e-3 * max(1.0, unit)


def test_many_points_on_few():
    "The plain solver's Newton step is on the shorter side: 70 000 rows need no matrix of theirs"
    x = torch.randn(70_000, 2, generator=make_generator(0, "x"))
    y = torch.randn(5, 2, generator=make_generator(0, "y"))
    pot = sinkhorn_potentials(x, y, 0.5)
    assert pot.converged
    few = torch.arange(60)
    P = transport_plan(x[few], y, sinkhorn_potentials(x[few], y, 0.5))
    Q = transport_plan(y, x[few], sinkhorn_potentials(y, x[few], 0.5))
    assert (P - Q.T).abs().sum() < 1e-7
