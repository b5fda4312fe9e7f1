"Samplers of a log-density: shapes, streams, refusals, and the optional flow"

import math
import sys

import pytest
import torch
from torch.distributions import Independent, Normal

from nsgf_nb import (
    Composition,
    Coupling,
    FlexProposal,
    LangevinLayer,
    MetropolisLayer,
    NormalMixture,
    isir,
    mala,
)
from nsgf_nb.core import keep_random_state, make_generator


def bell(x):
    "log of a standard normal density, up to a constant"
    return -x.flatten(1).square().sum(1) / 2


def wide(shape=(1,), scale=2.0):
    "A wider normal law: draws and log-density"
    draw = lambda n, gen: scale * torch.randn(n, *shape, generator=gen)
    return draw, lambda x: -x.flatten(1).square().sum(1) / (2 * scale**2)


def moved(move, x, seed=0):
    gen = make_generator(seed, "test_samplers")
    if move == "mala":
        return mala(x, bell, 0.3, 3, gen)
    return isir(x, bell, *wide(x.shape[1:]), 4, gen)


both = pytest.mark.parametrize("move", ["mala", "isir"])


@both
@pytest.mark.parametrize("shape", [(1,), (3,), (1, 2, 2)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shape_and_dtype_stay_and_the_stream_decides(move, shape, dtype):
    x = torch.zeros(6, *shape, dtype=dtype)
    torch.manual_seed(3)
    state = torch.get_rng_state()
    y, rate = moved(move, x)
    with torch.inference_mode():
        again, _ = moved(move, x.clone())
    assert torch.equal(torch.get_rng_state(), state) and not y.requires_grad
    assert y.shape == x.shape and y.dtype == dtype and 0 <= rate <= 1 and (x == 0).all()
    assert torch.equal(y, again) and not torch.equal(y, moved(move, x, seed=1)[0])


@both
def test_a_normal_law_of_several_dimensions_stays(move):
    "from exact draws; the bounds are five standard deviations"
    x = torch.randn(40_000, 3, generator=make_generator(0, "exact"))
    for seed in range(5):
        x, _ = moved(move, x, seed)
    assert x.mean(0).abs().max() < 5 / 200
    assert (torch.cov(x.T) - torch.eye(3)).abs().max() < 5 * math.sqrt(2 / 40_000)


@both
def test_a_law_with_an_edge_is_not_left(move):
    "where the density is zero, a proposal is refused"
    inside = lambda x: torch.where((x[:, 0] - 0.5).abs() < 0.5, 0 * x[:, 0], -math.inf)
    gen = make_generator(0, "edge")
    x = torch.rand(20_000, 1, generator=gen)
    for _ in range(4):
        if move == "mala":
            x, rate = mala(x, inside, 0.05, 2, gen)
        else:
            x, rate = isir(x, inside, *wide(), 4, gen)
    assert 0.2 < rate < 0.9 and 0 <= x.min() and x.max() <= 1
    assert abs(x.mean() - 0.5) < 5 / math.sqrt(12 * 20_000)
    assert abs(x.var() - 1 / 12) < 5 / math.sqrt(180 * 20_000)


def test_steps_that_end_in_no_number_are_refused():
    "a density that is not computed far out"
    half = lambda x: torch.where(x[:, 0] > 0, -x[:, 0], x[:, 0].log())
    x, rate = mala(torch.ones(2000, 1), half, 1.0, 5, make_generator(0, "nan"))
    assert (x > 0).all() and 0.2 < rate < 0.9


def test_draws_of_a_flexible_proposal_follow_its_density():
    flex = FlexProposal(2, 3.0, NormalMixture(torch.tensor([[2.0, 0.0]]), 0.5))
    x = flex.draw(100_000, make_generator(0, "flex"))
    near = Independent(Normal(torch.tensor([2.0, 0.0]), 0.5), 1)
    share = (near.log_prob(x) - math.log(2) - flex.log_q(x)).exp()  # that x is from the law
    assert share.max() <= 1 + 1e-5 and abs(share.mean() - 0.5) < 0.008
    assert torch.equal(x, flex.draw(100_000, make_generator(0, "flex")))


def test_without_zuko_one_sentence_says_what_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "zuko", None)
    with pytest.raises(ImportError, match="zuko is needed for a normalising flow as prop") as e:
        FlexProposal(2, 3.0)
    assert "pip install 'nsgf_nb[flows]'" in str(e.value) and "\n" not in str(e.value)


def test_a_flow_of_zuko_as_proposal():
    pytest.importorskip("zuko")
    gen = make_generator(0, "zuko")
    flex, x = FlexProposal(2, 3.0, lr=5e-3), torch.randn(500, 2, generator=gen)
    before = flex.fit(x, 1)
    assert flex.fit(x, 100) < before
    _, rate = isir(x, bell, flex.draw, flex.log_q, 5, gen)
    assert rate > 0.4


def test_what_samplers_refuse():
    x = torch.zeros(4, 2)
    draw, log_q = wide((2,))
    one = lambda n, gen: torch.zeros(n, 1)
    few = lambda n, gen: torch.zeros(n - 1, 2)
    nothing = lambda x: x[:, 0] * math.nan
    for call, said in (
        (lambda: mala(x, bell, 0.0, 3), "step: expected a finite number > 0"),
        (lambda: mala(x, bell, 0.1, 0), "num_steps: expected at least 1"),
        (lambda: mala(x, lambda x: x, 0.1, 1), r"logp: expected values of shape \(4,\)"),
        (lambda: mala(x, lambda x: bell(x).log(), 0.1, 1), "logp: expected finite values at x"),
        (lambda: isir(x, bell, draw, log_q, 1), "num: expected at least 2"),
        (lambda: isir(x, bell, one, log_q, 3), r"draw: expected m points like .* got \(8, 1\)"),
        (lambda: isir(x, bell, few, log_q, 3), r"got \(7, 2\)"),
        (lambda: isir(x, bell, draw, lambda x: x, 3), r"log_q: expected values of shape \(12,\)"),
        (lambda: isir(x, bell, draw, nothing, 3), "log_q: expected finite values"),
        (lambda: FlexProposal(2, -1.0, NormalMixture(x)), "wide: expected a finite number > 0"),
        (lambda: NormalMixture(x, 0.0), "scale: expected a finite number > 0"),
    ):
        with pytest.raises(ValueError, match=said) as e:
            call()
        assert "\n" not in str(e.value)


def chain(d=3):
    "A layer of each kind, with weights at random"
    with keep_random_state(0):
        layers = [Coupling(d), LangevinLayer(half, 0.3), Coupling(d, flip=True)]
        for layer in layers[::2]:
            torch.nn.init.normal_(layer.body[-1].weight, std=0.1)
        return Composition([*layers, MetropolisLayer(half, 0.3, 2)])


def half(x):
    "-log of a normal density of variance 2, up to a constant"
    return x.square().sum(1) / 4


@pytest.mark.parametrize("d", [2, 3, 7])
def test_the_mean_of_the_weights_of_paths_is_one(d):
    x = math.sqrt(2) * torch.randn(20_000, d, generator=make_generator(d, "paths"))
    with keep_random_state(1), torch.no_grad():
        z, path = chain(d).along(x, -half(x))
    w = (-path - half(z)).exp()  # the constants are the same
    assert z.shape == x.shape and abs(w.mean() - 1) < 5 * w.std() / math.sqrt(len(w)) < 0.1


def test_a_coupling_keeps_one_half_and_begins_as_the_identity():
    x = torch.randn(5, 3, generator=make_generator(0, "coupling"))
    layer = Coupling(3)
    z, delta = layer(x)
    assert torch.equal(z, x) and (delta == 0).all()
    for kept, layer in zip((slice(0, 1), slice(1, 3)), chain()[:3:2]):
        z, delta = layer(x)
        moved = [i for i in range(3) if i not in range(*kept.indices(3))]
        assert torch.equal(z[:, kept], x[:, kept]) and not torch.isclose(z, x)[:, moved].any()


def test_gradients_pass_along_layers_and_weights_are_kept():
    x = torch.randn(50, 3, generator=make_generator(0, "gradient"))
    flow = Composition(chain()[:3])
    with keep_random_state(2):
        z, path = flow.along(x, bell(x))
    (half(z) + path).mean().backward()
    used = {name for name, p in flow.named_parameters() if p.grad is not None and p.grad.any()}
    assert {"1.raw", "0.body.4.weight", "2.body.0.weight"} <= used
    twin = Composition([Coupling(3), LangevinLayer(half, 0.3), Coupling(3, flip=True)])
    twin.load_state_dict(flow.state_dict())
    for grad in (torch.no_grad, torch.enable_grad):
        with keep_random_state(2), grad():
            assert torch.equal(twin.along(x, bell(x))[1], path)


def test_what_layers_refuse():
    x = torch.zeros(4, 2, requires_grad=True)
    for call, said in (
        (lambda: Coupling(1), "d: expected at least 2, got 1"),
        (lambda: LangevinLayer(half, 0.0), "longest: expected a finite number > 0"),
        (lambda: MetropolisLayer(half, -1.0, 1), "step: expected a finite number > 0"),
        (lambda: MetropolisLayer(half, 1.0, 0), "num_steps: expected at least 1"),
        (lambda: MetropolisLayer(half, 1.0, 1)(x), "expected points without gradient"),
    ):
        with pytest.raises(ValueError, match=said) as e:
            call()
        assert "\n" not in str(e.value)
