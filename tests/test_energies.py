"What every energy does: a value, its velocity, sums, and a sentence where something is missing"

import copy
import math
import pickle

import ot
import pytest
import torch

from nsgf_nb import (
    KALE,
    KL,
    Dominance,
    Energy,
    Entropy,
    HalfMMD,
    LipschitzDivergence,
    PorousMedium,
    Potential,
    SinkhornEnergy,
    implicit,
    mmd,
    particle_flow,
    proximal,
)
from nsgf_nb.core import make_generator
from nsgf_nb.family.lipschitz import lipschitz_bounds


def well(x):
    "A double well, one value a particle"
    flat = x.flatten(1)
    return (flat[:, 0].square() - 1).square() + flat.square().sum(1) / 2


BARE = {
    "potential": Potential(well),
    "mmd": HalfMMD(0.8),
    "sinkhorn": SinkhornEnergy(0.8, tol=1e-9),
    "kale": KALE(0.8, 0.1),
    "kale near KL": KALE(0.8, 0.02),
    "sum": 0.7 * HalfMMD(0.8) + 2 * Potential(well) + SinkhornEnergy(1.0, tol=1e-9) * 0.5,
}
WITH_DENSITY = {"entropy": Entropy(), "porous": PorousMedium(2.5), "kl": KL(well)}
every = pytest.mark.parametrize("energy", (BARE | WITH_DENSITY).values(), ids=BARE | WITH_DENSITY)
bare = pytest.mark.parametrize("energy", BARE.values(), ids=BARE)
with_density = pytest.mark.parametrize("energy", WITH_DENSITY.values(), ids=WITH_DENSITY)
to_target = pytest.mark.parametrize(
    "energy", [e for e in BARE.values() if e.target], ids=[k for k, e in BARE.items() if e.target]
)


def law(seed=0, shape=(3,), dtype=torch.float64):
    "Particles, target points and the log-density at the particles"
    gen = make_generator(seed, "test_energies")
    x = torch.randn(12, *shape, generator=gen, dtype=torch.float64)
    y = 0.6 * torch.randn(17, *shape, generator=gen, dtype=torch.float64) + 0.5
    logp = torch.randn(12, generator=gen, dtype=torch.float64) - 2
    return x.to(dtype), y.to(dtype), logp.to(dtype)


@every
def test_a_value_is_a_number_that_x_and_logp_can_be_differentiated_in(energy):
    "against central differences along random directions"
    x, y, logp = law()
    dx, _, dlog = law(1)
    x.requires_grad_(True)
    logp.requires_grad_(True)
    value = energy.value(x, y, logp)
    assert isinstance(energy, Energy) and value.shape == () and value.isfinite()
    gx, glog = torch.autograd.grad(value, (x, logp), materialize_grads=True)
    with torch.no_grad():
        at = lambda h: energy.value(x + h * dx, y, logp + h * dlog)
        slope = (at(1e-4) - at(-1e-4)) / 2e-4
    assert abs(slope - (gx * dx).sum() - (glog * dlog).sum()) < 1e-6


@bare
@pytest.mark.parametrize("shape", [(3,), (1, 2, 2)], ids=str)
def test_the_velocity_is_minus_n_times_the_slope_of_the_value(energy, shape):
    x, y, _ = law(shape=shape)
    v = energy.velocity(x, y)
    assert v.shape == x.shape and v.dtype == x.dtype and not v.requires_grad
    e = law(1, shape)[0]
    slope = (energy.value(x + 1e-4 * e, y) - energy.value(x - 1e-4 * e, y)) / 2e-4
    assert abs(slope + (v * e).sum() / len(x)) < 1e-6


@bare
def test_the_velocity_goes_into_a_particle_flow_whatever_surrounds_it(energy):
    "float32, no gradients; the value falls"
    x, y, _ = law(dtype=torch.float32)
    with torch.inference_mode():
        z = particle_flow(x, y, energy.velocity, 5, 0.02)
    assert z.dtype == torch.float32 and z.shape == x.shape
    assert energy.value(z.clone(), y) < energy.value(x, y)


@pytest.mark.parametrize("name", [k for k, e in BARE.items() if e.target and k != "sum"])
def test_particles_and_target_moved_together_keep_their_velocity(name):
    x, y, _ = law()
    v, moved = BARE[name].velocity(x, y), BARE[name].velocity(x + 5, y + 5)
    assert (moved - v).abs().max() < 1e-7


