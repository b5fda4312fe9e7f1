"What every member of the family does: fit, sample, save, load, resume, refuse"

import signal
from pathlib import Path

import pytest
import torch
from toy_method import EnergyGenerator

from nsgf_nb import Flow, Model
from nsgf_nb.cli import main
from nsgf_nb.core import make_generator
from nsgf_nb.data import get_sampler
from nsgf_nb.distances import mmd
from nsgf_nb.family.members import MEMBERS, member_class

HERE = Path(__file__).resolve().parent
POOL = dict(num_steps=2, pool_size=96, group=32)
FEW = dict(iterations=3, batch_size=8)
SMALL = {name: FEW for name in MEMBERS}
SMALL["nsgf"] = FEW | POOL
SMALL["energy"] = FEW | dict(num_steps=2, substeps=2, pool_size=96, group=32)
SMALL["generator"] = FEW | dict(cloud=16, reuse=3)  # a fit stopped after two goes on in a cloud
SMALL["bridge"] = FEW | dict(cloud=16, reuse=2)
SMALL["dsbm"] = dict(bridge=FEW | dict(num_steps=2), rounds=1)
SMALL["jko"] = dict(num_maps=2, map_iterations=3, batch_size=8, bank=40)
SMALL["neural-plan"] = FEW | dict(bank=40)
SMALL["nsgf++"] = dict(sinkhorn=FEW | POOL, straight=FEW)


def made(name):
    "An unfitted model of a method, small and on the CPU"
    if name == "toy":
        return EnergyGenerator(**FEW)
    return member_class(name)(**MEMBERS[name].settled, **SMALL[name], device="cpu")


def fitted(name, **kw):
    return made(name).fit("moons", seed=0, progress=False, **kw)


every_method = pytest.mark.parametrize("name", [*MEMBERS, "toy"])


@every_method
def test_three_steps_a_sample_and_a_file(name, tmp_path):
    model = fitted(name)
    x = model.sample(7, seed=1)
    assert x.shape == (7, 2) and x.isfinite().all() and model.nfe >= 1
    assert model.history[-1]["step"] == (6 if name in ("nsgf++", "dsbm", "jko") else 3)
    again = Model.load(model.save(tmp_path / "model.safetensors"), device="cpu")
    assert type(again) is type(model) and again.history == model.history
    assert torch.equal(again.sample(7, seed=1), x)
    assert torch.equal(Flow.load(tmp_path / "model.safetensors").sample(7, seed=1), x)


@every_method
def test_a_stopped_fit_goes_on_to_the_same_bits(name, tmp_path):
    def stop(row):
        if row["step"] == 2:
            signal.raise_signal(signal.SIGINT)

    model = made(name)
    with pytest.raises(KeyboardInterrupt):
        model.fit("moons", seed=0, workdir=tmp_path, callbacks=[stop], progress=False)
    assert model.velocity is None  # as it was
    model.fit("moons", seed=0, workdir=tmp_path, resume=True, progress=False)
    assert torch.equal(model.sample(7, seed=1), fitted(name).sample(7, seed=1))


@every_method
def test_one_point_is_refused_before_any_work(name):
    model = made(name)
    with pytest.raises(ValueError, match="target: all points are the same") as e:
        model.fit(torch.ones(300, 2), progress=False)
    assert "\n" not in str(e.value) and model.velocity is None


@every_method
def test_the_command_line(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(HERE))
    method = "toy_method:EnergyGenerator" if name == "toy" else name
    words = ["fit", "moons", "--method", method, "--out", "run", "--device", "cpu", "--set"]
    settings = dict(SMALL.get(name, FEW))
    flat = {}
    for key, value in settings.items():
        inner = value if isinstance(value, dict) else {None: value}
        flat |= {key if k is None else f"{key}.{k}": v for k, v in inner.items()}
    assert main([*words, *(f"{k}={v}" for k, v in flat.items())]) == 0
    assert (tmp_path / "run" / "model.safetensors").exists()
    again = ["--method", method] if name == "toy" else []  # no file makes the command import code
    assert main(["sample", "run", "-n", "5", "--device", "cpu", *again]) == 0
    assert "samples.npy" in capsys.readouterr().out


@pytest.mark.parametrize("energy, other", [("kale", "lam=0.5"), ("lipschitz", "L=2.0")])
def test_the_command_line_names_the_energy(energy, other, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small = [f"{name}={value}" for name, value in SMALL["energy"].items()]
    words = ["fit", "moons", "--method", "energy", "--out", "run", "--device", "cpu", "--set"]
    assert main([*words, f"energy={energy}", other, *small]) == 0
    model = Model.load(tmp_path / "run" / "model.safetensors", device="cpu")
    name, value = other.split("=")
    assert model.config["energy"] == energy and model.config[name] == float(value)
    assert main(["fit", "moons", "--method", "energy", "--out", "other", "--set", "energy=kl"]) != 0


def test_the_toy_method_is_short_and_learns():
    assert len((HERE / "toy_method.py").read_text(encoding="utf-8").splitlines()) <= 40
    model = EnergyGenerator(iterations=1000).fit("moons", seed=0, progress=False)
    y = get_sampler("moons")(1000, make_generator(0, "y"))
    before = mmd(model.source(1000, make_generator(0, "x")), y)
    after = mmd(model.sample(1000, seed=0), y)
    assert model.nfe == 1 and after < 0.6 * before
