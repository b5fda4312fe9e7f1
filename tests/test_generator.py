"The one-step generator: does it stay, does it shrink, does it go on, what does it refuse"

import math
import signal
from functools import cache

import pytest
import torch
from torch import nn

from nsgf_nb import MLP, OneStep, SinkhornGenerator, SinkhornVelocity, StraightFlow
from nsgf_nb.core import make_generator
from nsgf_nb.data import get_sampler
from nsgf_nb.family.generator import (
    cloud_velocity,
    dual_value,
    shrink_rate,
    unbiased_loss,
)
from nsgf_nb.learning.model import Fit, Model
from nsgf_nb.sets.ends import ends
from nsgf_nb.transport.entropic import sinkhorn_potentials
from nsgf_nb.transport.scale import inner_length

SMALL = dict(cloud=32, batch_size=16, reuse=4, iterations=10, device="cpu")


def kappa(self_term, draws=150, n=64):
    "κ where all clouds have one law: mean and standard error"
    found = []
    for k in range(draws):
        x, y, other = get_sampler("8gaussians")(3 * n, make_generator(k, "kappa")).split(n)
        blur = 0.2 * inner_length(y, other)
        velocity = SinkhornVelocity(blur, self_term=self_term, tol=1e-2)
        x_self = other if self_term == "two_batch" else None
        found.append(shrink_rate(x, cloud_velocity(velocity, x, y, x_self)))
    found = torch.tensor(found)
    return found.mean().item(), found.std().item() / math.sqrt(draws)


def test_two_batches_leave_a_perfect_generator_where_it_is_and_one_shrinks_it():
    mean, error = kappa("two_batch")
    assert abs(mean) <= 3 * error
    mean, error = kappa("same")
    assert mean < -10 * error


# an ellipse: z on a noisy circle, x = c + L z; the optimum is L Lᵀ = A, c = centre
TURN = torch.tensor([[math.cos(0.6), -math.sin(0.6)], [math.sin(0.6), math.cos(0.6)]])
AXES = TURN @ torch.diag(torch.tensor([2.0, 0.5]))
CENTRE = torch.tensor([1.0, -0.5])


def circle(n, generator):
    angle = 2 * math.pi * torch.rand(n, generator=generator)
    return torch.stack([angle.cos(), angle.sin()], 1) + 0.05 * torch.randn(
        n, 2, generator=generator
    )


def ellipse(n, generator):
    return CENTRE + circle(n, generator) @ AXES.T


class Affine(nn.Module):
    "u(z) with z + u(z) = c + L z, in the units of the network"

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 2)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x, t, label=None):
        return self.linear(x)


@cache
def fitted_ellipse(self_term, seed):
    "Errors of the centre and of L Lᵀ, and the ratio of the traces"
    settings = dict(cloud=128, batch_size=128, reuse=1, iterations=400, lr=0.05, ema=0.98)
    model = SinkhornGenerator(
        network=Affine(), blur=0.5, self_term=self_term, device="cpu", **settings
    )
    model.fit(get_sampler(ellipse), get_sampler(circle), seed=seed, progress=False)
    with torch.no_grad():
        corners = model.sample(x0=torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]))
    L = (corners[1:] - corners[0]).T
    cov, right = L @ L.T, AXES @ AXES.T
    centre = (corners[0] - CENTRE).norm().item()
    return (
        centre,
        ((cov - right).norm() / right.norm()).item(),
        (cov.trace() / right.trace()).item(),
    )


def test_no_shrinkage_with_two_batches():
    centre, covariance, trace = fitted_ellipse("two_batch", 0)
    assert centre <= 0.04 and covariance <= 0.03 and abs(trace - 1) < 0.03


def test_the_ellipse_sees_the_bias_of_one_batch():
    assert fitted_ellipse("same", 0)[2] < 0.975


