"""Models as people have them: copied, pickled, fitted again, shared.

They are called under settings that are not torch's own.
"""

import copy
import inspect
import io
import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from nsgf_nb.core import make_generator
from nsgf_nb.data import affine, get_sampler, points_and_labels
from nsgf_nb.flow import NSGF, Flow
from nsgf_nb.learning.nets import MLP
from nsgf_nb.plusplus import NSGFPlusPlus
from nsgf_nb.straight import StraightFlow, pushed

ROOT = Path(__file__).parent.parent
FAST = dict(iterations=4, batch_size=8)
SMALL = dict(num_steps=2, pool_size=96, group=32, **FAST)
X = torch.randn(200, 2, generator=make_generator(0, "x"))
KINDS = {
    "NSGF": lambda **kw: NSGF(**SMALL, **kw),
    "straight": lambda **kw: StraightFlow(**FAST, **kw),
    "NSGF++": lambda **kw: NSGFPlusPlus(dict(SMALL, **kw), dict(FAST, **kw)),
}


def fit(flow, target=X, source="normal", seed=0, **kw):
    return flow.fit(target, source, seed=seed, progress=False, **kw)


def samples(flow):
    return flow.sample(20, seed=7)


def weights(flow):
    return torch.cat([p.flatten() for p in flow.velocity.parameters()])


def function(n):
    return torch.randn(n, 2)


class Own(nn.Module):
    "A network as a user writes it: parameters in the default dtype, a tensor made on the way"

    def __init__(self):
        super().__init__()
        self.line = nn.Linear(3, 2)

    def forward(self, x, t, label=None):
        return self.line(torch.cat([x, t[:, None] + torch.zeros(len(x), 1)], 1))


# Copies and pickles


@pytest.mark.parametrize("kind", KINDS)
def test_a_fitted_flow_is_pickled_copied_and_kept_by_torch(kind):
    flow = fit(KINDS[kind]())
    file = io.BytesIO()
    torch.save(flow, file)
    file.seek(0)
    for twin in (
        pickle.loads(pickle.dumps(flow)),
        copy.deepcopy(flow),
        copy.copy(flow),
        torch.load(file, weights_only=False),
    ):
        assert torch.equal(samples(twin), samples(flow))
        assert twin.history == flow.history and twin.config == flow.config


def test_a_copy_is_independent_and_leaves_the_pool_behind():
    flow = fit(NSGF(**SMALL))
    before, twin = samples(flow), copy.deepcopy(flow)
    assert not hasattr(twin, "pool") and flow.pool
    fit(twin, X + 5)
    assert torch.equal(samples(flow), before) and not torch.equal(samples(twin), before)


def test_a_flow_on_a_flow_is_pickled():
    first = fit(StraightFlow(**FAST))
    second = fit(StraightFlow(start=first, **FAST))
    assert torch.equal(samples(pickle.loads(pickle.dumps(second))), samples(second))


@pytest.mark.parametrize(
    "make",
    [
        lambda: get_sampler("normal", shape=(2, 3)),
        lambda: get_sampler("moons"),
        lambda: get_sampler("digits"),
        lambda: get_sampler(X),
        lambda: affine(get_sampler("8gaussians"), 2.0, 1.0),
        lambda: get_sampler((X, [0, 1] * 100)),
        lambda: get_sampler(function),
        lambda: pushed(fit(StraightFlow(**FAST))),
        lambda: get_sampler(list(X)),
    ],
)
def test_a_sampler_is_pickled_and_copied(make):
    s = make()
    for twin in (pickle.loads(pickle.dumps(s)), copy.deepcopy(s), copy.copy(s)):
        for a, b in zip(
            points_and_labels(s, 9, make_generator(0, "p")),
            points_and_labels(twin, 9, make_generator(0, "p")),
        ):
            assert a is b is None or torch.equal(a, b)
        assert (twin.shape, twin.name, twin.params, twin.num_points) == (
            s.shape,
            s.name,
            s.params,
            s.num_points,
        )


def test_a_folder_of_images_is_pickled(tmp_path):
    from PIL import Image

    for k in range(3):
        Image.new("L", (2, 2), k).save(tmp_path / f"{k}.png")
    s = get_sampler(tmp_path)
    assert torch.equal(
        pickle.loads(pickle.dumps(s))(3, make_generator(0, "p")), s(3, make_generator(0, "p"))
    )


