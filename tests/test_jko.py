"What the maps of implicit steps do beside learning: densities, inverses, bits, refusals"

import math
import warnings

import pytest
import torch
from torch import nn

from nsgf_nb import (
    KL,
    Composition,
    Convex,
    DualKL,
    HalfMMD,
    JKOFlow,
    ODEBlock,
    Potential,
    Residual,
    folded,
    gaussian_jko,
    jko,
)
from nsgf_nb.core import ConvergenceWarning, RegimeWarning, keep_random_state, make_generator
from nsgf_nb.family.jko import pushed

FEW = dict(iterations=3, batch_size=16)


def square(x):
    return x.square().sum(1) / 2


def law(d=3, dtype=torch.float32):
    "Normal points, scaled, with a log-density up to a constant"
    x = torch.randn(40, d, generator=make_generator(0, "test_jko")).to(dtype)
    return 2 * x, -square(x)


@pytest.mark.parametrize("d", [1, 2, 5])
def test_the_density_after_a_map_by_the_whole_jacobian(d):
    x, logp = law(d, torch.float64)
    block = Residual(d, width=8).double()
    nn.init.normal_(block.body[-1].weight, generator=make_generator(1, "last"))
    z, after = pushed(block, x, logp)
    jacobians = torch.stack([torch.autograd.functional.jacobian(block, p) for p in x])
    assert torch.equal(z, block(x)) and not z.requires_grad and not after.requires_grad
    assert torch.allclose(after, logp - jacobians.det().abs().log())


def test_maps_do_not_depend_on_what_surrounds_them():
    x, logp = law()
    energy = KL(square)
    maps = jko(x, logp, energy, [0.1, 0.2], seed=3, **FEW)
    path = maps.push(x, logp)
    torch.manual_seed(7)
    state = torch.get_rng_state()
    with torch.inference_mode():
        again = jko(x, logp, energy, [0.1, 0.2], seed=3, **FEW).push(x, logp)
    assert torch.equal(torch.get_rng_state(), state)
    assert isinstance(maps, Composition) and len(maps) == 2 and len(path) == 3
    for (z, after), (other, other_after) in zip(path, again):
        assert torch.equal(z, other) and torch.equal(after, other_after)
    other = jko(x, logp, energy, [0.1, 0.2], seed=4, **FEW).push(x, logp)
    assert not torch.equal(other[-1][0], path[-1][0])


def test_maps_are_kept_as_weights_and_blocks_may_be_others():
    class Scale(nn.Module):
        def __init__(self, d):
            super().__init__()
            self.log = nn.Parameter(torch.zeros(d))

        def forward(self, x):
            return x * self.log.exp()

    x, logp = law()
    maps = jko(x, logp, KL(square), [1.0], block=Scale, iterations=50, batch_size=40, lr=0.05)
    assert (maps[0].log < 0).all()  # towards a smaller deviation
    twin = Composition([Scale(3)])
    twin.load_state_dict(maps.state_dict())
    assert torch.equal(twin.push(x, logp)[-1][0], maps.push(x, logp)[-1][0])


def test_a_step_without_a_density_is_allowed():
    "of a quadratic potential it is x/(1+τ)"
    x, logp = law()
    maps = jko(x, logp, Potential(square), [1.0], iterations=200, batch_size=40, lr=2e-2)
    assert (maps.push(x, logp)[-1][0] - x / 2).abs().mean() < 0.1


def test_many_short_gaussian_steps_are_the_continuous_flow():
    "towards N(0, I) from N(m, a I): m e^-t and 1 + (a-1) e^-2t"
    m, A = torch.ones(2).double(), 4 * torch.eye(2).double()
    eye = torch.eye(2).double()
    for _ in range(1000):
        m, A = gaussian_jko(m, A, 0 * m, eye, 1e-3)
    assert (m - torch.tensor(-1.0).exp()).abs().max() < 1e-3
    assert (A - (1 + 3 * torch.tensor(-2.0).exp()) * eye).abs().max() < 5e-3


def test_gaussian_steps_of_many_at_once():
    z = torch.randn(5, 3, 3, generator=make_generator(0, "steps"), dtype=torch.float64)
    A, B = (u @ u.mT + torch.eye(3) for u in (z, z.flip(0)))
    each = [gaussian_jko(*factor, 0.3) for factor in zip(z[:, 0], A, z[:, 1], B)]
    for together, one_by_one in zip(gaussian_jko(z[:, 0], A, z[:, 1], B, 0.3), zip(*each)):
        assert (together - torch.stack(one_by_one)).abs().max() < 1e-12


def test_what_maps_refuse():
    x, logp = law()
    for args, kw, said in (
        ((x, logp, KL(square), [0.0]), {}, "taus: expected a finite number > 0"),
        ((x, logp[:5], KL(square), [1.0]), {}, r"logp: expected shape \(40,\)"),
        ((x, None, KL(square), [1.0]), {}, "expected logp"),
        ((x, logp, HalfMMD(1.0), [1.0]), {}, "HalfMMD: expected target points y, got none"),
        ((x, logp, KL(square), [1.0]), dict(iterations=0), "iterations: expected at least 1"),
    ):
        with pytest.raises(ValueError, match=said) as e:
            jko(*args, **kw)
        assert "\n" not in str(e.value)


