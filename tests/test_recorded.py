"Training steps that a GPU repeats; without one, what may be repeated."

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from nsgf_nb.learning import recorded, training
from nsgf_nb.learning.nets import MLP
from nsgf_nb.learning.training import Task, TrainingOptions, train
from nsgf_nb.learning.unet import UNet
from nsgf_nb.processes import batch_part
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
    "Images, and what becomes of them at once: smaller ones"
    g = torch.Generator().manual_seed(step)
    x, t = torch.randn(32, 1, 8, 8, generator=g), torch.rand(32, generator=g)
    label = torch.randint(3, (32,), generator=g)
    here = batch_part(32, part)
    device = next(net.parameters()).device
    return tuple(recorded.sent(z[here], device) for z in (x, t, 0.5 * x, label))


def trained(monkeypatch, repeat, device, **options):
    "Losses and weights of a short training"
    with monkeypatch.context() as m:
        m.setattr(training, "may_be_recorded", lambda net, precision: repeat)
        torch.manual_seed(0)
        net = small_unet().to(device)
        common = dict(iterations=30, batch_size=32, lr=4e-3, warmup=0, device=device)
        history = train(net, Task(rows), TrainingOptions(**common, **options), show=False)
    return [row["loss"] for row in history], [p.detach().cpu() for p in net.parameters()]


OPTIONS = [dict(), dict(precision="bfloat16"), dict(accumulate=2), dict(clip=0.1)]


class Graph:
    "Stands in for a CUDA graph: what was called while it was recorded is called again"

    owner = None  # whose function it repeats

    def replay(self):
        self.owner.loss.copy_(self.owner.learn(*self.owner.batch))


@pytest.fixture
def no_gpu_needed(monkeypatch):
    "Streams that do nothing, and a graph that calls the function again"
    stream = SimpleNamespace(wait_stream=lambda other: None)
    stand_ins = dict(
        get_rng_state=lambda device: torch.get_rng_state(),
        set_rng_state=lambda state, device: torch.set_rng_state(state),
        Stream=lambda device: stream,
        current_stream=lambda device: stream,
        stream=lambda stream: nullcontext(),
        graph=lambda graph, stream: nullcontext(),
        CUDAGraph=Graph,
    )
    for name, stand_in in stand_ins.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)
    record = recorded.Recorded._record

    def owned(self, batch):
        record(self, batch)
        self.graph.owner = self

    monkeypatch.setattr(recorded.Recorded, "_record", owned)


@pytest.mark.parametrize("options", OPTIONS)
def test_places_and_gradients_without_a_gpu(monkeypatch, no_gpu_needed, options):
    "Batches are copied to one place, gradients stay where they are: the same bits"
    (losses, weights), (known, right) = (
        trained(monkeypatch, repeat, "cpu", **options) for repeat in (True, False)
    )
    assert losses[-1] < 0.9 * losses[0]
    assert losses == known and all(map(torch.equal, weights, right))


@pytest.mark.cuda
@needs_gpu
@pytest.mark.parametrize("options", OPTIONS)
def test_a_recorded_training_is_the_training(monkeypatch, options):
    "Dropout, classes, parts of a batch, clipped gradients: the same losses up to rounding"
    (losses, weights), (known, right) = (
        trained(monkeypatch, repeat, "cuda", **options) for repeat in (True, False)
    )
    tol = 2e-2 if "precision" in options else 2e-3
    assert losses[-1] < 0.9 * losses[0]
    assert max(abs(p - q) for p, q in zip(losses, known)) < tol * losses[0]
    off = sum((p - q).square().sum() for p, q in zip(weights, right)).sqrt()
    assert off < 10 * tol * sum(q.square().sum() for q in right).sqrt()


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
