"Bridges and semidiscrete pairs where lessons do not look: classes, images, trajectories, bad input"

import math
import signal
import warnings

import pytest
import torch

from nsgf_nb import (
    DSBM,
    MLP,
    Fit,
    Model,
    SchrodingerBridge,
    SemidiscretePlan,
    StraightFlow,
    Trajectory,
)
from nsgf_nb.core import make_generator
from nsgf_nb.family.bridge import on_bridge
from nsgf_nb.family.plan import EntropicPlan
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


@pytest.mark.parametrize("t", [0.3, 0.8])
def test_the_drift_is_a_mean_for_any_law_of_the_starts_and_any_potential(t):
    "What is left of the end is at right angles to functions of X_t, beside a plan of another law"
    g, n = make_generator(0, "any law"), 40_000
    y = torch.tensor([[-1.0], [0.5], [3.0]]).double()
    plan = EntropicPlan(torch.randn(500, 1, generator=g).double(), y, 0.8)
    x = 1.5 + 0.7 * torch.randn(n, 1, generator=g).double()
    assert (plan.masses(x) - plan.masses(plan.x)).abs().max() > 0.1
    ends_of = plan.resample(x, g)
    at = on_bridge(x, ends_of, torch.full((n,), t), plan.eps, g)
    missed = ends_of - at - (1 - t) * plan.drift(at, t)
    for function in (torch.ones_like, torch.sin, torch.square):
        part = missed * function(at)
        assert part.mean().abs() < 4 * part.std() / math.sqrt(n)


def test_the_rows_of_a_bridge_to_a_whole_set_stay_in_their_class():
    "Points without a label go to both"
    x, label = two_classes()
    network = MLP((2,), 16, num_classes=2)
    settings = FEW | dict(batch_size=128)
    bridge = SchrodingerBridge("semidiscrete", network=network, label_dropout=0.4, **settings)
    opened = ends(torch.utils.data.TensorDataset(x, label), None, 0)
    at, t, way, classes = bridge.task(opened, Fit(seed=0)).rows(0, (0, 1), None)
    end = (at + way * (1 - t + 0.05).sqrt()[:, None]) * opened.sigma + opened.mean
    right = end[:, 0] > 0
    assert (right == (classes == 1))[classes < 2].all()
    assert 0.2 < right[classes == 2].float().mean() < 0.8 and (classes == 2).sum() > 20


def test_a_bridge_to_a_whole_set_gives_each_end_its_mass_and_goes_on(tmp_path):
    "Unequal masses are learned; stopped, resumed, saved and loaded to the same bits"
    y = torch.tensor([-2.0, 2.0, 2.0, 2.0])[:, None] + torch.tensor([0.0, 0.0, 0.1, 0.2])[:, None]
    settings = dict(iterations=600, batch_size=128, lr=5e-3, ema=0.95, blur=1.0, device="cpu")
    torch.manual_seed(0)
    network = MLP((1,), 32)  # one for both: each fit copies it
    make = lambda: SchrodingerBridge("semidiscrete", network=network, **settings)

    def stop(row):
        if row["step"] >= 100:
            signal.raise_signal(signal.SIGINT)

    bridge = make()
    with pytest.raises(KeyboardInterrupt):
        bridge.fit(y, seed=0, workdir=tmp_path, callbacks=[stop], progress=False)
    bridge.fit(y, seed=0, workdir=tmp_path, resume=True, progress=False)
    made = bridge.sample(4000, seed=1)
    whole = make().fit(y, seed=0, progress=False)
    assert torch.equal(whole.sample(4000, seed=1), made)
    again = Model.load(bridge.save(tmp_path / "bridge.safetensors"), device="cpu")
    assert again.coupling == "semidiscrete" and torch.equal(again.sample(4000, seed=1), made)
    assert abs((made > 0).float().mean() - 0.75) < 0.05  # ten fits gave .733 to .743


def test_the_coupling_is_a_word_of_the_straight_flow():
    flow = StraightFlow("semidiscrete", iterations=3, batch_size=16, device="cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        flow.fit(torch.randn(120, 2), seed=0, progress=False)
    assert flow.sample(5, seed=0).shape == (5, 2)
    with pytest.raises(ValueError, match="coupling"):
        StraightFlow("sinkhorn")