@every
def test_sums_and_multiples(energy):
    x, y, logp = law()
    value = energy.value(x, y, logp)
    double, halves = energy + energy, 0.5 * energy + energy * 0.5
    assert abs(double.value(x, y, logp) - 2 * value) < 1e-12
    assert abs(halves.value(x, y, logp) - value) < 1e-12
    assert double.density == energy.density and double.target == energy.target
    assert 2 * energy == 2 * energy and energy + energy == double
    if not energy.density:
        assert (3 * energy).velocity(x, y).allclose(3 * energy.velocity(x, y))
    for wrong in (1.0, "energy", None):
        with pytest.raises(TypeError):
            energy + wrong
    for wrong in (True, "2", energy):
        with pytest.raises(TypeError):
            energy * wrong
    with pytest.raises(ValueError, match="expected a finite number to multiply with"):
        energy * float("nan")


@with_density
def test_bare_particles_have_no_density(energy):
    x, y, logp = law()
    with pytest.raises(ValueError, match="expected logp, the log-density at the particles") as e:
        energy.velocity(x, y)
    assert "\n" not in str(e.value)
    with pytest.raises(ValueError, match=r"logp: expected shape \(12,\), one a particle"):
        energy.value(x, y, logp[:5])


@to_target
def test_a_target_that_is_missing_or_does_not_fit(energy):
    x, y, _ = law()
    for ask in (energy.value, energy.velocity):
        with pytest.raises(ValueError, match="expected target points y, got none"):
            ask(x)
        with pytest.raises(ValueError, match="x and y: expected"):
            ask(x, y[:, :2])


@bare
def test_points_that_are_no_points(energy):
    x, y, _ = law()
    with pytest.raises(TypeError, match="x: expected a tensor"):
        energy.velocity(x.numpy(), y)
    with pytest.raises(ValueError, match="x: "):
        energy.velocity(x / 0, y)


@pytest.mark.parametrize("make", [HalfMMD, SinkhornEnergy, KALE], ids=lambda c: c.__name__)
@pytest.mark.parametrize("wrong", [0, -1.0, float("nan")])
def test_lengths_are_positive(make, wrong):
    with pytest.raises(ValueError, match="blur: expected a finite number > 0"):
        make(wrong)


def test_exponents_and_potentials_that_do_not_fit():
    x = law()[0]
    with pytest.raises(ValueError, match="m - 1: expected a finite number > 0, got 0"):
        PorousMedium(1.0)
    with pytest.raises(ValueError, match=r"V: expected values of shape \(12,\), one a particle"):
        Potential(lambda z: z).value(x)


def test_an_energy_of_ones_own():
    "needs a value only; a critic inside it is improved once a call, in sums too"

    class Spread(Energy):
        calls = 0

        def value(self, x, y=None, logp=None):
            return -x.var(0, unbiased=False).sum() / 2

        def adapt(self, x, y=None):
            self.calls += 1

    x, spread = law()[0], Spread()
    assert torch.allclose(spread.velocity(x), x - x.mean(0))
    (2 * spread + Potential(well)).adapt(x)
    assert spread.calls == 1
    with pytest.raises(NotImplementedError, match="Energy: expected a method value"):
        Energy().velocity(x)


@bare
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_an_implicit_step_goes_down_by_what_it_must(energy, dtype):
    "F(x⁺) ≤ F(x) - mean|x⁺-x|²/(2τ), and x⁺ = x + τ v(x⁺) where the search has come to its end"
    x, y, _ = law(dtype=dtype)
    for tau in (0.1, 1.0, 100.0):
        with torch.inference_mode():
            z = proximal(x, energy, tau, y)
        assert z.dtype == dtype and z.shape == x.shape and not z.requires_grad
        before, after = energy.value(x, y), energy.value(z.clone(), y)
        moved = (z - x).square().sum(1).mean() / (2 * tau)
        assert after + moved < before * (1 + 10 * torch.finfo(dtype).eps)
    x, y, _ = law()
    z = proximal(x, energy, 0.3, y, max_iter=100)
    assert (z - x - 0.3 * energy.velocity(z, y)).abs().max() < 1e-6


def test_an_implicit_step_improves_the_critic_once():
    class Critic(HalfMMD):
        seen = []

        def adapt(self, x, y=None):
            self.seen.append(len(x))

    x, y, _ = law()
    particle_flow(x, y, implicit(Critic(0.8), 1.0), 3, step_size=1.0)
    assert Critic.seen == [12, 12, 12]