def test_the_loss_has_no_bias_and_is_the_mean_of_potentials():
    g = make_generator(0, "loss")
    x, y = torch.randn(40, 2, generator=g).double(), torch.randn(30, 2, generator=g).double()
    pot = sinkhorn_potentials(x, y, 0.4, tol=1e-10)
    assert abs(dual_value(x, y, 0.4, tol=1e-8) - (pot.f.mean() + pot.g.mean()).item()) < 1e-8
    alike = [torch.randn(4, 24, 2, generator=g) for _ in range(40)]
    values = torch.tensor([unbiased_loss(*clouds, 0.4) for clouds in alike])
    assert abs(values.mean()) <= 3 * values.std() / math.sqrt(40)


def stopped_and_gone_on(make, data, at, folder):
    "Samples of a fit that was stopped after a step, and of one that was not"

    def stop(row):
        if row["step"] == at:
            signal.raise_signal(signal.SIGINT)

    model = make()
    with pytest.raises(KeyboardInterrupt):
        model.fit(data, seed=3, workdir=folder, callbacks=[stop], progress=False)
    model.fit(data, seed=3, workdir=folder, resume=True, progress=False)
    whole = make().fit(data, seed=3, progress=False)
    for row, other in zip(model.history, whole.history, strict=True):
        assert row["loss"] == other["loss"] and row["val"] == other["val"]
    label = 1 if getattr(model.network, "config", {}).get("num_classes") else None
    return (m.sample(20, seed=1, label=label) for m in (model, whole))


# in the middle of a cloud, at its end, in the next one
@pytest.mark.parametrize("at, classes", [(2, False), (4, False), (7, False), (6, True)])
def test_a_stopped_fit_goes_on_in_the_middle_of_a_cloud(at, classes, tmp_path):
    x = torch.randn(200, 2, generator=make_generator(0, "x"))
    data = (x, (x[:, 0] > 0).long()) if classes else x
    network = MLP((2,), 16, num_classes=2) if classes else MLP((2,), 16)
    make = lambda: SinkhornGenerator(network=network, **SMALL)
    a, b = stopped_and_gone_on(make, data, at, tmp_path)
    assert torch.equal(a, b)


def test_goals_serve_for_some_steps():
    model = SinkhornGenerator(network=MLP((2,), 16), **SMALL)
    task = model.task(ends("moons", None, 0), Fit(seed=0))
    net, seen = MLP((2,), 16), []
    for step in range(9):
        task.rows(step, (0, 1), net)
        seen.append(task.memory["goal"].clone())
    same = [torch.equal(a, b) for a, b in zip(seen, seen[1:])]
    assert same == [True, True, True, False] * 2
    parts = [task.rows(5, (i, 4), net) for i in range(4)]
    whole = task.rows(5, (0, 1), net)
    assert torch.equal(torch.cat([p[0] for p in parts]), whole[0])
    assert torch.equal(torch.cat([p[2] for p in parts]), whole[2])


def test_a_plan_inside_each_class():
    g = make_generator(0, "classes")
    label = torch.arange(2000) % 2
    y = torch.randn(2000, 2, generator=g) * 0.3 + torch.tensor([[-3.0, 0.0], [3.0, 0.0]])[label]
    settings = dict(cloud=128, batch_size=128, reuse=10, iterations=200, lr=5e-3, ema=0.9)
    settings |= dict(relative_blur=(1.0, 0.3))
    net = MLP((2,), 64, num_classes=2)
    model = SinkhornGenerator(network=net, device="cpu", **settings)
    model.fit((y, label), seed=0, progress=False)
    for c in (0, 1):
        x = model.sample(500, label=c, seed=1)
        assert abs(x[:, 0].mean() - (-3, 3)[c]) < 0.3 and x[:, 0].std() < 1
    x = model.sample(500, seed=1)  # without a label: both
    assert 0.3 < (x[:, 0] > 0).float().mean() < 0.7
    with pytest.raises(ValueError, match="target: expected points with labels"):
        SinkhornGenerator(network=net, device="cpu", **settings).fit(y, progress=False)


