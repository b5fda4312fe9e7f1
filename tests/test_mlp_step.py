"The training step of a small MLP: the same fit as by autograd, wherever it is taken"

import copy
import signal

import pytest
import torch

from nsgf_nb import StraightFlow
from nsgf_nb.core import compiled_module, keep_random_state, make_generator
from nsgf_nb.data import get_sampler
from nsgf_nb.learning import training
from nsgf_nb.learning.nets import MLP
from nsgf_nb.learning.training import Task, TrainingOptions, train

loops = compiled_module("learning.mlp_step")
pytestmark = pytest.mark.skipif(loops is None, reason="numba is not installed")


def rows(step, part, net):
    x = torch.randn(128, 3, generator=make_generator(0, "x", step))
    i, parts = part
    x = x[i * 128 // parts : (i + 1) * 128 // parts]
    return x, x[:, 0].sigmoid(), x.sin(), None


def fitted(changes=lambda net: net, told=None, **kw):
    with keep_random_state(0):
        net = changes(MLP((3,), hidden=24, layers=2, skip=0.25))
    options = TrainingOptions(**dict(iterations=60, lr=1e-2, warmup=5) | kw)
    history = train(net, Task(rows), options, show=False, **(told or {}))
    return net, history


def by_autograd(monkeypatch, **kw):
    "The same fit where numba is missing"
    with monkeypatch.context() as m:
        m.setattr(training, "compiled_module", lambda name: None)
        return fitted(**kw)


@pytest.mark.parametrize(
    "options",
    [
        {},
        dict(accumulate=4),
        dict(clip=0.1),
        dict(weight_decay=0.3),
        dict(ema=0.0),
        dict(lr=3e-2, warmup=0),
    ],
)
def test_a_fit_is_that_of_autograd_up_to_rounding(monkeypatch, options):
    net, history = fitted(**options)
    other, known = by_autograd(monkeypatch, **options)
    assert history[-1]["loss"] < 0.7 * history[0]["loss"]
    for row, before in zip(history, known):
        assert row["loss"] == pytest.approx(before["loss"], rel=1e-4)
    for p, q in zip(net.parameters(), other.parameters()):
        assert torch.allclose(p, q, atol=1e-4)


@pytest.mark.parametrize("first", ["loops", "autograd"])
def test_a_checkpoint_of_one_way_goes_on_by_the_other(monkeypatch, tmp_path, first):
    def stop(row):
        if row["step"] == 30:
            signal.raise_signal(signal.SIGINT)

    def part(way, **kw):
        told = dict(checkpoint=tmp_path / "state", **kw)
        return by_autograd(monkeypatch, told=told) if way == "autograd" else fitted(told=told)

    second = "autograd" if first == "loops" else "loops"
    with pytest.raises(KeyboardInterrupt, match="stopped after step 30 of 60"):
        part(first, callbacks=[stop])
    (net, history), (whole, known) = part(second, resume=True), fitted()
    assert [row["step"] for row in history] == [row["step"] for row in known]
    for p, q in zip(net.parameters(), whole.parameters()):
        assert torch.allclose(p, q, atol=1e-4)


def test_it_is_taken_and_left_where_it_should_be(monkeypatch):
    taken, own = [], loops.MLPStep.move
    monkeypatch.setattr(loops.MLPStep, "move", lambda self: (taken.append(1), own(self)))

    def frozen(net):
        net.body[0].bias.requires_grad_(False)
        return net

    fitted()
    assert len(taken) == 60
    fitted(precision="bfloat16")
    fitted(frozen)
    assert len(taken) == 60


def test_labels_go_the_usual_way_and_are_refused():
    def labelled(*args):
        return *rows(*args)[:3], torch.zeros(128, dtype=torch.long)

    with pytest.raises(ValueError, match="label: expected none"):
        train(MLP((3,)), Task(labelled), TrainingOptions(iterations=2), show=False)


def test_a_loss_that_is_no_number_is_said():
    with pytest.raises(ValueError, match="the loss is (nan|inf) at step .*lower lr"):
        fitted(lr=1e30)


def test_what_is_fitted_can_be_copied_saved_and_fitted_again(tmp_path):
    target, options = get_sampler("moons"), dict(num_steps=2, iterations=30, batch_size=64)
    flow = StraightFlow(**options).fit(target, seed=0, progress=False)
    x = flow.sample(100, seed=1)
    flow.save(tmp_path / "flow")
    assert torch.equal(x, StraightFlow.load(tmp_path / "flow").sample(100, seed=1))
    net = flow.velocity.net
    other = copy.deepcopy(net)
    memory = {p.untyped_storage().data_ptr() for p in other.parameters()}
    assert len(memory) == len(list(net.parameters()))  # a copy holds its weights and no more
    again = StraightFlow(network=net, **options).fit(target, seed=0, progress=False)
    assert torch.equal(x, flow.sample(100, seed=1))
    assert not torch.equal(x, again.sample(100, seed=1))