def test_a_function_that_cannot_be_pickled_says_so():
    with pytest.raises(TypeError, match="<lambda>: expected a function at the top of a module"):
        pickle.dumps(get_sampler(lambda n: torch.randn(n, 2)))


# Fitted again


@pytest.mark.parametrize("kind", KINDS)
def test_a_flow_with_a_network_of_ones_own_is_fitted_again(kind):
    flow = KINDS[kind](network=MLP((2,), 8))
    first = samples(fit(flow))
    assert not torch.equal(samples(fit(flow, X + 3)), first)
    assert torch.equal(samples(fit(flow)), first)  # each fit begins at the beginning


def test_the_users_network_stays_as_it_is():
    net = MLP((2,), 8).train()
    before = copy.deepcopy(net.state_dict())
    flow = fit(StraightFlow(network=net, **FAST))
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert net.training and all(p.requires_grad for p in net.parameters()) and flow.net is not net


def test_two_flows_share_a_network():
    net = MLP((2,), 8)
    one, other = StraightFlow(network=net, **FAST), StraightFlow("ot", network=net, **FAST)
    before = samples(fit(one))
    fit(other, X + 3)
    assert torch.equal(samples(one), before)


def test_a_compiled_network_is_trained_and_loaded_compiled(monkeypatch, tmp_path):
    "A deep copy of a compiled module is not compiled"
    asked, net = [], MLP((2,), 8)
    net.compile(backend="eager")
    monkeypatch.setattr(MLP, "compile", lambda net: asked.append(net))
    flow = fit(StraightFlow(network=net, **FAST))
    assert asked == [flow.net] and flow.net is not net
    again = StraightFlow.load(flow.save(tmp_path / "flow.safetensors"), network=net)
    assert asked == [flow.net, again.net]
    fit(StraightFlow(network=MLP((2,), 8), **FAST))
    assert len(asked) == 2


def test_fine_tuning_begins_at_the_network_of_a_fitted_flow():
    flow = fit(StraightFlow(network=MLP((2,), 8), **FAST))
    before = weights(flow)
    tuned = fit(StraightFlow(network=flow.net, **dict(FAST, iterations=1, ema=0.0), lr=1e-6))
    assert (weights(tuned) - before).abs().max() < 1e-5  # one small step from there
    assert (weights(tuned) - before).abs().max() > 0
    assert torch.equal(weights(flow), before) and not any(
        p.requires_grad for p in flow.net.parameters()
    )


def test_layers_that_are_frozen_stay_frozen():
    net = MLP((2,), 8)
    net.body[0].requires_grad_(False)
    flow = fit(StraightFlow(network=net, **FAST))
    assert torch.equal(flow.net.body[0].weight, net.body[0].weight)
    assert not torch.equal(flow.net.body[2].weight, net.body[2].weight)


def test_a_network_without_parameters_is_refused():
    with pytest.raises(
        ValueError, match="network: expected one with parameters, there is nothing to learn"
    ):
        fit(StraightFlow(network=nn.Identity(), **FAST))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stop", [KeyboardInterrupt, ValueError])
def test_an_interrupted_second_fit_leaves_the_earlier_model(kind, stop):
    flow = fit(KINDS[kind]())
    before, history, source = samples(flow), flow.history, flow.source
    calls = []

    def interrupt(row):
        calls.append(row)
        if len(calls) == 6:
            raise stop("enough")  # NSGF++: in its second phase
        if kind != "NSGF++":
            raise stop("enough")

    with pytest.raises(stop):
        fit(flow, X + 3, None, callbacks=[interrupt])
    assert torch.equal(samples(flow), before)
    assert flow.history == history and flow.source is source


def test_a_second_fit_to_bad_data_leaves_the_earlier_model():
    flow = fit(NSGF(**SMALL))
    before, pool = samples(flow), flow.pool
    with pytest.raises(ValueError, match="group: expected at most 20"):
        fit(flow, X[:20])
    assert torch.equal(samples(flow), before) and flow.pool is pool


def test_an_interrupted_first_fit_leaves_an_unfitted_flow():
    def interrupt(row):
        raise KeyboardInterrupt

    flow = StraightFlow(**FAST)
    with pytest.raises(KeyboardInterrupt):
        fit(flow, callbacks=[interrupt])
    with pytest.raises(ValueError, match="sample: the flow is not fitted"):
        flow.sample(3)


