"What users give to the family that it cannot take: one sentence before any work, no silent loss"

import re

import pytest
import torch
from torch import nn

from nsgf_nb import (
    DSBM,
    MLP,
    EnergyFlow,
    EntropicPlan,
    FlexProposal,
    JKOFlow,
    LipschitzDivergence,
    NeuralPlan,
    NormalMixture,
    SchrodingerBridge,
    StraightFlow,
    Trajectory,
    mala,
    orbit,
)
from nsgf_nb.core import RegimeWarning, check_fraction
from nsgf_nb.family.neural_plan import PotentialPair

X = torch.randn(64, 2, generator=torch.Generator().manual_seed(0))
FEW = dict(iterations=3, batch_size=8)


class Own(nn.Module):
    "A network whose answer is changed at the end"

    def __init__(self, change):
        super().__init__()
        self.layer, self.change = nn.Linear(3, 2), change

    def forward(self, x, t, label=None):
        return self.change(self.layer(torch.cat([x, t[:, None]], 1)))


ANSWERS = {
    "(2, 1)": lambda u: u[:, :1],
    "(1, 2)": lambda u: u[:1],
    "(2,)": lambda u: u[0],
    "()": lambda u: u.sum(),
    "tuple": lambda u: (u,),
}


@pytest.mark.parametrize("got", ANSWERS)
def test_a_network_that_answers_in_another_shape(got):
    flow = StraightFlow(network=Own(ANSWERS[got]), **FEW)
    with pytest.raises(ValueError) as e:
        flow.fit(X, seed=0, progress=False)
    said = f"network: expected an answer of shape (2, 2) to two points, got {got}"
    assert str(e.value) == said and flow.velocity is None


def test_a_network_for_other_points():
    said = r"network: expected one for points of shape \(2,\), got one for \(3,\)"
    with pytest.raises(ValueError, match=said):
        StraightFlow(network=MLP((3,)), **FEW).fit(X, seed=0, progress=False)


def test_a_question_to_a_network_leaves_it_as_it_is():
    net = nn.Sequential(nn.BatchNorm1d(2), nn.Dropout())
    net.forward = lambda x, t, label=None: net[1](net[0](x))
    before = torch.get_rng_state()
    flow = StraightFlow(network=net, **FEW).fit(X, seed=0, progress=False)
    assert torch.equal(torch.get_rng_state(), before) and flow.velocity is not None


@pytest.mark.parametrize("shape", [(3,), (1,), (1, 2)])
def test_a_field_is_asked_at_other_points(shape):
    flow = StraightFlow(**FEW).fit(X, seed=0, progress=False)
    said = rf"x: expected points of shape \(2,\), got {re.escape(str(shape))}"
    with pytest.raises(ValueError, match=said):
        flow.velocity(torch.zeros(4, *shape), 0.5)


@pytest.mark.parametrize("path", [False, True])
def test_samples_that_are_no_numbers_are_told(path):
    flow = StraightFlow(**FEW).fit(X, seed=0, progress=False)
    flow.velocity.net.forward = lambda z, t: torch.where(z[:, :1] > 0, z * 1e30, z)
    said = r"sample: \d of 9 samples are NaN or infinite: the field drove them off"
    with pytest.warns(RuntimeWarning, match=said) as told:
        flow.sample(9, seed=0, return_path=path)
    assert told[0].filename == __file__


@pytest.mark.parametrize("given, got", [(print, "a list of functions"), ([1], "functions in")])
def test_callbacks_are_looked_at_before_any_work(given, got):
    with pytest.raises(TypeError, match=f"callbacks: expected {got}"):
        StraightFlow(**FEW).fit(X, seed=0, callbacks=given, progress=False)


def fit(model, data=X, *more):
    return model.fit(data, *more, seed=0, progress=False)


