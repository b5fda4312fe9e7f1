"Bridges and semidiscrete pairs where lessons do not look: classes, images, trajectories, bad input"

import warnings

import pytest
import torch

from nsgf_nb import DSBM, MLP, Fit, SchrodingerBridge, SemidiscretePlan, StraightFlow, Trajectory
from nsgf_nb.core import make_generator
from nsgf_nb.family.semidiscrete import pairs_of_set
from nsgf_nb.sets.ends import ends

FEW = dict(iterations=3, batch_size=16, cloud=64, num_steps=3, device="cpu")


def two_classes(n=400, seed=0):
    "Points of class 0 on the left and of class 1 on the right"
    label = torch.arange(n) % 2
    x = torch.randn(n, 2, generator=make_generator(seed, "classes"))
    return x + 20.0 * (2 * label - 1)[:, None] * torch.tensor([1.0, 0.0]), label


def test_pairs_of_a_bridge_stay_in_their_class():
    x, label = two_classes()
    bridge = SchrodingerBridge(network=MLP((2,), 16, num_classes=2), label_dropout=0.0, **FEW)
    opened = ends(torch.utils.data.TensorDataset(x, label), None, 0)
    at, t, way, classes = bridge.task(opened, Fit(seed=0)).rows(0, (0, 1), None)
    unit = (1 - t + 0.05).sqrt()[:, None]
    end = (at + way * unit) * opened.sigma + opened.mean
    assert ((end[:, 0] > 0) == (classes == 1)).all()
    bridge.fit_ends(opened, Fit(seed=0, progress=False))
    assert bridge.sample(6, label=1, seed=0).shape == (6, 2)


def test_images_keep_their_shape():
    x = torch.rand(80, 1, 4, 4, generator=make_generator(0, "images"))
    bridge = SchrodingerBridge(network=MLP((1, 4, 4), 16), **FEW)
    out = bridge.fit(x, seed=0, progress=False).sample(5, seed=1)
    assert out.shape == (5, 1, 4, 4) and out.isfinite().all()


def test_a_bridge_learns_from_one_the_other_way_of_the_same_shape_only():
    back = SchrodingerBridge("independent", **FEW).fit("8gaussians", "moons", progress=False)
    bridge = SchrodingerBridge(back, **FEW)
    with pytest.raises(ValueError, match="target: expected points of shape \\(2,\\)"):
        bridge.fit(torch.randn(90, 3), progress=False)
    bridge.fit("moons", "8gaussians", seed=0, progress=False)
    assert bridge.eps == back.eps


def test_a_temperature_of_ones_own_is_that_of_all_bridges():
    few = {k: v for k, v in FEW.items() if k != "device"}
    chain = DSBM(dict(few, blur=0.5), rounds=1, device="cpu").fit("moons", progress=False)
    assert {part.eps for part in chain.parts().values()} == {0.25}


def test_a_trajectory_of_bridges():
    data = {0: torch.randn(90, 2), 1: torch.randn(90, 2) + 3, 2: torch.randn(90, 2)}
    options = {k: v for k, v in FEW.items() if k != "device"}
    path = Trajectory(dict(method="bridge", **options), device="cpu")
    path.fit(data, seed=0, progress=False)
    out = path.sample(7, times=[0.5, 2], seed=0)
    assert out.shape == (2, 7, 2) and out.isfinite().all()
    assert path.velocity(out[0], 0.5).isfinite().all()


@pytest.mark.parametrize(
    "bad, said",
    [
        (dict(coupling="ot"), "coupling: expected 'plan', 'independent'"),
        (dict(blur=-1.0), "blur"),
        (dict(relative_blur=0.0), "relative_blur"),
        (dict(reuse=0), "reuse"),
        (dict(label_dropout=2.0), "label_dropout"),
    ],
)
def test_bad_input_is_one_sentence(bad, said):
    with pytest.raises(ValueError, match=said) as e:
        SchrodingerBridge(**bad)
    assert "\n" not in str(e.value)


def test_semidiscrete_pairs_stay_in_their_class():
    x, label = two_classes(200)
    opened = ends(torch.utils.data.TensorDataset(x, label), None, 0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        draw = pairs_of_set(opened, 64, 0, by_class=True)
        again = pairs_of_set(opened, 64, 0, by_class=True)
    x0, y, classes = draw(3, 0)
    assert ((y[:, 0] > 0) == (classes == 1)).all() and x0.shape == y.shape
    assert all(torch.equal(p, q) for p, q in zip((x0, y, classes), again(3, 0)))


def test_semidiscrete_gives_every_point_its_mass():
    y = torch.tensor([[-1.0], [1.0], [4.0]])
    b = torch.tensor([0.5, 0.3, 0.2])
    semi = SemidiscretePlan(torch.randn(4000, 1), y, 0.3, b=b)
    _, ends_of = semi.pairs(4000, make_generator(0, "pairs"))
    found = (ends_of == y.T).float().mean(0)
    assert (found - b).abs().max() < 0.04


def test_the_coupling_is_a_word_of_the_straight_flow():
    flow = StraightFlow("semidiscrete", iterations=3, batch_size=16, device="cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        flow.fit(torch.randn(120, 2), seed=0, progress=False)
    assert flow.sample(5, seed=0).shape == (5, 2)
    with pytest.raises(ValueError, match="coupling"):
        StraightFlow("sinkhorn")