def test_a_flow_that_begins_at_another_keeps_what_it_learned_from():
    first = fit(StraightFlow(**FAST))
    second = fit(StraightFlow(start=first, **FAST))
    before = samples(second)
    fit(first, X + 9)
    assert torch.equal(samples(second), before)


# Numbers of NumPy


def test_numpy_numbers_as_options(tmp_path):
    flow = NSGF(
        num_steps=np.int64(2),
        step_size=np.array([0.5, 1.0]),
        relative_blur=np.array([0.5, 0.1]),
        pool_size=np.int32(96),
        group=np.int64(32),
        iterations=np.int64(4),
        batch_size=np.uint8(8),
        lr=np.float32(0.01),
        ema=np.float32(0.5),
        tol=np.float64(0.01),
        online=np.float32(0.5),
        jitter=np.bool_(False),
        clip=np.float64(1.0),
    )
    fit(flow, seed=np.int64(3))
    again = Flow.load(flow.save(tmp_path / "flow.safetensors"))
    assert torch.equal(
        again.sample(np.int64(5), num_steps=np.int64(2), seed=np.int64(1)), flow.sample(5, seed=1)
    )
    assert again.config["relative_blur"] == (0.5, 0.1) and type(again.config["num_steps"]) is int
    line = fit(
        StraightFlow(
            num_steps=np.int64(2), lr=np.float32(0.01), label_dropout=np.float32(0.2), **FAST
        )
    )
    assert samples(Flow.load(line.save(tmp_path / "line.safetensors"))).shape == (20, 2)
    both = fit(
        NSGFPlusPlus(
            dict(SMALL, num_steps=np.int64(2)),
            FAST,
            step=np.float32(0.5),
            predictor_iterations=np.int64(3),
        )
    )
    assert torch.equal(samples(Flow.load(both.save(tmp_path / "both.safetensors"))), samples(both))


def test_numpy_numbers_as_constants_of_named_sets():
    s = get_sampler("8gaussians", radius=np.float32(4.0), var=np.float64(0.25))
    assert s.params == dict(radius=4.0, var=0.25) and type(s.params["radius"]) is float
    assert get_sampler("normal", shape=np.int64(3), mean=np.float32(1.0))(2).shape == (2, 3)


# The caller's settings


def float64():
    class Default:
        def __enter__(self):
            torch.set_default_dtype(torch.float64)

        def __exit__(self, *_):
            torch.set_default_dtype(torch.float32)

    return Default()


SETTINGS = {
    "no gradients": lambda: torch.set_grad_enabled(False),
    "inference mode": torch.inference_mode,
    "float64": float64,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
}


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("kind", KINDS)
def test_fit_load_and_sample_are_the_same_under_a_setting(kind, setting, tmp_path):
    plain = fit(KINDS[kind]())
    file = plain.save(tmp_path / "plain.safetensors")
    with SETTINGS[setting]():
        other = fit(KINDS[kind]())
        assert samples(other).dtype == torch.float32
        assert torch.equal(samples(other), samples(plain))
        assert torch.equal(samples(Flow.load(file)), samples(plain))
    assert [r["loss"] for r in other.history] == [r["loss"] for r in plain.history]
    assert torch.is_grad_enabled() and torch.get_default_dtype() == torch.float32


@pytest.mark.parametrize("setting", SETTINGS)
def test_log_prob_and_the_pool_are_the_same_under_a_setting(setting):
    flow, nsgf = fit(StraightFlow(**FAST)), NSGF(**SMALL)
    plain, pool = flow.log_prob(X[:5], num_steps=3), nsgf.simulate(X, "normal", progress=False)
    with SETTINGS[setting]():
        assert torch.equal(flow.log_prob(X[:5], num_steps=3), plain)
        assert torch.equal(flow.log_prob(torch.clone(X[:5]), num_steps=3), plain)
        assert torch.equal(nsgf.simulate(X, "normal", progress=False).path(0), pool.path(0))


@pytest.mark.parametrize(
    "name",
    [
        "normal",
        "8gaussians",
        "moons",
        "checkerboard",
        "pinwheel",
        "circles",
        "scurve",
        "swissroll",
        "digits",
    ],
)
def test_samplers_draw_the_same_under_a_default_of_float64(name):
    plain = points_and_labels(get_sampler(name), 9, make_generator(0, "p"))[0]
    with float64():
        other = points_and_labels(get_sampler(name), 9, make_generator(0, "p"))[0]
    assert other.dtype == torch.float32 and torch.equal(other, plain)