IMAGES = torch.randn(64, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("data", [IMAGES, X + 1e6])
@pytest.mark.parametrize("energy", ["mmd", "kale"])
def test_an_energy_without_a_field(energy, data):
    flow = EnergyFlow(energy, num_steps=2, substeps=2, pool_size=96, group=32, **FEW)
    with pytest.raises(ValueError, match="blur: expected one above 0.3 σ in call 2 of 2, where"):
        fit(flow, data)


def test_a_plan_of_points_that_float32_does_not_tell_apart():
    with pytest.warns(RegimeWarning):
        plan = fit(NeuralPlan(bank=40, **FEW), X + 1e6)
    with pytest.raises(ValueError, match="score_blur: at a distance of 0.0.* float32 does not"):
        plan.sample(3, seed=0)


def test_potentials_of_one_value_a_point():
    net = PotentialPair((2,))
    net.psi = nn.Linear(2, 1)
    with pytest.raises(ValueError, match=r"network: expected one value a point of psi, got \(3, 1"):
        fit(NeuralPlan(network=net, **FEW))


NOT_FITTED = {
    "score_of_target": lambda: NeuralPlan().score_of_target(X),
    "step_size": lambda: NeuralPlan().step_size(),
    "sample": lambda: JKOFlow().sample(x0=X),
}


@pytest.mark.parametrize("verb", NOT_FITTED)
def test_what_is_not_fitted_says_so(verb):
    with pytest.raises(ValueError, match=f"{verb}: the (plan|chain) is not fitted, call fit"):
        NOT_FITTED[verb]()
    with pytest.raises(ValueError, match="sample: the chain is not fitted, call fit or load"):
        JKOFlow().sample(3)


def test_a_critic_of_points_in_half_precision():
    x, y = X.half(), (X + 1).half()
    exact = LipschitzDivergence(first=5).velocity(x.float(), y.float())
    half = LipschitzDivergence(first=5).velocity(x, y)
    assert half.dtype == torch.float16
    assert (half - exact).norm() < 2e-3 * exact.norm()


BATCHES = {
    "independent": lambda: fit(SchrodingerBridge("independent"), X[:20]),
    "semidiscrete": lambda: fit(SchrodingerBridge("semidiscrete"), X, X[:20]),
    "bridges": lambda: fit(DSBM(dict(iterations=3)), X[:20]),
}


@pytest.mark.parametrize("name", BATCHES)
def test_a_batch_of_a_bridge_is_no_larger_than_the_data(name):
    with pytest.raises(ValueError, match="batch_size: expected at most 20, the number of points"):
        BATCHES[name]()


def test_a_bridge_from_one_place_is_told_what_to_give():
    bridge = SchrodingerBridge(cloud=16, **FEW)
    with pytest.raises(ValueError, match="source: all points are the same.*: give blur="):
        fit(bridge, X, torch.ones(64, 2))


def test_a_trajectory_looks_at_all_times_before_it_fits():
    rows = []
    trajectory = Trajectory(FEW)
    data = {0: X, 1: X + 1, 2.5: X[:5]}
    with pytest.raises(ValueError, match="batch_size: expected at most 5, .* at time 2.5, got 8"):
        trajectory.fit(data, seed=0, callbacks=[rows.append], progress=False)
    assert not rows


HEIGHT = lambda x: -x.square().sum(1)
LAW = NormalMixture(torch.eye(2))
SENTENCES = [
    (lambda: mala(X, lambda x: 0.0, 0.1, 3), "logp: expected a tensor of values, got float"),
    (lambda: mala(X, lambda x: HEIGHT(x.detach()), 0.1, 3), "logp: expected values that torch can"),
    (lambda: FlexProposal(2, 3.0, LAW).fit(X / 0), "x: 128 of 128 values are NaN or infinite"),
    (lambda: FlexProposal(2, 3.0, LAW).fit(X[:, :1]), "x: expected points of shape (2,), got (1,)"),
    (lambda: orbit(X, torch.zeros(0, 2, 2)), "matrices: expected shape (G, 2, 2), got (0, 2, 2)"),
    (lambda: EntropicPlan(X[:, :0], X[:, :0], 0.5), "x: expected points of numbers, got shape (6"),
    (lambda: fit(StraightFlow(**FEW), X * 1e30), "target: expected points in another unit, got"),
    (lambda: fit(StraightFlow(**FEW), X * 1e-30), "target: expected points in another unit, got"),
    (lambda: check_fraction(X, "t"), "t: expected 0 ≤ t ≤ 1, got Tensor"),
]


@pytest.mark.parametrize("call, sentence", SENTENCES, ids=[s for _, s in SENTENCES])
def test_one_sentence(call, sentence):
    with pytest.raises((ValueError, TypeError)) as e:
        call()
    assert sentence in str(e.value) and "\n" not in str(e.value)


def test_a_class_of_one_point_in_the_plans_of_a_set():
    label = torch.zeros(64, dtype=torch.long)
    label[0] = 1
    flow = fit(StraightFlow("semidiscrete", num_classes=2, **FEW), (X, label))
    assert flow.sample(3, label=1, seed=0).isfinite().all()
