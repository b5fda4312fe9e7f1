"What the maps of implicit steps do beside learning: densities, bits, refusals"

import pytest
import torch
from torch import nn

from nsgf_nb import KL, Composition, HalfMMD, Potential, Residual, gaussian_jko, jko
from nsgf_nb.core import make_generator
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