@pytest.mark.parametrize("kind", KINDS)
def test_a_network_of_ones_own_in_float64(kind, tmp_path):
    with float64():
        flow = fit(KINDS[kind](network=Own()))
        assert samples(flow).dtype == torch.float32
    assert samples(flow).dtype == torch.float32
    if kind != "NSGF++":
        again = Flow.load(flow.save(tmp_path / "own.safetensors"), network=Own().double())
        assert torch.equal(samples(again), samples(flow))


def test_log_prob_takes_float64_data():
    flow = fit(StraightFlow(**FAST))
    assert torch.allclose(
        flow.log_prob(X[:5].double(), num_steps=3), flow.log_prob(X[:5], num_steps=3)
    )


def test_samples_carry_no_gradients_and_sample_says_so():
    flow = fit(StraightFlow(**FAST))
    x0 = X[:5].clone().requires_grad_()
    assert not flow.sample(x0=x0).requires_grad
    assert flow.velocity(x0, 0.5).requires_grad
    for kind in (Flow, NSGFPlusPlus):
        assert "no gradients" in kind.sample.__doc__


# What README shows


def blocks(path):
    return re.findall(r"^``` ?python\n(.*?)^```", path.read_text(), re.S | re.M)


def visible(path):
    "The code of a page that readers see"
    import json

    cells = json.loads(path.read_text())["cells"]
    code = ["".join(c["source"]) for c in cells if c["cell_type"] == "code"]
    return [c for c in code if not re.search(r"^#\| *(hide|echo: false|default_exp)", c, re.M)]


@pytest.fixture
def quick(monkeypatch):
    "NSGF with small defaults"
    small = dict(pool_size=96, group=32, iterations=4, batch_size=8)
    parameters = inspect.signature(NSGF).parameters
    values = tuple(small.get(k, p.default) for k, p in parameters.items())
    monkeypatch.setattr(NSGF.__init__, "__defaults__", values)


@pytest.mark.parametrize("page, read", [("README.md", blocks), ("nbs/index.ipynb", visible)])
def test_what_is_shown_runs_as_pasted(page, read, quick, tmp_path, monkeypatch):
    code = read(ROOT / page)
    assert len(code) >= 3
    monkeypatch.chdir(tmp_path)
    namespace = dict(__name__="pasted")
    for block in code:
        exec(block, namespace)
    assert namespace["path"].shape == (11, 2048, 2)


# Where there are no locks


WITHOUT_FCNTL = """
import sys, warnings
sys.modules["fcntl"] = None                             # as on Windows
import nsgf_nb.matching.interpolants, nsgf_nb.motion.shards, nsgf_nb.runs.run
import nsgf_nb.cli, nsgf_nb.flow, nsgf_nb.plusplus
from nsgf_nb.processes import locked
small = dict(num_steps=2, pool_size=96, group=32, iterations=4, batch_size=8)
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    flow = nsgf_nb.flow.NSGF(**small).fit("moons", seed=0, workdir=sys.argv[1], progress=False)
    with locked(sys.argv[1]) as one, locked(sys.argv[1]) as other:
        assert one is None and other is None
said = [str(w.message) for w in said if "fcntl" in str(w.message)]
assert said == [
    "this platform has no fcntl: nothing keeps two processes from writing to one folder, "
    "see to it that there is one"
], said
print(flow.sample(3).shape)
"""


def test_the_library_works_without_fcntl_and_says_once_that_it_has_no_locks(tmp_path):
    out = subprocess.run(
        [sys.executable, "-c", WITHOUT_FCNTL, str(tmp_path)], capture_output=True, text=True
    )
    assert out.returncode == 0, out.stderr
    assert out.stdout == "torch.Size([3, 2])\n"


def test_a_network_that_replaces_its_point(tmp_path):
    "skip=-1: what is added to x is f(x) - x; a file keeps it"
    plain, replacing = MLP((2,), 8), MLP((2,), 8, skip=-1.0)
    replacing.load_state_dict(plain.state_dict())
    x, t = X[:4], torch.zeros(4)
    assert torch.allclose(x + replacing(x, t), plain(x, t), atol=1e-6)
    flow = fit(StraightFlow(network=replacing, **FAST))
    flow.save(tmp_path / "flow.safetensors")
    again = type(flow).load(tmp_path / "flow.safetensors")
    assert again.net.config["skip"] == -1.0
    assert torch.equal(again.sample(5, seed=0), flow.sample(5, seed=0))