def test_what_an_implicit_step_refuses():
    x, y, _ = law()
    for wrong in (0, -1.0, float("inf")):
        with pytest.raises(ValueError, match="tau: expected a finite number > 0"):
            proximal(x, HalfMMD(1.0), wrong, y)
        with pytest.raises(ValueError, match="tau: expected a finite number > 0"):
            implicit(HalfMMD(1.0), wrong)
    with pytest.raises(ValueError, match="max_iter: expected at least 1"):
        proximal(x, HalfMMD(1.0), 1.0, y, max_iter=0)
    with pytest.raises(ValueError, match="expected logp, the log-density at the particles"):
        proximal(x, KL(well), 1.0)


@pytest.mark.parametrize("seed", range(5))
def test_kale_lies_between_its_limits(seed):
    "KALE/(1+λ) falls as λ grows; ½ MMD² at λ = 1e6; a value for P itself is zero"
    x, y, _ = law(seed)
    lams = [1e-3, 1e-2, 0.1, 1.0, 10.0]
    values = [KALE(1.0, lam).value(x, y).item() / (1 + lam) for lam in lams]
    assert all(a > b > 0 for a, b in zip(values, values[1:]))
    assert abs(KALE(1.0, 1e6).value(x, y) / HalfMMD(1.0).value(x, y) - 1) < 1e-5
    for lam in lams:
        assert abs(KALE(1.0, lam).value(x, x)) < 1e-10
        assert KALE(1.0, lam).velocity(x, x).abs().max() < 1e-8


def test_kale_does_not_depend_on_what_was_solved_before():
    x, y, _ = law()
    energy = KALE(0.5, 0.01)
    first = energy.velocity(x, y)
    energy.velocity(x + 3, y)
    assert torch.equal(energy.velocity(x, y), first)
    with pytest.raises(ValueError, match="lam: expected a finite number > 0, got -1"):
        KALE(1.0, -1.0)


@pytest.mark.filterwarnings("error")
def test_kale_of_clouds_that_do_not_touch():
    "the kernel between them is zero: h is large, and Newton's method gets there"
    x, y, _ = law()
    for lam in (1.0, 0.01):
        value = KALE(0.5, lam).value(x + 100, y)
        assert value.isfinite() and value > 0


def few(f="kl", L=2.0, **kw):
    "A Lipschitz divergence whose critic is soon trained"
    return LipschitzDivergence(f, L, first=20, ascents=3, width=16, **kw)


