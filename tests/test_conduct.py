"""Conduct: each case of bad input gets one clear sentence, before any work is done.

The estimator never answers NaN, and random states are left alone. The table SENTENCES reads from
top to bottom as what a user is told. What only the command line can be told is in test_cli.py.
"""

import os
import random
import resource
import signal
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

from nsgf_nb.core import check_count, keep_random_state, make_generator, pick_device
from nsgf_nb.data import affine, get_sampler
from nsgf_nb.distances import component_gate, distances, mmd, w2
from nsgf_nb.estimator import SinkhornVelocity
from nsgf_nb.files import load_tensors, save_tensors
from nsgf_nb.flow import NSGF, Flow
from nsgf_nb.learning import model
from nsgf_nb.particles import particle_flow
from nsgf_nb.sinkhorn import sinkhorn_divergence
from nsgf_nb.straight import StraightFlow
from nsgf_nb.transport.entropic import sinkhorn_potentials
from nsgf_nb.velocity import sinkhorn_velocity

SMALL = dict(num_steps=2, pool_size=96, group=32, iterations=3, batch_size=8)
X, NAN, WIDE = torch.randn(8, 2), torch.full((8, 2), float("nan")), torch.randn(8, 3)
HERE = Path(tempfile.mkdtemp())


def normal(n):
    return torch.randn(n, 2)  # a source that is a function


def small(**kw):
    return NSGF(**SMALL | kw)


def fit(target="8gaussians", source=None, **kw):
    return small(**kw).fit(target, source, seed=0, progress=False)


def straight(**kw):
    return StraightFlow(**dict(iterations=3, batch_size=8) | kw).fit(
        "moons", seed=0, progress=False
    )


def saved(flow, name="flow.safetensors"):
    return flow.save(HERE / name)


def altered(change, name="altered.safetensors"):
    "A checkpoint whose facts were changed"
    tensors, facts = load_tensors(saved(straight()), "flow")
    return save_tensors(HERE / name, tensors, facts | change)


def cut_short():
    (HERE / "cut.safetensors").write_bytes(saved(straight()).read_bytes()[:-9])
    return HERE / "cut.safetensors"


def full_disk(work, size=1000):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
        work()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def read_only(work):
    "As the system answers for a folder that may not be written"

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    with pytest.MonkeyPatch.context() as m:
        m.setattr(os, "replace", refuse)
        work()


def without(module, work):
    with pytest.MonkeyPatch.context() as m:
        for name in [n for n in sys.modules if n.split(".")[0] == module]:
            m.delitem(sys.modules, name)
        m.setitem(sys.modules, module, None)
        work()


def other_settings():
    "A fit that is stopped, and resumed with another learning rate"
    folder = Path(tempfile.mkdtemp(dir=HERE))
    stop = lambda row: signal.raise_signal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        small().fit("moons", seed=0, workdir=folder, callbacks=[stop], progress=False)
    small(lr=1e-4).fit("moons", seed=0, workdir=folder, resume=True, progress=False)


