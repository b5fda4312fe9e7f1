"The neural plan: data, networks and files as people have them, and when it warns"

import copy
import warnings

import pytest
import torch
from torch import nn

from nsgf_nb import NeuralPlan
from nsgf_nb.family.neural_plan import Potential, PotentialPair, stiffness

FEW = dict(iterations=3, batch_size=16, bank=30, num_steps=4, device="cpu")


def points(n, d, seed=0, scale=1.0):
    return scale * torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def fitted(target, source=None, **changes):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="a row of a plan between")
        return NeuralPlan(**FEW | changes).fit(target, source, seed=0, progress=False)


def test_images_have_their_shape():
    y = points(60, 16).view(60, 1, 4, 4)
    plan = fitted(y)
    assert plan.sample(5, seed=0).shape == (5, 1, 4, 4)
    assert plan.map(y).shape == plan.back(y).shape == plan.score(y, y[:1]).shape == y.shape
    assert plan.resample(y).shape == y.shape


def test_double_precision_is_taken_and_given_back():
    plan, y = fitted(points(60, 2)), points(9, 2).double()
    answers = plan.back(y), plan.map(y), plan.score(y, y), plan.resample(y), plan.score_of_target(y)
    assert all(z.dtype == torch.float64 for z in answers)
    assert torch.equal(answers[0].float(), plan.back(y.float()))


def test_resampled_points_are_points_of_the_bank():
    y = points(60, 2)
    plan = fitted(y)
    found = plan.resample(points(40, 2, 1))
    assert all((plan.points == z).all(1).any() for z in found)
    assert all((y == z).all(1).any() for z in plan.points)


def test_a_path_begins_at_x():
    plan, x = fitted(points(60, 2)), points(7, 2, 1)
    path = plan.sample(x0=x, return_path=True, seed=0)
    assert path.shape == (5, 7, 2) and torch.equal(path[0], x) and plan.nfe == 4
    assert torch.equal(path[-1], plan.sample(x0=x, seed=0))
    with pytest.raises(ValueError, match="solver: a plan has steps of its own"):
        plan.sample(x0=x, solver="heun")
    with pytest.raises(ValueError, match="label: expected none, the network has no num_classes"):
        plan.sample(x0=x, label=1)


class Cubes(nn.Module):
    "A network of the user's"

    def __init__(self):
        super().__init__()
        self.phi, self.psi = Potential(2, 8, 1), Potential(2, 8, 1)

    forward = PotentialPair.forward


def test_a_network_of_ones_own(tmp_path):
    net = Cubes()
    before = copy.deepcopy(net.state_dict())
    plan = fitted(points(60, 2), network=net)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    path = plan.save(tmp_path / "plan.safetensors")
    with pytest.raises(ValueError, match="the network was your own, expected network="):
        NeuralPlan.load(path)
    again = NeuralPlan.load(path, network=Cubes(), device="cpu")
    assert torch.equal(again.sample(5, seed=0), plan.sample(5, seed=0))


def test_a_copy_and_a_second_fit():
    plan = fitted(points(60, 2))
    x = plan.sample(5, seed=0)
    assert torch.equal(copy.deepcopy(plan).sample(5, seed=0), x)
    other = points(60, 2, 2, scale=3.0)
    plan.fit(other, seed=0, progress=False)
    assert torch.equal(plan.sample(5, seed=0), fitted(other).sample(5, seed=0))


def test_blurs():
    x, y = points(400, 2), points(400, 2, 1, scale=2.0)
    assert fitted(y, x, blur=0.3).eps == pytest.approx(0.09)
    small, large = (fitted(y, x, relative_blur=r).eps for r in (0.5, 1.0))
    assert large == pytest.approx(4 * small)
    with pytest.raises(ValueError, match="source: all points are the same, and a relative blur"):
        fitted(y, torch.ones(400, 2))
    assert fitted(y, torch.ones(400, 2), blur=1.0).sample(3).isfinite().all()


@pytest.mark.parametrize("d, warned", [(2, True), (32, False)])
def test_it_says_where_a_plan_between_points_will_do(d, warned):
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        NeuralPlan(**FEW | dict(relative_blur=0.4)).fit(
            points(600, d), points(600, d, 1), seed=0, progress=False
        )
    told = [str(w.message) for w in said if "needs no training" in str(w.message)]
    assert bool(told) == warned and all("\n" not in t for t in told)


def test_the_stiffness_of_points_of_any_shape():
    y = points(20, 8).view(20, 2, 4)
    g = torch.Generator().manual_seed(0)
    scale = torch.tensor([1.0, 2.0, 3.0, 5.0])
    assert stiffness(lambda z: -z * scale, y, g, 0.01, 40) == pytest.approx(5, abs=1e-3)