@pytest.mark.parametrize("f", ["kl", 1.5, 2.0, 10.0], ids=str)
@pytest.mark.parametrize("shape", [(3,), (1, 2, 2)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_no_particle_is_faster_than_the_slope(f, shape, dtype):
    "nor is the critic steeper anywhere, also when it has been trained for long"
    x, y, _ = law(shape=shape, dtype=dtype)
    energy, most = few(f), 2.0 * (1 + 1e4 * torch.finfo(dtype).eps)
    for _ in range(20):
        v = energy.velocity(x + 3, y)
    assert v.shape == x.shape and v.dtype == dtype and not v.requires_grad
    assert v.flatten(1).norm(dim=1).max() <= most
    p, q = 50 * law(1, shape, dtype)[0], 50 * law(2, shape, dtype)[0]
    far = (p - q).flatten(1).norm(dim=1)
    assert ((energy.critic(p) - energy.critic(q)).abs() / far).max() <= most
    assert v.flatten(1).norm(dim=1).mean() > 1.0  # far from the target it is nearly reached


@pytest.mark.parametrize("f", ["kl", 2.0], ids=str)
def test_the_lipschitz_velocity_is_minus_n_times_the_slope_of_the_value(f):
    x, y, _ = law()
    e, energy = law(1)[0], few(f)
    v = energy.velocity(x, y)
    slope = (energy.value(x + 1e-7 * e, y) - energy.value(x - 1e-7 * e, y)) / 2e-7
    assert abs(slope + (v * e).sum() / len(x)) < 1e-6
    assert energy.value(x, x) < 1e-12  # Jensen, or Fenchel, for any critic


def test_a_lipschitz_flow_does_not_depend_on_what_surrounds_it():
    x, y, _ = law(dtype=torch.float32)
    path = particle_flow(x + 3, y, few().velocity, 5, 0.1)
    with torch.inference_mode():
        again = particle_flow(x + 3, y, few().velocity, 5, 0.1)
    torch.manual_seed(1)
    assert torch.equal(again, path) and path.dtype == torch.float32
    assert few().value(path, y) < few().value(x + 3, y)
    other = particle_flow(x + 3, y, few(seed=1).velocity, 5, 0.1)
    assert not torch.equal(other, path)


def test_a_critic_is_copied_with_its_energy():
    x, y, _ = law()
    energy = few()
    energy.adapt(x, y)
    for twin in (copy.deepcopy(energy), pickle.loads(pickle.dumps(energy))):
        assert torch.equal(twin.velocity(x, y), copy.deepcopy(energy).velocity(x, y))
    total = HalfMMD(0.8) + few()
    total.adapt(x, y)
    assert total.value(x, y) == HalfMMD(0.8).value(x, y) + energy.value(x, y)


def test_another_unit_changes_the_meaning_of_the_slope_only():
    x, y, _ = law()
    v, scaled = few(L=2.0).velocity(x, y), few(L=2.0 / 128).velocity(128 * x, 128 * y)
    assert torch.allclose(128 * scaled, v, rtol=1e-6, atol=1e-9)
    moved = few(L=2.0).velocity(x + 5, y + 5)
    assert (moved - v).abs().max() < 1e-6


def test_what_a_lipschitz_divergence_refuses():
    x, y, _ = law()
    for wrong, said in (
        (dict(f=1.0), "f - 1: expected a finite number > 0"),
        (dict(f="js"), "f: expected"),
        (dict(L=0.0), "L: expected a finite number > 0"),
        (dict(first=0), "first: expected at least 1"),
        (dict(ascents=0), "ascents: expected at least 1"),
    ):
        with pytest.raises((ValueError, TypeError), match=said) as e:
            LipschitzDivergence(**wrong)
        assert "\n" not in str(e.value)
    energy = few()
    for ask in (energy.value, energy.velocity, energy.adapt):
        with pytest.raises(ValueError, match="expected target points y, got none"):
            ask(x)
    energy.adapt(x, y)
    with pytest.raises(ValueError, match="x: expected 3 numbers a point, as the critic has learn"):
        energy.velocity(x[:, :2], y[:, :2])


@pytest.mark.parametrize("f", ["kl", 2.0], ids=str)
def test_targets_without_a_scale_or_with_too_large_a_one(f):
    "all points at one place, most at one place, one point far out"
    x, _, _ = law()
    far = law(1)[1]
    far[0] *= 1e6
    for y in (torch.ones(5, 3, dtype=torch.float64), torch.ones(9, 3, dtype=torch.float64), far):
        if len(y) == 9:
            y[0] = 2.0
        energy = few(f)
        v = energy.velocity(x, y)
        assert v.isfinite().all() and energy.value(x, y).isfinite() and v.norm(dim=1).max() < 2.001


def wide(shape=(3,), dtype=torch.float64):
    "A base that the particles of `law` do not dominate"
    return 4 * law(3, shape, dtype)[1]


@pytest.mark.parametrize("shape", [(3,), (1, 2, 2)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_dominance_pushes_outwards_along_the_slope_of_its_value(shape, dtype):
    x, _, _ = law(shape=shape, dtype=dtype)
    e, energy = law(1, shape, dtype)[0], Dominance(wide(shape, dtype))
    v = energy.velocity(x)
    assert v.shape == x.shape and v.dtype == dtype and not v.requires_grad
    assert v.flatten(1).norm(dim=1).max() <= 1 + 1e4 * torch.finfo(dtype).eps
    assert (v * (x - x.mean(0))).sum() > 0
    if dtype == torch.float64:
        slope = (energy.value(x + 1e-7 * e) - energy.value(x - 1e-7 * e)) / 2e-7
        assert abs(slope + (v * e).sum() / len(x)) < 1e-6


def test_particles_that_dominate_stay_where_they_are():
    "the value of a critic that lags is below that of 0, which is allowed"
    x, _, _ = law()
    energy = Dominance(wide())
    energy.adapt(x)
    assert energy.value(x) > 1
    assert energy.value(100 * x) == 0
    far = Dominance(0.01 * wide() + x.mean(0) - 0.01 * wide().mean(0), first=300)
    assert far.value(x) < 1e-2 and far.velocity(x).norm(dim=1).max() < 1 + 1e-9


def test_the_unit_of_dominance_is_that_of_the_points():
    x, _, _ = law()
    v, value = Dominance(wide()).velocity(x), Dominance(wide()).value(x)
    scaled = Dominance(128 * wide() + 5)
    assert (scaled.value(128 * x + 5) / 128 - value).abs() < 1e-6
    assert (Dominance(128 * wide() + 5).velocity(128 * x + 5) - v).abs().max() < 1e-6


def test_dominance_in_sums_and_copies():
    x, y, _ = law()
    energy = HalfMMD(0.8) + 0.5 * Dominance(wide())
    assert energy.target and not energy.density
    energy.adapt(x, y)
    for twin in (copy.deepcopy(energy), pickle.loads(pickle.dumps(energy))):
        assert torch.equal(twin.velocity(x, y), copy.deepcopy(energy).velocity(x, y))
    single = Dominance(torch.ones(5, 3, dtype=torch.float64))  # all points at one place
    assert single.value(x).isfinite() and single.velocity(x).isfinite().all()


def test_what_dominance_refuses():
    x, _, _ = law()
    for wrong, said in (
        (dict(planes=0), "planes: expected at least 1"),
        (dict(ascents=0), "ascents: expected at least 1"),
        (dict(first=0), "first: expected at least 1"),
        (dict(lr=0.0), "lr: expected a finite number > 0"),
    ):
        with pytest.raises(ValueError, match=said):
            Dominance(wide(), **wrong)
    with pytest.raises(ValueError, match="base: 51 of 51 values are NaN"):
        Dominance(wide() * float("nan"))
    with pytest.raises(ValueError, match="x: expected 3 numbers a point, as the base has, got 2"):
        Dominance(wide()).velocity(x[:, :2])


def w1(x, y):
    "Exact W1"
    return float(ot.emd2([], [], torch.cdist(x.flatten(1), y.flatten(1)).numpy()))


@pytest.mark.parametrize("seed", range(10))
def test_both_mmds_are_bounded_by_a_transport_distance(seed):
    "MMD_h <= W1/h and mmd^2 <= 2 W1; both are met, by two points that are near or of any distance"
    gaussian = lambda x, y, h: math.sqrt(max(0.0, 2 * HalfMMD(h).value(x, y).item()))
    x, y, _ = law(seed, (1 + seed % 4,))
    for scale in (0.01, 1.0, 100.0):
        for h in (0.1, 1.0, 10.0):
            assert gaussian(x, scale * y, h) <= w1(x, scale * y) / h * (1 + 1e-9)
        assert mmd(x, scale * y) ** 2 <= 2 * w1(x, scale * y) * (1 + 1e-9)
    one, other = x[:1], y[:1]
    assert gaussian(one, other, 100.0) > 0.99 * w1(one, other) / 100
    assert abs(mmd(one, other) ** 2 - 2 * w1(one, other)) < 1e-12


def folded(x, seed):
    "Turned, shifted and folded: a map of slope 1 that loses something"
    gen = make_generator(seed, "folds")
    d = x.shape[1]
    turn, _ = torch.linalg.qr(torch.randn(d, d, generator=gen, dtype=torch.float64))
    return (x @ turn + torch.randn(d, generator=gen, dtype=torch.float64)).abs()


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("L", [0.3, 3.0])
def test_an_encoder_brings_no_two_clouds_further_apart(L, seed):
    "The larger bound of the codes below the smaller one of the points: no weak critic can pass"
    x, y, _ = law(seed)
    x = x + 1
    low, high = lipschitz_bounds(x, y, L)
    assert 0 < low <= high < low + 0.01
    turn, _ = torch.linalg.qr(torch.randn(3, 3, generator=make_generator(seed, "turn")).double())
    for codes in (folded(x, seed), folded(y, seed)), (x @ turn[:, :2], y @ turn[:, :2]):
        below, above = lipschitz_bounds(*codes, L)
        assert 0 < below <= above <= low
        assert few(L=L).value(*codes).item() <= above
    assert abs(lipschitz_bounds(x @ turn, y @ turn, L)[0] - low) < 1e-3
    with torch.inference_mode():
        assert lipschitz_bounds(x, y, L) == (low, high)


@pytest.mark.parametrize("seed", range(5))
def test_the_lipschitz_bounds_have_the_right_limits(seed):
    "W1 for a small slope; KL for a large one, where particles stand on target points"
    x, y, _ = law(seed)
    low, high = lipschitz_bounds(x, y, 1e-3)
    assert 0.98 < low / (1e-3 * w1(x, y)) <= high / (1e-3 * w1(x, y)) < 1.02
    rows = torch.randint(len(y), (300,), generator=make_generator(seed, "rows"))
    share = torch.bincount(rows, minlength=len(y)).double() / 300
    exact = torch.xlogy(share, len(y) * share).sum().item()
    assert all(abs(v - exact) < 0.01 for v in lipschitz_bounds(y[rows], y, 50.0))
