"""Flows that learn the labels of their data: what they take, what they refuse, the same bits."""

import pytest
import torch

from nsgf_nb import NSGF, Flow, NSGFPlusPlus, SchrodingerBridge, SinkhornGenerator, StraightFlow
from nsgf_nb.core import make_generator
from nsgf_nb.learning.nets import MLP

FEW = dict(iterations=300, batch_size=64, lr=5e-3, ema=0.9, device="cpu")
POOL = dict(num_steps=3, group=64, pool_size=64 * 20, relative_blur=(1.0, 0.2))
K = 3


def three():
    "Three clouds far apart, and their labels; the last is rare"
    label = torch.tensor([0] * 300 + [1] * 300 + [2] * 100)
    centre = torch.tensor([[-4.0, 0.0], [4.0, 0.0], [0.0, 5.0]])
    x = centre[label] + 0.3 * torch.randn(700, 2, generator=make_generator(0, "three"))
    return x, label


KINDS = {
    "straight": lambda **o: StraightFlow("ot", **FEW, **o),
    "nsgf": lambda **o: NSGF(**FEW, **POOL, **o),
    "nsgf online": lambda **o: NSGF(**FEW, **POOL, online=1.0, **o),
    "generator": lambda **o: SinkhornGenerator(**FEW, cloud=256, **o),
    "bridge": lambda **o: SchrodingerBridge(**FEW, cloud=256, num_steps=10, **o),
}


def nearest(x):
    "Share of points whose nearest centre is that of each class"
    centre = torch.tensor([[-4.0, 0.0], [4.0, 0.0], [0.0, 5.0]])
    return torch.bincount(torch.cdist(x, centre).argmin(1), minlength=K) / len(x)


@pytest.mark.parametrize("kind", KINDS)
def test_a_class_is_what_one_asks_for(kind, tmp_path):
    flow = KINDS[kind](num_classes=K).fit(three(), seed=0, progress=False)
    assert flow.classes == flow.net.config["num_classes"] == K
    for c in range(K):
        assert nearest(flow.sample(300, label=c, seed=1))[c] > 0.8, c
    again = Flow.load(flow.save(tmp_path / "flow.safetensors"), device="cpu")
    asked = dict(x0=flow.source(5, make_generator(0, "x")), label=[0, 1, 2, 0, 1], seed=2)
    assert torch.equal(again.sample(**asked), flow.sample(**asked))
    assert torch.equal(again.sample(9, seed=4), flow.sample(9, seed=4))


def short(kind="straight"):
    "A short fit to the three clouds"
    few = FEW | dict(iterations=3)
    if kind == "straight":
        return StraightFlow(**few, num_classes=K).fit(three(), seed=0, progress=False)
    device = few.pop("device")
    first, second = few | POOL, few | dict(num_classes=K)
    return NSGFPlusPlus(first, second, device=device).fit(three(), seed=0, progress=False)


@pytest.mark.parametrize("kind", ["straight", "nsgf++"])
def test_classes_that_are_not_asked_for_are_drawn(kind):
    "In the shares of the target where the starts are drawn; none for starts that are given"
    flow = short(kind)
    label = getattr(flow, "straight", flow).draw_classes(7000, seed=5)
    shares = torch.bincount(label, minlength=K) / len(label)
    assert (shares - torch.tensor([3, 3, 1]) / 7).abs().max() < 0.02
    again = flow.sample(7000, label=label, seed=5)
    assert torch.equal(flow.sample(7000, seed=5), again)
    x0 = flow.source(6, make_generator(0, "x"))
    assert torch.equal(flow.sample(x0=x0), flow.sample(x0=x0, label=K))  # K: no class


def test_the_paths_of_a_flow_with_classes_are_of_classes_that_are_drawn():
    flow = short()
    f, x = flow.paths(6, 1)
    label = flow.draw_classes(6, 1)
    assert torch.equal(f(x, 0.5), flow.velocity(x, 0.5, label))
    assert not torch.equal(f(x, 0.5), flow.velocity(x, 0.5))