def test_a_start_is_where_it_begins(tmp_path):
    few = dict(iterations=3, batch_size=8, device="cpu")
    teacher = StraightFlow(network=MLP((2,), 16), **few).fit("moons", seed=0, progress=False)
    one = OneStep(teacher, network=MLP((2,), 16), **few).fit("moons", seed=1, progress=False)
    first = []
    model = SinkhornGenerator(start=one, **SMALL | dict(lr=1e-12, ema=0.0))
    model.fit("moons", seed=5, callbacks=[first.append], progress=False)
    assert model.source is one.source and model.origin["start"]["flow"] == "OneStep"
    assert torch.allclose(model.sample(50, seed=2), one.sample(50, seed=2), atol=1e-5)
    again = Model.load(model.save(tmp_path / "model.safetensors"), device="cpu")
    assert torch.equal(again.sample(50, seed=2), model.sample(50, seed=2))
    SinkhornGenerator(start=model, **SMALL).fit("moons", seed=6, progress=False)
    with pytest.raises(ValueError, match="target: expected points of shape .2,., as start knows"):
        model.fit(torch.randn(200, 3), progress=False)
    with pytest.raises(ValueError, match="start and network: expected one of them"):
        SinkhornGenerator(start=one, network="mlp")
    for wrong in (teacher, OneStep(), "moons"):
        with pytest.raises(ValueError, match="start: expected a fitted OneStep or SinkhornGen"):
            SinkhornGenerator(start=wrong)


def test_from_data_to_data():
    model = SinkhornGenerator(network=MLP((2,), 16), **SMALL)
    model.fit("moons", torch.randn(64, 2), seed=0, progress=False)
    assert model.sample(9, seed=0).shape == (9, 2)
    with pytest.raises(ValueError, match="cloud: expected at most 31, half of the source's points"):
        model.fit("moons", torch.randn(63, 2), seed=0, progress=False)


def test_clouds_have_one_size():
    x, y = torch.randn(20, 2), torch.randn(30, 2)
    with pytest.raises(ValueError, match="x and y: expected clouds of one size, got 20, 30"):
        cloud_velocity(SinkhornVelocity(1.0), x, y)
    two = SinkhornVelocity(1.0, self_term="two_batch")
    with pytest.raises(ValueError, match="x, y and x_self: expected clouds of one size"):
        cloud_velocity(two, x, x, y)
    with pytest.raises(ValueError, match="x_self: expected with self_term='two_batch'"):
        cloud_velocity(two, x, x)


@pytest.mark.parametrize(
    "given, said",
    [
        (dict(reuse=0), "reuse: expected at least 1, got 0"),
        (dict(blur=-1.0), "blur: expected a finite number > 0"),
        (dict(relative_blur=(0.3, 0.2, 0.1)), "relative_blur: expected a number or a pair"),
        (dict(self_term="both"), "unknown self_term 'both'"),
        (dict(cloud=1), "cloud: expected at least 2"),
        (dict(cloud=100), "batch_size: expected at most 100, the points of a cloud, got 256"),
        (dict(tol=0.0), "tol: expected a finite number > 0"),
        (dict(label_dropout=2.0), "label_dropout: expected 0"),
        (dict(network="unet"), "unknown network"),
    ],
)
def test_bad_settings_are_refused(given, said):
    with pytest.raises(ValueError, match=said):
        SinkhornGenerator(**given)


def test_one_call_only():
    model = SinkhornGenerator(network=MLP((2,), 16), **SMALL).fit("moons", seed=0, progress=False)
    assert model.sample(5).shape == (5, 2) and model.nfe == 1
    for wrong in (dict(num_steps=2), dict(solver="heun")):
        with pytest.raises(ValueError, match="num_steps and solver: a generator knows one step"):
            model.sample(5, **wrong)


def test_in_many_coordinates_the_network_gives_the_end():
    "Digits: after a few steps the samples do not keep the variance of the noise"
    both = ends("digits", None, 0)
    model = SinkhornGenerator(cloud=64, batch_size=64, iterations=40, ema=0.9, device="cpu")
    model.fit_ends(both, Fit(seed=0, progress=False))
    assert model.net.config["skip"] == -1.0
    x, z = model.sample(500, seed=0), model.source(500, make_generator(0, "z"))
    assert x.var(0).sum() < 0.7 * z.var(0).sum()