SENTENCES = {
    "NaN or inf in data": [
        (lambda: fit(NAN), ValueError, "data: 16 of 16 values are NaN or infinite"),
        (
            lambda: fit(TensorDataset(X / 0)),
            ValueError,
            "data: 16 of 16 values are NaN or infinite",
        ),
        (
            lambda: fit("8gaussians", lambda n: torch.full((n, 2), float("inf"))),
            ValueError,
            "<lambda>: 4 of 4 values are NaN or infinite",
        ),
        (lambda: w2(X, NAN), ValueError, "y: 16 of 16 values are NaN or infinite"),
        (
            lambda: sinkhorn_velocity(NAN, X, 1.0),
            ValueError,
            "x: 16 of 16 values are NaN or infinite",
        ),
        (
            lambda: SinkhornVelocity(1.0)(X, NAN),
            ValueError,
            "y: 16 of 16 values are NaN or infinite",
        ),
        (lambda: straight().sample(x0=NAN), ValueError, "x0: 16 of 16 values are NaN or infinite"),
        (
            lambda: sinkhorn_divergence(X, X, 1.0, a=torch.full((8,), float("nan"))),
            ValueError,
            "a: expected finite non-negative weights with a positive sum",
        ),
    ],
    "wrong shapes": [
        (
            lambda: SinkhornVelocity(1.0)(X, WIDE),
            ValueError,
            "x and y: expected points of the same shape, got (2,) and (3,)",
        ),
        (
            lambda: particle_flow(X, WIDE, SinkhornVelocity(1.0), 2),
            ValueError,
            "x0 and y: expected points of the same shape, got (2,) and (3,)",
        ),
        (
            lambda: mmd(X, X.double()),
            ValueError,
            "x and y: expected points of the same dtype, got torch.float32 and torch.float64",
        ),
        (
            lambda: sinkhorn_potentials(X, X, 1.0, a=torch.ones(7)),
            ValueError,
            "a: expected 8 weights of shape (8,), got shape (7,)",
        ),
        (
            lambda: fit(X[:, 0]),
            ValueError,
            "data: expected points of shape (n, *shape), got shape (8,)",
        ),
        (
            lambda: fit("moons", "digits"),
            ValueError,
            "source and target: expected points of one shape, got (1, 8, 8) and (2,)",
        ),
        (
            lambda: get_sampler((X, torch.zeros(7).long())),
            ValueError,
            "data: expected 8 integer labels, got torch.int64 of shape (7,)",
        ),
        (
            lambda: get_sampler(lambda n: X[:1]),
            ValueError,
            "<lambda>: 2 points asked for, 1 returned",
        ),
        (
            lambda: affine(get_sampler("moons"), torch.ones(3)),
            ValueError,
            "affine: expected scale and shift for points of shape (2,)",
        ),
        (
            lambda: straight().sample(x0=WIDE),
            ValueError,
            "x0: expected points of shape (2,), got (3,)",
        ),
        (
            lambda: small(blur=[1.0, 2.0, 3.0]),
            ValueError,
            "blur: expected one number or 2, one per step, got 3",
        ),
        (
            lambda: small(step_size=[0.5, 0.5, 0.5]),
            ValueError,
            "step_size: expected one number or 2, one per step, got 3",
        ),
    ],
    "empty sets, and too few points": [
        (lambda: fit(X[:0]), ValueError, "data: expected at least 1 point, got 0"),
        (lambda: get_sampler([]), ValueError, "list: expected batches, the iterable is empty"),
        (lambda: w2(X[:0], X), ValueError, "x: expected at least 1 point, got 0"),
        (lambda: get_sampler(X)(9), ValueError, "data: 9 points asked for, the set has 8"),
        (
            lambda: fit(X),
            ValueError,
            "group: expected at most 8, the number of points there are, got 32",
        ),
        (
            lambda: SinkhornVelocity(1.0, self_term="masked")(X[:1], X),
            ValueError,
            "x: a masked self term expected at least 2 points, got 1",
        ),
        (
            lambda: component_gate(get_sampler("moons"), X),
            ValueError,
            "x: the component gate expected at least 20000 samples, got 8",
        ),
        (
            lambda: distances(get_sampler("moons"), X[:1]),
            ValueError,
            "x: expected at least 2 points, got 1",
        ),
    ],
    "blur <= 0, and other numbers out of range": [
        (
            lambda: sinkhorn_potentials(X, X, 0.0),
            ValueError,
            "blur: expected a finite number > 0, got 0",
        ),
        (lambda: SinkhornVelocity(-1.0), ValueError, "blur: expected a finite number > 0, got -1"),
        (lambda: small(blur=-0.5), ValueError, "blur: expected a finite number > 0, got -0.5"),
        (
            lambda: small(relative_blur=(0.5, 0.0)),
            ValueError,
            "relative_blur: expected a finite number > 0, got 0",
        ),
        (lambda: small(blur="wide"), TypeError, "blur: expected a number, got str"),
        (lambda: small(step_size=1.5), ValueError, "step_size: expected 0 < η <= 1, got 1.5"),
        (lambda: small(iterations=0), ValueError, "iterations: expected at least 1, got 0"),
        (lambda: small(lr=float("inf")), ValueError, "lr: expected a finite number > 0, got inf"),
        (
            lambda: small(batch_size=9, accumulate=2),
            ValueError,
            "batch_size: expected a multiple of 2 (processes × accumulate), got 9",
        ),
        (lambda: small(clip=-1), ValueError, "clip: expected a finite number > 0, got -1"),
        (
            lambda: StraightFlow(weight_decay=-0.1),
            ValueError,
            "weight_decay: expected a finite number > 0, got -0.1",
        ),
        (lambda: StraightFlow(patience=0), ValueError, "patience: expected at least 1, got 0"),
        (
            lambda: small(precision="float16", device="cpu"),
            ValueError,
            "precision: float16 needs a CUDA device, expected 'float32' or 'bfloat16' on cpu",
        ),
        (
            lambda: small(pool_size=64),
            ValueError,
            "pool_size: expected at least 3 groups of 32, 96, got 64",
        ),
        (lambda: StraightFlow(num_steps=0), ValueError, "num_steps: expected at least 1, got 0"),
        (
            lambda: get_sampler("moons", noise=-1),
            ValueError,
            "moons: noise: expected a finite number ≥ 0, got -1",
        ),
        (lambda: make_generator(-1, "x"), ValueError, "seed: expected at least 0, got -1"),
    ],
    "integers where floats are needed, and the reverse": [
        (
            lambda: fit(torch.arange(64).view(32, 2)),
            TypeError,
            "data: expected floating point, got torch.int64: convert with .float()",
        ),
        (
            lambda: fit(np.arange(64).reshape(32, 2)),
            TypeError,
            "data: expected floating point, got torch.int64: convert with .astype('float32')",
        ),
        (
            lambda: sinkhorn_divergence(X.long(), X, 1.0),
            TypeError,
            "x: expected floating point, got torch.int64: convert with .float()",
        ),
        (
            lambda: straight().sample(x0=X.int()),
            TypeError,
            "x0: expected floating point, got torch.int32: convert with .float()",
        ),
        (
            lambda: w2(X.numpy(), X),
            TypeError,
            "x: expected a tensor, got ndarray: convert with torch.as_tensor",
        ),
        (lambda: straight().sample(2.5), TypeError, "n: expected an integer, got 2.5"),
        (lambda: small(num_steps=2.0), TypeError, "num_steps: expected an integer, got 2.0"),
        (lambda: check_count(True, "n"), TypeError, "n: expected an integer, got True"),
    ],
    "unknown names, with the nearest match": [
        (
            lambda: fit("moon"),
            ValueError,
            "unknown data set 'moon': did you mean 'moons'? known: normal, 8gaussians,",
        ),
        (
            lambda: get_sampler("moons", nose=0.1),
            ValueError,
            "unknown option of moons 'nose': did you mean 'noise'? known: noise",
        ),
        (
            lambda: small(self_term="two-batch"),
            ValueError,
            "unknown self_term 'two-batch': did you mean 'two_batch'? "
            "known: same, masked, two_batch",
        ),
        (
            lambda: SinkhornVelocity(1.0, backend="desne"),
            ValueError,
            "unknown backend 'desne': did you mean 'dense'? known: auto, dense, stream",
        ),
        (
            lambda: small(precision="bf16"),
            ValueError,
            "unknown precision 'bf16': did you mean 'bfloat16'? known: float32, bfloat16, float16",
        ),
        (
            lambda: StraightFlow("otp"),
            ValueError,
            "unknown coupling 'otp': did you mean 'ot'? known: independent, ot",
        ),
        (
            lambda: straight().sample(2, solver="huen"),
            ValueError,
            "unknown solver 'huen': did you mean 'heun'? known: euler, midpoint, heun",
        ),
        (
            lambda: pick_device("gpu"),
            ValueError,
            "device 'gpu': expected 'cpu', 'cuda', 'cuda:0' or 'mps'",
        ),
        (lambda: pick_device("cuda:99"), ValueError, "device 'cuda:99': this machine has"),
        (lambda: get_sampler(HERE / "none"), FileNotFoundError, "none: no such folder"),
        (
            lambda: get_sampler(5),
            TypeError,
            "data: expected a name, a folder, a tensor, an array, a Dataset, "
            "a DataLoader or a function, got int",
        ),
    ],
    "a point mass where a scale is needed": [
        (
            lambda: fit(torch.ones(50, 2)),
            ValueError,
            "target: all points are the same, and a flow needs a scale: "
            "expected points that differ",
        ),
        (
            lambda: fit("moons", torch.ones(50, 2)),
            ValueError,
            "source: all points are the same, and a relative blur needs a scale: give blur=",
        ),
        (
            lambda: SinkhornVelocity(relative_blur=0.1)(X, torch.ones(8, 2)),
            ValueError,
            "y: expected spread-out points for a relative blur, got all at one place",
        ),
    ],
    "a checkpoint of another class or version, or a damaged one": [
        (
            lambda: NSGF.load(saved(straight())),
            ValueError,
            "flow.safetensors: expected a NSGF, the file holds a StraightFlow",
        ),
        (
            lambda: Flow.load(altered(dict(version=2))),
            ValueError,
            "altered.safetensors: written by another version of nsgf_nb, expected version 1 of",
        ),
        (
            lambda: Flow.load(altered(dict(flow="NSGFPlus"))),
            ValueError,
            "altered.safetensors: written by another version of nsgf_nb, expected version 1 of",
        ),
        (
            lambda: Flow.load(
                save_tensors(HERE / "other.safetensors", {"w": X}, dict(kind="training"))
            ),
            ValueError,
            "other.safetensors: expected a flow, the file holds training",
        ),
        (
            lambda: Flow.load(altered(dict(network=dict(shape=[2], hidden=8)))),
            ValueError,
            "altered.safetensors: the weights do not fit the network",
        ),
        (
            lambda: Flow.load(saved(own_network())),
            ValueError,
            "the network was your own, expected network= with a module like it",
        ),
        (
            lambda: Flow.load(cut_short()),
            ValueError,
            "cut.safetensors: not a readable safetensors file, damaged or cut short",
        ),
        (
            lambda: Flow.load(HERE / "none.safetensors"),
            FileNotFoundError,
            "none.safetensors: no such file",
        ),
        (
            other_settings,
            ValueError,
            "training.safetensors: cannot resume, lr was 0.0078125, is now 0.0001",
        ),
    ],
    "a full disk, a folder that is missing or may not be written": [
        (
            lambda: full_disk(lambda: saved(straight(), "full.safetensors")),
            OSError,
            "full.safetensors: could not be written (File too large); "
            "the file that was there before is intact",
        ),
        (
            lambda: read_only(lambda: saved(straight(), "ro.safetensors")),
            OSError,
            "ro.safetensors: could not be written (Permission denied); "
            "the file that was there before is intact",
        ),
        (
            lambda: straight().save(HERE / "no" / "flow.safetensors"),
            FileNotFoundError,
            "no/flow.safetensors: the folder ",
        ),
        (
            lambda: small().fit("moons", seed=0, workdir=HERE / "no", progress=False),
            FileNotFoundError,
            "no: no such folder",
        ),
        (
            lambda: small().fit("moons", seed=0, resume=True, progress=False),
            ValueError,
            "resume: expected a workdir to resume from",
        ),
    ],
    "a flow that cannot": [
        (
            lambda: NSGF().sample(5),
            ValueError,
            "sample: the flow is not fitted, call fit or load first",
        ),
        (
            lambda: NSGF().save(HERE / "x.safetensors"),
            ValueError,
            "save: the flow is not fitted, call fit or load first",
        ),
        (lambda: straight().sample(), ValueError, "n: expected a number of samples, or x0"),
        (
            lambda: straight().sample(5, x0=X),
            ValueError,
            "n and x0: expected one of them, or n = len(x0) = 8, got n = 5",
        ),
        (
            lambda: fit().sample(5, num_steps=4),
            ValueError,
            "num_steps and solver: this flow knows its field at the times of its 2 own steps, and "
            "euler in 4 asks at others: fit with jitter=True for these",
        ),
        (
            lambda: fit().sample(5, solver="midpoint"),
            ValueError,
            "num_steps and solver: this flow knows its field at the times of its 2 own steps, and "
            "midpoint in 2 asks at others: fit with jitter=True for these",
        ),
        (
            lambda: NSGF.load(saved(fit("moons", normal))).sample(5),
            ValueError,
            "x0: expected points to start from, because the source was a function or data and is "
            "not in the file",
        ),
        (
            lambda: fit(network=lambda x, t: x),
            TypeError,
            "network: expected a module net(x, t, label=None), got function",
        ),
        (
            lambda: particle_flow(X, X, 5, 2),
            TypeError,
            "velocity: expected a SinkhornVelocity or a function v(x, y), got int",
        ),
    ],
    "an extra that is not installed": [
        (
            lambda: without("torchvision", lambda: get_sampler("mnist")),
            ImportError,
            "torchvision.datasets is needed for MNIST: pip install 'nsgf_nb[images]'",
        ),
        (
            lambda: without("torchvision", lambda: get_sampler("cifar10")),
            ImportError,
            "torchvision.datasets is needed for CIFAR10: pip install 'nsgf_nb[images]'",
        ),
    ],
}


