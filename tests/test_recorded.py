"Training steps that a GPU repeats; without one, what may be repeated."

import pytest
import torch
from torch import nn

from nsgf_nb.learning import recorded, training
from nsgf_nb.learning.nets import MLP
from nsgf_nb.learning.training import Task, TrainingOptions, train
from nsgf_nb.learning.unet import UNet
from nsgf_nb.straight import StraightFlow

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def test_nothing_is_recorded_on_a_cpu():
    assert not recorded.may_be_recorded(MLP((2,)), "float32")


def test_what_is_sent_to_a_cpu_is_there():
    z = torch.arange(3.0)
    assert torch.equal(recorded.sent(z, "cpu"), z)


@pytest.mark.cuda
@needs_gpu
def test_a_network_of_ones_own_is_not_recorded():
    "Nobody knows what its Python does"
    assert recorded.may_be_recorded(MLP((2,)).cuda(), "bfloat16")
    assert not recorded.may_be_recorded(MLP((2,)).cuda(), "float16")
    assert not recorded.may_be_recorded(nn.Linear(2, 2).cuda(), "float32")


def small_unet():
    return UNet((1, 8, 8), channels=16, multipliers=(1, 2), dropout=0.5, num_classes=3)


def rows(step, part, net):
    g = torch.Generator().manual_seed(step)
    x, t = torch.randn(32, 1, 8, 8, generator=g), torch.rand(32, generator=g)
    label = torch.randint(3, (32,), generator=g)
    here = slice(part[0], None, part[1])
    return tuple(recorded.sent(z[here], "cuda") for z in (x, t, x.flip(2), label))


def trained(monkeypatch, repeat, **options):
    "Losses and weights of a short training"
    with monkeypatch.context() as m:
        if not repeat:
            m.setattr(training, "may_be_recorded", lambda net, precision: False)
        torch.manual_seed(0)
        net = small_unet().cuda()
        options = TrainingOptions(iterations=60, batch_size=32, lr=1e-3, device="cuda", **options)
        history = train(net, Task(rows), options, show=False)
    return [row["loss"] for row in history], [p.detach().cpu() for p in net.parameters()]


@pytest.mark.cuda
@needs_gpu
@pytest.mark.parametrize(
    "options", [dict(), dict(precision="bfloat16"), dict(accumulate=2), dict(clip=0.1)]
)
def test_a_recorded_training_is_the_training(monkeypatch, options):
    "Dropout, classes, parts of a batch, clipped gradients: the same losses up to rounding"
    (losses, weights), (known, right) = (trained(monkeypatch, r, **options) for r in (True, False))
    tol = 2e-2 if "precision" in options else 2e-3
    assert losses[-1] < 0.9 * losses[0]
    assert max(abs(p - q) for p, q in zip(losses, known)) < tol * losses[0]
    off = sum((p - q).square().sum() for p, q in zip(weights, right)).sqrt()
    assert off < 5 * tol * sum(q.square().sum() for q in right).sqrt()


@pytest.mark.cuda
@needs_gpu
def test_a_fit_is_recorded(monkeypatch):
    "What a user calls; its network samples afterwards"
    made, new = [], recorded.Recorded.__init__

    def noted(self, *args):
        made.append(self)
        new(self, *args)

    monkeypatch.setattr(recorded.Recorded, "__init__", noted)
    flow = StraightFlow(iterations=300, batch_size=128, device="cuda").fit(
        "moons", seed=0, progress=False
    )
    assert len(made) == 1 and made[0].shapes is not None
    x = flow.sample(500, seed=1)
    assert x.isfinite().all() and x.std() > 0.3
