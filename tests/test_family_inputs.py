"What users give to the family that it cannot take: one sentence before any work, no silent loss"

import re

import pytest
import torch
from torch import nn

from nsgf_nb import MLP, StraightFlow

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