def shaken(block, d, size):
    "A map with weights that are not those of its start"
    with keep_random_state(1):
        made = block(d, width=8).double().requires_grad_(False)
        for p in made.parameters():
            p += size * torch.randn(p.shape)
    return made


@pytest.mark.parametrize("d", [1, 2, 5])
@pytest.mark.parametrize("block, size", [(Convex, 1.0), (ODEBlock, 0.3)])
def test_maps_without_folds_have_an_inverse(block, size, d):
    "and a density that comes back as it went"
    x, logp = law(d, torch.float64)
    maps = Composition([shaken(block, d, size) for _ in range(2)])
    z, after = maps.push(x, logp)[-1]
    path, met, calls = maps.pull(z)
    assert met.all() and not folded(maps, x).any() and len(path) == 3 and calls >= 2
    assert torch.equal(path[0], z) and (path[-1] - x).norm(dim=1).max() < 1e-2
    again = maps.push(path[-1], logp)[-1]
    assert (again[0] - z).norm(dim=1).max() < 1e-3 and (again[1] - after).abs().max() < 1e-1


def test_points_without_an_inverse_are_told():
    flow = JKOFlow("residual", num_maps=1, map_iterations=2, batch_size=8, bank=40, device="cpu")
    flow.fit("moons", seed=0, progress=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        flow.sample(20, seed=0)
    flow.steps["map1"].net.map = nn.Tanh()  # no map leads beyond 1
    with pytest.warns(ConvergenceWarning, match="no inverse was found for 1 of 2 points"):
        flow.sample(x0=flow.velocity.mean + flow.velocity.sigma * torch.tensor([[0.1], [1.5]]))


class Mirror(nn.Module):
    "Turns over all points with a negative first number."

    def forward(self, x):
        return torch.cat([x[:, :1].abs(), x[:, 1:]], 1)


def test_a_density_that_is_none_is_told():
    "The logarithm of a determinant does not see its sign"
    flow = JKOFlow("residual", num_maps=1, map_iterations=2, batch_size=8, bank=40, device="cpu")
    flow.fit("moons", seed=0, progress=False)
    x = flow.velocity.mean + torch.tensor([[1.0, 0.0], [-1.0, 0.0], [2.0, 1.0]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        flow.log_prob(x)
    flow.steps["map1"].net.map = Mirror()
    with pytest.warns(RegimeWarning, match="turn over 1 of 3 points"):
        flow.log_prob(x)


def test_the_density_of_a_chain_is_that_of_its_samples():
    "also where the source is not around the data, and a point is a picture"
    x = 0.5 * torch.randn(300, 1, 1, 2, generator=make_generator(0, "pictures")) + 3
    small = dict(num_maps=2, map_iterations=60, batch_size=64, device="cpu")
    flow = JKOFlow("convex", **small).fit(x, "normal", seed=0, progress=False)
    y = flow.sample(50, seed=1)
    assert y.shape == (50, 1, 1, 2) and flow.log_prob(y).shape == (50,)
    axis = torch.arange(-2.0, 7.0, 0.1)
    grid = torch.cartesian_prod(axis, axis).view(-1, 1, 1, 2)
    assert abs(flow.log_prob(grid).exp().sum() * 0.1**2 - 1) < 1e-2
    with pytest.raises(ValueError, match=r"x: expected points of shape \(1, 1, 2\), got \(2,\)"):
        flow.log_prob(torch.zeros(3, 2))


def test_steps_towards_samples():
    "The target is drawn in batches, and the critic learns whatever surrounds the call"
    x, logp = law(2)
    y = law(2)[0] + 3
    more = dict(iterations=30, batch_size=40, lr=2e-2)
    for energy in (20 * HalfMMD(2.0), DualKL(first=20)):
        maps = jko(x, logp, energy, [1.0], y=y, **more)
        assert (maps.push(x, logp)[-1][0].mean(0) > x.mean(0) + 0.1).all()
    with torch.inference_mode():
        one = jko(x, logp, DualKL(first=20), [1.0], y=y, **more).push(x, logp)[-1][0]
    two = jko(x, logp, DualKL(first=20), [1.0], y=y, **more).push(x, logp)[-1][0]
    assert torch.equal(one, two)


def test_the_critic_of_kl_and_the_gap_of_two_laws():
    "A value on the points of training is between 0 and that of the best function"
    x, y = law(2)[0] / 2 + 1, law(2)[0] / 2
    energy = DualKL(first=50)
    v = energy.velocity(x, y)
    assert v.shape == x.shape and not v.requires_grad and (v.mean(0) < 0).all()
    assert (
        0 < energy.value(x, y) < math.log(len(y)) + energy.critic(x).max() - energy.critic(y).max()
    )
    with pytest.raises(ValueError, match="expected target points y, got none"):
        energy.velocity(x)
    with pytest.raises(ValueError, match="ascents: expected at least 1, got 0"):
        DualKL(ascents=0)