class Own(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.line = torch.nn.Linear(2, 2)

    def forward(self, x, t, label=None):
        return self.line(x)


def own_network():
    return straight(network=Own())


CASES = [
    pytest.param(*case, id=f"{title}-{i}")
    for title, cases in SENTENCES.items()
    for i, case in enumerate(cases)
]


@pytest.mark.parametrize("call, kind, sentence", CASES)
def test_bad_input_gets_one_sentence(call, kind, sentence):
    with pytest.raises(kind) as e:
        call()
    said = str(e.value)
    assert sentence in said and "\n" not in said


@pytest.mark.parametrize(
    "change",
    [dict(ema=1.0), dict(ema="slow"), dict(tol=0), dict(lr=0), dict(self_term="no"), dict(blur=0)],
    ids=str,
)
def test_no_work_is_done_before_the_sentence(change, monkeypatch):
    "Hyper-parameters are refused by the constructor"
    monkeypatch.setattr(model, "train", lambda *_, **__: pytest.fail("training began"))
    with pytest.raises((ValueError, TypeError)):
        small(**change)


def test_ctrl_c_saves_and_a_resumed_fit_equals_a_whole_one(tmp_path):
    kw = dict(seed=3, progress=False)
    whole = small(iterations=12).fit("moons", **kw)
    stop = lambda row: row["step"] == 5 and signal.raise_signal(signal.SIGINT)
    with pytest.raises(
        KeyboardInterrupt,
        match=r"stopped after step 5 of 12, saved to .*training.safetensors: resume to go on",
    ):
        small(iterations=12).fit("moons", workdir=tmp_path, callbacks=[stop], **kw)
    again = small(iterations=12).fit("moons", workdir=tmp_path, resume=True, **kw)
    assert all(torch.equal(p, q) for p, q in zip(whole.net.parameters(), again.net.parameters()))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize(
    "make", [small, lambda **kw: StraightFlow(**dict(batch_size=8) | kw)], ids=["nsgf", "fm"]
)
def test_a_resumed_fit_remembers_the_best_row(tmp_path, make):
    "With patience, decay, clipping, bfloat16 and parts: the same bits, training stops at one row"
    new, kw = (
        lambda: make(
            iterations=300,
            lr=0.05,
            patience=5,
            weight_decay=0.01,
            clip=1.0,
            accumulate=2,
            precision="bfloat16",
        ),
        dict(seed=3, progress=False),
    )
    whole = new().fit("moons", **kw)
    end = whole.history[-1]["step"]
    best = min(whole.history, key=lambda row: row["val"])["step"]
    assert best < end == best + 5 * 3 < 300
    stop = lambda row: row["step"] == best + 6 and signal.raise_signal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        new().fit("moons", workdir=tmp_path, callbacks=[stop], **kw)
    again = new().fit("moons", workdir=tmp_path, resume=True, **kw)
    assert (
        all(torch.equal(p, q) for p, q in zip(whole.net.parameters(), again.net.parameters()))
        and again.history[-1]["step"] == end
    )


def test_a_pool_that_moves_is_the_same_after_a_stop(tmp_path):
    "Groups replaced before the stop are simulated again, those after it as they would have been"
    new, kw = lambda: small(online=0.5, iterations=100, batch_size=16), dict(seed=3, progress=False)
    whole = new().fit("moons", **kw)
    stop = lambda row: row["step"] == 57 and signal.raise_signal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        new().fit("moons", workdir=tmp_path, callbacks=[stop], **kw)
    again = new().fit("moons", workdir=tmp_path, resume=True, **kw)
    assert (
        all(torch.equal(p, q) for p, q in zip(whole.net.parameters(), again.net.parameters()))
        and not (tmp_path / "pool").exists()
    )


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_float16_on_a_gpu_goes_on_with_its_scale(tmp_path):
    "Bits are not promised on a GPU: the losses are"
    new, kw = (
        lambda **kw: StraightFlow(iterations=100, batch_size=64, device="cuda", **kw),
        dict(seed=3, progress=False),
    )
    full, whole = new().fit("moons", **kw), new(precision="float16").fit("moons", **kw)
    stop = lambda row: row["step"] == 50 and signal.raise_signal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        new(precision="float16").fit("moons", workdir=tmp_path, callbacks=[stop], **kw)
    assert (
        load_tensors(tmp_path / "training.safetensors", "training")[1]["facts"]["scaler"][
            "_growth_tracker"
        ]
        > 0
    )
    again = new(precision="float16").fit("moons", workdir=tmp_path, resume=True, **kw)
    for a, b, tol in ((whole, full, 0.05), (again, whole, 0.01)):
        assert a.history[-1]["loss"] == pytest.approx(b.history[-1]["loss"], rel=tol)


def test_the_estimator_says_so_when_it_does_not_converge():
    "Never NaN, and never more claimed than was reached"
    x, y = (
        3.5 * torch.randn(300, 2, generator=make_generator(0, "x")),
        get_sampler("8gaussians")(300, make_generator(0, "y")),
    )
    with pytest.warns(
        UserWarning, match=r"Sinkhorn stopped at an estimated error of .* \(max_iter 5\)"
    ):
        v, info = SinkhornVelocity(0.01, max_iter=5)(x, y, return_info=True)
    assert v.isfinite().all() and not info.converged
    for scale in (1e-6, 1.0, 1e6):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            v, info = SinkhornVelocity(1e-3 * scale)(scale * x, scale * y, return_info=True)
        assert v.isfinite().all() and (info.converged or info.err_v > 0)


def test_the_global_random_state_is_left_alone(tmp_path):
    "By fitting, sampling, saving, loading, measuring, drawing data"

    def state():
        return torch.get_rng_state().tolist(), str(np.random.get_state()), random.getstate()

    def function(n):
        return torch.randn(n, 2) * np.random.rand() + random.random()

    before = state()
    for flow in (fit("moons", function), straight()):
        flow.sample(5)
        flow.sample(5, seed=1)
        Flow.load(saved(flow))
    get_sampler(TensorDataset(X))(4)
    get_sampler("8gaussians")(5)
    get_sampler("digits")(5)
    distances(get_sampler("moons"), get_sampler("moons")(40), n=20, pairs=2)
    assert state() == before


def test_the_global_random_state_does_not_matter():
    "The same seed gives the same flow and the same samples, whatever was drawn before"
    out = []
    for seed in (1, 2):
        with keep_random_state(seed):
            out.append(fit("moons", normal).sample(20, seed=4))
    assert torch.equal(*out)


def test_nothing_in_a_file_is_executed(tmp_path):
    "A pickle in place of a checkpoint is not opened"

    class Bomb:
        def __reduce__(self):
            return (os.system, (f"touch {tmp_path / 'ran'}",))

    torch.save(Bomb(), tmp_path / "bomb.safetensors")
    with pytest.raises(ValueError, match="not a readable safetensors file"):
        Flow.load(tmp_path / "bomb.safetensors")
    assert not (tmp_path / "ran").exists()