def test_a_flow_without_classes_draws_none():
    few = FEW | dict(iterations=3)
    assert StraightFlow(**few).fit(three(), seed=0, progress=False).draw_classes(5) is None
    bare = StraightFlow(**few, network=MLP((2,), 8, num_classes=K))  # it may know more classes
    assert bare.fit(three(), seed=0, progress=False).draw_classes(5, 0).max() < K


@pytest.mark.parametrize("shares", [[-1.0, 2.0], [0.0, 0.0], ["a"], 3, [float("nan")], {}])
def test_shares_of_a_damaged_file(shares, tmp_path):
    flow = short()
    flow.facts["class_shares"] = shares
    with pytest.raises(ValueError, match="damaged: class_shares: expected shares of the classes"):
        Flow.load(flow.save(tmp_path / "flow.safetensors"), device="cpu")


@pytest.mark.parametrize("kind", KINDS)
def test_labels_that_do_not_fit(kind):
    x, label = three()
    few = KINDS[kind](num_classes=2)
    with pytest.raises(ValueError, match="num_classes: expected at least 3, because a label is 2"):
        few.fit((x, label), progress=False)
    with pytest.raises(ValueError, match="target: expected points with labels"):
        few.fit(x, progress=False)
    with pytest.raises(ValueError, match="num_classes: expected 4, as the network has, got 3"):
        KINDS[kind](num_classes=K, network=MLP((2,), 8, num_classes=4))
    with pytest.raises(ValueError, match="num_classes: expected at least 1, got 0"):
        KINDS[kind](num_classes=0)


@pytest.mark.parametrize("online", [0.0, 1.0])
def test_nsgf_goes_on_with_the_same_bits(online, tmp_path):
    whole = NSGF(**FEW, **POOL, online=online, num_classes=K).fit(three(), seed=0, progress=False)
    rows = []

    def stop(row):
        rows.append(row)
        if row["step"] >= 100:
            raise KeyboardInterrupt("enough")

    options = dict(seed=0, workdir=tmp_path, progress=False)
    flow = NSGF(**FEW, **POOL, online=online, num_classes=K)
    with pytest.raises(KeyboardInterrupt):
        flow.fit(three(), callbacks=[stop], **options)
    flow.fit(three(), resume=True, **options)
    for a, b in zip(whole.velocity.state_dict().values(), flow.velocity.state_dict().values()):
        assert torch.equal(a, b)


def test_nsgf_needs_a_group_for_each_class():
    options = dict(FEW, num_steps=2, group=50, pool_size=150)
    with pytest.raises(ValueError, match="pool_size: expected a group for each of 3 classes"):
        NSGF(**options, num_classes=K).fit(three(), progress=False)
    with pytest.raises(ValueError, match="group: expected at most 100"):
        NSGF(**options | dict(group=101, pool_size=2020), num_classes=K).fit(
            three(), progress=False
        )


def test_a_network_of_ones_own_without_a_number():
    "A module that takes labels and does not say how many: num_classes says it"

    class Own(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.places = torch.nn.Embedding(K + 1, 2)
            self.body = MLP((4,), 64)

        def forward(self, x, t, label=None):
            label = torch.full((len(x),), K) if label is None else label
            return self.body(torch.cat([x, self.places(label)], 1), t)[:, :2]

    torch.manual_seed(0)
    options = FEW | dict(iterations=600)
    flow = StraightFlow(network=Own(), num_classes=K, **options)
    flow.fit(three(), seed=0, progress=False)
    assert nearest(flow.sample(300, label=2, seed=1))[2] > 0.8


def test_both_phases_of_nsgf_plus_plus():
    first = dict(POOL, iterations=50, batch_size=32)
    second = dict(coupling="ot", num_classes=K, iterations=300, batch_size=64, lr=5e-3, ema=0.9)
    flow = NSGFPlusPlus(first, second, device="cpu").fit(three(), seed=0, progress=False)
    assert nearest(flow.sample(300, label=1, seed=1))[1] > 0.8
