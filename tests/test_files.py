"""Every kind of file, changed in hundreds of ways: one sentence with its name.

Nothing is executed, nothing fetched, nothing accepted that a checksum covers.
"""

import json
import pickle
import random
import signal
import socket
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save as to_bytes
from torch import nn

from nsgf_nb.cli import main
from nsgf_nb.data import get_sampler
from nsgf_nb.estimator import SinkhornVelocity
from nsgf_nb.evaluation import classifier
from nsgf_nb.family.bridge import SchrodingerBridge
from nsgf_nb.family.dsbm import DSBM
from nsgf_nb.family.energy_flow import EnergyFlow
from nsgf_nb.family.generator import SinkhornGenerator
from nsgf_nb.family.jko_flow import JKOFlow
from nsgf_nb.family.neural_plan import NeuralPlan
from nsgf_nb.family.plan import EntropicPlan
from nsgf_nb.family.trajectory import Trajectory
from nsgf_nb.files import load_tensors, read_header, read_json, reading, save_tensors
from nsgf_nb.flow import NSGF
from nsgf_nb.learning.model import Flow
from nsgf_nb.learning.nets import MLP
from nsgf_nb.motion.shards import build_shards, describe_pool, open_pool, verify_pool
from nsgf_nb.motion.simulation import Simulation
from nsgf_nb.plusplus import NSGFPlusPlus
from nsgf_nb.runs.inputs import open_data
from nsgf_nb.runs.report import summary
from nsgf_nb.runs.run import fit_run, load_run, read_history
from nsgf_nb.runs.settings import make_settings, read_settings
from nsgf_nb.sets.snapshots import snapshots
from nsgf_nb.straight import StraightFlow

ROOT = Path(__file__).resolve().parent.parent
SMALL = dict(num_steps=2, group=64, pool_size=256, iterations=40, batch_size=32)
LINES = dict(num_steps=2, iterations=40, batch_size=32)
KIND = dict(
    nsgf="flow",
    straight="flow",
    plusplus="flow",
    generator="flow",
    bridge="flow",
    dsbm="flow",
    neural="flow",
    energy="flow",
    jko="flow",
    trajectory="flow",
    plan="plan",
    state="training",
    memory="training",
    shard="pool shard",
    lenet="lenet",
)


def points(n=200, seed=0):
    return torch.randn(n, 2, generator=torch.Generator().manual_seed(seed))


def stopped(flow, folder, target, step=36, source=None):
    "A fit that Ctrl-C stops: its state stays in the folder"

    def stop(row):
        if row["step"] == step:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        flow.fit(target, source, seed=0, workdir=folder, callbacks=[stop], progress=False)


def tiny():
    "A small network of the package: a flow that it knows how to build again"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return MLP((2,), hidden=8, layers=2)


def cloud_keeper():
    "Its state holds what its goals are made of, too"
    return SinkhornGenerator(iterations=40, batch_size=32, cloud=64, network=tiny())


def members(home, x):
    "A file of each other member of the family, and tables of times"
    short = dict(iterations=3, batch_size=32)
    small = dict(num_steps=2, network=tiny(), **short)
    bridge = dict(cloud=64, **small)
    pool = dict(pool_size=96, group=32, substeps=1)
    models = dict(
        generator=SinkhornGenerator(cloud=64, network=tiny(), **short),
        bridge=SchrodingerBridge(**bridge),
        dsbm=DSBM(small, rounds=1),
        neural=NeuralPlan(num_steps=2, bank=16, blur=0.2, **short),
        energy=EnergyFlow(**pool, **small),
    )
    for name, model in models.items():
        model.fit(x, "normal", seed=0, progress=False).save(home / f"{name}.safetensors")
    trajectory = Trajectory(dict(method="ot-cfm", num_steps=2, network="mlp", **short))
    trajectory.fit({0: "normal", 1: x, 3: x + 1}, seed=0, progress=False)
    trajectory.save(home / "trajectory.safetensors")
    EntropicPlan(x[:30], x[30:50], 0.5).save(home / "plan.safetensors")
    (home / "memory").mkdir()
    stopped(cloud_keeper(), home / "memory", x)
    table = dict(day=np.repeat([0.0, 1.0], 20), a=x[:40, 0].numpy(), b=x[:40, 1].numpy())
    np.savez(home / "cells.npz", **table)
    np.save(home / "cells.npy", np.rec.fromarrays(list(table.values()), names=list(table)))
    rows = [",".join(table), *(",".join(map(str, row)) for row in zip(*table.values()))]
    (home / "cells.csv").write_text("\n".join(rows))


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    "One file of each kind, and how its users read it"
    home = tmp_path_factory.mktemp("shop")
    x = points()
    NSGF(**SMALL, network=tiny()).fit(x, "normal", seed=0, progress=False).save(
        home / "nsgf.safetensors"
    )
    StraightFlow(**LINES, network=tiny()).fit(x, "normal", seed=0, progress=False).save(
        home / "straight.safetensors"
    )
    both = NSGFPlusPlus(
        NSGF(**SMALL, network=tiny()),
        StraightFlow(**LINES, network=tiny()),
        predictor="network",
        predictor_iterations=3,
    )
    both.fit(x, "normal", seed=0, progress=False).save(home / "plusplus.safetensors")
    (home / "work").mkdir()
    stopped(StraightFlow(**LINES, network=tiny()), home / "work", x)
    simulation = Simulation(
        get_sampler("normal"), get_sampler("moons"), SinkhornVelocity(1.0), 2, group=16
    )
    build_shards(simulation, home / "pool", 32, show=False)
    (home / "lenet.safetensors").write_bytes(
        (ROOT / "nsgf_nb" / "weights" / "lenet-mnist.safetensors").read_bytes()
    )
    (home / "run").mkdir()
    flow, settings = make_settings("moons", "fm", options=LINES | dict(network="mlp"), device="cpu")
    fit_run(flow, settings, home / "run")
    numbers = {
        f"{k}{end}": 0.1 for k in ("w2", "mmd") for end in ("", "_sd", "_floor", "_floor_sd")
    }
    told = read_json(home / "run" / "metrics.json") | dict(
        distances=numbers | dict(n=100, pairs=10), nfe=10
    )
    (home / "run" / "metrics.json").write_text(json.dumps(told, indent=1))
    np.save(home / "points.npy", x.numpy())
    members(home, x)
    (home / "images").mkdir()
    for i in range(3):
        Image.fromarray(np.random.default_rng(i).integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(
            home / "images" / f"{i}.png"
        )
    return home


def lenet(path):
    "The classifier that is in this file"
    return classifier.read_classifier(path)


def verified(folder):
    describe_pool(folder)
    open_pool(folder)
    bad = verify_pool(folder)
    if bad:
        raise ValueError("; ".join(f"{folder / name}: {what}" for name, what in bad.items()))


def shown(file):
    with reading(file):
        return summary(read_json(file))


def sampled(file):
    return Flow.load(file, device="cpu").sample(3, seed=0)


def walked(file):
    "A trajectory, and no other model, answers"
    model = Trajectory.load(file, device="cpu")
    model.sample(3, seed=0, times=[0.5, 2.0])
    model.velocity(points(), 0.5)


def asked(file):
    "A plan answers"
    plan, x = EntropicPlan.load(file), points()[:3]
    plan.map(x), plan.back(x), plan.resample(x), plan.masses(x), plan.sample_bridge(x, 2)


def of_times(file):
    samplers = snapshots(file).standard
    return samplers[next(iter(samplers))](3)


FILES = {  # name -> where it stands in the shop, how it is read
    "nsgf": ("nsgf.safetensors", sampled),
    "straight": ("straight.safetensors", sampled),
    "plusplus": ("plusplus.safetensors", sampled),
    "generator": ("generator.safetensors", sampled),
    "bridge": ("bridge.safetensors", sampled),
    "dsbm": ("dsbm.safetensors", sampled),
    "neural": ("neural.safetensors", sampled),
    "energy": ("energy.safetensors", sampled),
    "trajectory": ("trajectory.safetensors", walked),
    "plan": ("plan.safetensors", asked),
    "memory": (
        "memory/training.safetensors",
        lambda p: cloud_keeper().fit(
            points(), seed=0, workdir=p.parent, resume=True, progress=False
        ),
    ),
    "table": ("cells.csv", of_times),
    "arrays": ("cells.npz", of_times),
    "named columns": ("cells.npy", of_times),
    "state": (
        "work/training.safetensors",
        lambda p: StraightFlow(**LINES, network=tiny()).fit(
            points(), seed=0, workdir=p.parent, resume=True, progress=False
        ),
    ),
    "shard": ("pool/shard-00001.safetensors", lambda p: verified(p.parent)),
    "lenet": ("lenet.safetensors", lenet),
    "manifest": ("pool/manifest.json", lambda p: verified(p.parent)),
    "config": ("run/config.json", lambda p: load_run(p.parent, "cpu")),
    "metrics": ("run/metrics.json", shown),
    "history": ("run/history.csv", read_history),
    "points": ("points.npy", lambda p: open_data(str(p))(3)),
    "image": ("images/1.png", lambda p: get_sampler(p.parent)(3)),
}

ODD = [
    None,
    True,
    -1,
    0,
    1.5,
    10**12,
    10**400,
    float("nan"),
    float("inf"),
    "x",
    "",
    "mnist",
    [],
    {},
    [1, 2],
    {"a": 1},
    "deep",
]


def deep(text, depth):
    return text.replace('"deep"', "[" * depth + "]" * depth)


def edited(value, rng):
    "A JSON value with one place changed, or left out"
    places = []

    def walk(v):
        for k in v if isinstance(v, dict) else range(len(v)):
            places.append((v, k))
            if isinstance(v[k], (dict, list)):
                walk(v[k])

    value = json.loads(json.dumps(value))
    walk(value)
    where, key = rng.choice(places)
    if rng.random() < 0.2:
        del where[key]
    else:
        where[key] = rng.choice(ODD)
    return value


def old_style(tensors, facts):
    return to_bytes(tensors, metadata={"facts": deep(json.dumps(facts), 300)})


def swapped(data, rng):
    "Two tensors of a size change places: their bytes, or their names"
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    places = {k: tuple(v["data_offsets"]) for k, v in header.items() if k != "__metadata__"}
    pairs = [
        (a, b)
        for a in places
        for b in places
        if a < b and places[a][1] - places[a][0] == places[b][1] - places[b][0] > 0
    ]
    pairs = [
        (a, b)
        for a, b in pairs
        if data[end + places[a][0] : end + places[a][1]]
        != data[end + places[b][0] : end + places[b][1]]
    ]
    a, b = rng.choice(pairs)
    if rng.random() < 0.5:
        out = bytearray(data)
        (i, j), (k, m) = places[a], places[b]
        out[end + i : end + j], out[end + k : end + m] = (
            data[end + k : end + m],
            data[end + i : end + j],
        )
        return bytes(out)
    header[a], header[b] = header[b], header[a]
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data[end:]


def changed_tensor(tensors, rng):
    "One tensor of other values, shape or kind, or none"
    tensors, name = dict(tensors), rng.choice(sorted(tensors))
    v = tensors.pop(name)
    how = rng.randrange(6)
    if how == 0:
        tensors[name] = torch.full_like(v.float(), float("nan"))
    elif how == 1:
        tensors[name] = torch.cat([v.flatten(), v.flatten()])
    elif how == 2:
        tensors[name] = v.flatten()[:0]
    elif how == 3:
        tensors[name] = v.to(torch.complex64)
    elif how == 4:
        tensors["x" + name] = v
    return tensors


class Bomb:
    "Writes a file when it is unpickled"

    def __init__(self, flag):
        self.flag = str(flag)

    def __reduce__(self):
        return open, (self.flag, "w")


def foreign(home, rng, path):
    "Something else under the name"
    how = rng.randrange(8)
    if how == 0:
        path.write_bytes(b"")
    elif how == 1:
        path.write_bytes(rng.randbytes(rng.randrange(1, 3000)))
    elif how == 2:
        path.write_bytes(pickle.dumps(Bomb(home / "executed")))
    elif how == 3:
        torch.save({"w": torch.zeros(2)}, path)
    elif how == 4:
        with zipfile.ZipFile(path, "w") as z:
            z.writestr("a", "b")
    elif how == 5:
        path.write_text("step,loss\n1,2,3\n\x00")
    elif how == 6:
        path.write_bytes((home / rng.choice([at for at, _ in FILES.values()])).read_bytes())
    else:
        np.save(
            path.open("wb"), np.array([Bomb(home / "executed")], dtype=object), allow_pickle=True
        )


def oversized(kind, data, rng):
    "A header that promises more than there is, or nests too deep"
    nested = ("[" * 10**5).encode()
    if kind not in KIND and kind not in ("points", "image"):
        return rng.choice([nested, b'{"a": ' + nested, b'{"a": ' + b"9" * 10**5 + b"}"])
    if kind == "points":
        return data.replace(
            b"(200, 2), }            ",
            rng.choice([b"(1000000000000, 2), }  ", b"(-7, 2), }            "]),
        )
    if kind == "image":
        return data[:16] + (2**30).to_bytes(4, "big") * 2 + data[24:]
    how = rng.randrange(5)
    if how == 0:
        return rng.choice([2**40, 2**63, 10**9]).to_bytes(8, "little") + data[8:]
    if how == 1:
        return (len(nested)).to_bytes(8, "little") + nested
    huge = {"w": {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 4 * 10**12]}}
    if how == 2:
        return (lambda text: len(text).to_bytes(8, "little") + text)(json.dumps(huge).encode())
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    facts = json.loads(header["__metadata__"]["facts"])
    if how == 3:
        text = deep(json.dumps(facts | dict(config="deep", facts="deep", history="deep")), 10**5)
    else:
        large = dict(
            kind="MLP",
            shape=[2],
            hidden=rng.choice([8, 10**9]),
            layers=rng.choice([2, 10**5]),
            num_features=32,
            num_classes=rng.choice([None, 10**12]),
        )
        text = json.dumps(facts | dict(network=large, settings=dict(num_groups=10**12)))
    header["__metadata__"] = dict(facts=text)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data[end:]


def mutate(home, kind, path, rng):
    "Change the file; how"
    data, sealed = path.read_bytes(), kind in KIND
    hows = (
        ["flip", "flip", "cut", "foreign", "oversized"]
        + ["swap", "facts", "facts", "tensors"] * sealed
        + ["json", "json"] * path.name.endswith(".json")
    )
    how = rng.choice(hows)
    if how == "flip":
        out = bytearray(data)
        i = rng.randrange(len(out)) if rng.random() < 0.5 else rng.randrange(min(len(out), 2000))
        out[i] ^= 1 << rng.randrange(8)
        path.write_bytes(out)
    elif how == "cut":
        path.write_bytes(data[: rng.randrange(len(data))])
    elif how == "swap":
        path.write_bytes(swapped(data, rng))
    elif how == "foreign":
        foreign(home, rng, path)
    elif how == "oversized":
        path.write_bytes(oversized(kind, data, rng))
    elif how == "json":
        path.write_text(deep(json.dumps(edited(json.loads(data), rng)), 300))
    else:
        tensors, facts = load_tensors(path, KIND[kind])
        tensors = {k: v.clone() for k, v in tensors.items()}
        if how == "facts":
            facts = edited(facts, rng)
        else:
            tensors = changed_tensor(tensors, rng)
        # without checksums: it comes to what stands in it
        path.write_bytes(old_style(tensors, facts))
    return how


def attack(home, count, seed):
    "Change files and read them: what came of it, by kind and change"
    rng, outcomes, raw = random.Random(seed), Counter(), []
    for n in range(count):
        kind = list(FILES)[n % len(FILES)]
        at, read = FILES[kind]
        path = home / at
        good = path.read_bytes()
        try:
            how = mutate(home, kind, path, rng)
            if path.read_bytes() == good:
                continue
            try:
                read(path)
                outcome = "accepted"
            except (ValueError, TypeError, OSError, ImportError) as e:
                outcome = "refused" if path.name in str(e) or path.parent.name in str(e) else "raw"
                if outcome == "raw":
                    raw.append((n, kind, how, type(e).__name__, str(e)[:200]))
            except Exception as e:
                outcome = "raw"
                raw.append((n, kind, how, type(e).__name__, str(e)[:200]))
            outcomes[kind, how, outcome] += 1
        finally:
            path.write_bytes(good)
    return outcomes, raw


@pytest.fixture
def no_network(monkeypatch):
    "Every attempt to reach the network is refused, and counted"
    tries = []

    def refuse(*args, **kw):
        tries.append(args)
        raise OSError("the network is not to be reached")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    return tries


def fought(home, count, seed, tries):
    outcomes, raw = attack(home, count, seed)
    assert not raw, f"{len(raw)} raw exceptions: " + "\n".join(map(str, raw[:20]))
    accepted = {
        k: n
        for k, n in outcomes.items()
        if k[2] == "accepted"
        and k[0] in KIND
        and k[0] != "lenet"
        and k[1] in ("flip", "cut", "swap")
    }
    assert not accepted and not tries and not (home / "executed").exists()
    refused = {k[0] for k in outcomes if k[2] == "refused"}
    assert refused == set(FILES)
    return outcomes


def test_files_that_are_whole_are_read(shop, no_network):
    for at, read in FILES.values():
        read(shop / at)
    assert not no_network


@pytest.mark.filterwarnings("ignore")
def test_changed_files(shop, no_network):
    fought(shop, 520, 0, no_network)


@pytest.mark.filterwarnings("ignore")
def test_changed_files_of_a_chain_of_maps(tmp_path, no_network, monkeypatch):
    flow = JKOFlow(num_maps=2, map_iterations=3, batch_size=32, bank=40, width=8, device="cpu")
    flow.fit(points(), "normal", seed=0, progress=False).save(tmp_path / "jko.safetensors")
    monkeypatch.setitem(globals(), "FILES", {"jko": ("jko.safetensors", sampled)})
    fought(tmp_path, 80, 0, no_network)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_three_thousand_changed_files(shop, no_network):
    fought(shop, 3000, 1, no_network)


def test_a_shard_in_the_place_of_another(tmp_path):
    "Found by all who open a pool; build makes it again, and the pool is what it was"
    simulation = Simulation(
        get_sampler("normal"), get_sampler("moons"), SinkhornVelocity(1.0), 2, group=16
    )
    whole = build_shards(simulation, tmp_path, 32, show=False).in_memory()
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    for manifest in (True, False):
        (tmp_path / "shard-00001.safetensors").write_bytes(before["shard-00002.safetensors"])
        with pytest.raises(
            ValueError, match="shard-00001.safetensors: damaged: the shard of another place"
        ):
            open_pool(tmp_path)
        assert list(verify_pool(tmp_path)) == ["shard-00001.safetensors"]
        if not manifest:
            (tmp_path / "manifest.json").unlink()
        again = build_shards(simulation, tmp_path, 32, show=False).in_memory()
        assert torch.equal(again.shards[0]["x"], whole.shards[0]["x"])
        assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_a_flipped_header_without_a_manifest(tmp_path):
    "Only this shard is made again, whichever of its settings the bit is in"
    simulation = Simulation(
        get_sampler("normal"), get_sampler("moons"), SinkhornVelocity(1.0), 2, group=16
    )
    build_shards(simulation, tmp_path, 32, show=False)
    file = tmp_path / "shard-00003.safetensors"
    good = file.read_bytes()
    at = good.index(b"seed") + 8
    file.write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
    (tmp_path / "manifest.json").unlink()
    build_shards(simulation, tmp_path, 32, show=False)
    assert file.read_bytes() == good and not verify_pool(tmp_path)


def test_a_pool_of_version_0_1_goes_on(tmp_path):
    "Its shards have one checksum, of the tensors, and its settings no witness"
    from nsgf_nb.files import checksum

    simulation = Simulation(
        get_sampler("normal"), get_sampler("moons"), SinkhornVelocity(1.0), 2, group=16
    )
    whole = build_shards(simulation, tmp_path, 32, show=False).in_memory()
    manifest = read_json(tmp_path / "manifest.json")
    del manifest["settings"]["data"]
    for shard in manifest["shards"]:
        tensors, facts = load_tensors(tmp_path / shard["file"], "pool shard")
        facts = facts | dict(sha256=checksum(tensors), settings=manifest["settings"])
        shard["sha256"] = facts["sha256"]
        (tmp_path / shard["file"]).write_bytes(
            old_style({k: v.clone() for k, v in tensors.items()}, facts)
        )
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    assert not verify_pool(tmp_path) and torch.equal(
        open_pool(tmp_path).in_memory().shards[0]["x"], whole.shards[0]["x"]
    )
    (tmp_path / "shard-00002.safetensors").unlink()
    assert torch.equal(
        build_shards(simulation, tmp_path, 32, show=False).in_memory().shards[0]["x"],
        whole.shards[0]["x"],
    )
    moons = Simulation(
        get_sampler("normal"), get_sampler("circles"), SinkhornVelocity(1.0), 2, group=16
    )
    with pytest.raises(ValueError, match="holds another pool, its target is"):
        build_shards(moons, tmp_path, 32, show=False)


def test_flows_and_states_of_version_0_1(shop, tmp_path):
    for kind in ("nsgf", "straight", "plusplus", "state"):
        at, read = FILES[kind]
        tensors, facts = load_tensors(shop / at, KIND[kind])
        for part in (facts, *facts.get("parts", {}).values()):
            for name in ("data", "origin"):
                part.pop(name, None)
        facts.get("settings", {}).pop("data", None)
        file = tmp_path / Path(at).name
        file.write_bytes(old_style({k: v.clone() for k, v in tensors.items()}, facts))
        assert read_header(file, KIND[kind]).sha256 is None
        read(file)


@pytest.mark.parametrize(
    "make",
    [lambda: StraightFlow(**LINES, network=tiny()), lambda: NSGF(**SMALL, network=tiny())],
    ids=["straight", "nsgf"],
)
def test_resumed_with_other_data(tmp_path, make):
    "Refused by the name of what has changed, the target or the source"
    x, z = points(seed=1), points(seed=2)
    stopped(make(), tmp_path, x, source=z)
    go_on = lambda x, z: make().fit(x, z, seed=0, workdir=tmp_path, resume=True, progress=False)
    with pytest.raises(ValueError, match="the data of (its|the) target have changed"):
        go_on(points(seed=3), z)
    with pytest.raises(ValueError, match="the data of (its|the) source have changed"):
        go_on(x, points(seed=3))
    assert go_on(x, z).history[-1]["step"] == 40


def test_resumed_with_other_data_and_no_source(tmp_path):
    "The default source follows the target: the target is named"
    stopped(NSGF(**SMALL, network=tiny()), tmp_path, points(seed=1))
    with pytest.raises(ValueError, match="the data of its target have changed"):
        NSGF(**SMALL, network=tiny()).fit(
            points(150, seed=2), seed=0, workdir=tmp_path, resume=True, progress=False
        )


def test_a_phase_that_is_done_is_of_the_same_data(tmp_path):
    make = lambda: NSGFPlusPlus(
        NSGF(**SMALL, network=tiny()), StraightFlow(**LINES, network=tiny())
    )
    stopped(make(), tmp_path, points(seed=1), step=76)
    file = "parts/sinkhorn/model.safetensors"
    with pytest.raises(
        ValueError, match=f"{file}: cannot resume, the data of the target have changed"
    ):
        make().fit(points(seed=2), seed=0, workdir=tmp_path, resume=True, progress=False)
    assert (
        make()
        .fit(points(seed=1), seed=0, workdir=tmp_path, resume=True, progress=False)
        .history[-1]["step"]
        == 80
    )


def test_a_reflow_says_what_it_came_from(tmp_path):
    first = StraightFlow(**LINES, network=tiny()).fit(points(), "normal", seed=7, progress=False)
    pairs = StraightFlow(coupling=first, **LINES, network=tiny()).fit(
        points(), seed=0, progress=False
    )
    back = Flow.load(pairs.save(tmp_path / "pairs.safetensors"))
    assert (
        back.origin["coupling"]["flow"] == "StraightFlow"
        and back.origin["coupling"]["seed"] == 7
        and back.sample(3).shape == (3, 2)
    )
    lines = StraightFlow(start=first, **LINES, network=tiny()).fit(points(), seed=0, progress=False)
    back = Flow.load(lines.save(tmp_path / "lines.safetensors"))
    with pytest.raises(
        ValueError,
        match="the lines of this flow begin at samples of another, StraightFlow of seed 7, "
        "which is not in the file",
    ):
        back.sample(3)
    assert back.sample(x0=first.sample(3)).shape == (3, 2)


def test_a_source_in_a_file_is_lazy(shop, tmp_path, no_network):
    "It is not built at load, does not reach the network, and makes no folders"
    tensors, facts = load_tensors(shop / "straight.safetensors", "flow")
    for name, params in (
        ("mnist", dict(root=str(tmp_path / "anywhere"))),
        ("folder", dict(path=str(tmp_path / "moved"), size=None)),
        (
            "affine",
            dict(
                base="cifar10", params=dict(root=str(tmp_path / "anywhere")), scale=2.0, shift=0.0
            ),
        ),
    ):
        file = save_tensors(
            tmp_path / "flow.safetensors",
            tensors,
            facts | dict(source=dict(name=name, params=params)),
        )
        flow = Flow.load(file)
        assert flow.sample(x0=points(5)).shape == (5, 2)
        with pytest.raises(
            FileNotFoundError,
            match="flow.safetensors: the source that it names cannot be opened .*: give x0=",
        ):
            flow.sample(5)
    assert not no_network and [p.name for p in tmp_path.iterdir()] == ["flow.safetensors"]


def test_a_moved_folder_of_images(tmp_path):
    "A flow whose source was a folder that has moved works with x0="
    (tmp_path / "here").mkdir()
    for i in range(40):
        Image.fromarray(np.random.default_rng(i).integers(0, 255, (4, 4), dtype=np.uint8)).save(
            tmp_path / "here" / f"{i}.png"
        )
    target = torch.rand(40, 1, 4, 4) * 2 - 1
    flow = StraightFlow(num_steps=2, iterations=3, batch_size=8, network="mlp").fit(
        target, str(tmp_path / "here"), seed=0, progress=False
    )
    file = flow.save(tmp_path / "flow.safetensors")
    assert Flow.load(file).sample(3, seed=0).shape == (3, 1, 4, 4)
    (tmp_path / "here").rename(tmp_path / "there")
    assert Flow.load(file).sample(x0=target[:2]).shape == (2, 1, 4, 4)


def test_not_a_number(shop, tmp_path):
    for kind in ("nsgf", "straight", "plusplus", "state"):
        at, read = FILES[kind]
        tensors, facts = load_tensors(shop / at, KIND[kind])
        for name in tensors:
            if tensors[name].is_floating_point():
                bad = torch.full_like(tensors[name], float("nan"))
                file = save_tensors(tmp_path / Path(at).name, tensors | {name: bad}, facts)
                with pytest.raises(ValueError, match=f"{file.name}: damaged: "):
                    read(file)


def test_numpy_numbers_as_options(tmp_path):
    small = dict(
        num_steps=np.int64(2),
        group=np.int32(64),
        pool_size=np.int64(256),
        iterations=np.int16(3),
        batch_size=np.uint8(32),
        lr=np.float32(0.002),
        ema=np.float64(0.9),
        tol=np.float32(0.01),
        relative_blur=np.array([0.5, 0.1]),
        jitter=np.bool_(True),
        step_size=None,
    )
    for flow in (
        NSGF(**small),
        StraightFlow(iterations=np.int64(3), batch_size=np.int64(8), label_dropout=np.float32(0)),
        NSGFPlusPlus(
            NSGF(**small),
            StraightFlow(**LINES),
            step=np.float32(0.5),
            predictor="network",
            predictor_iterations=np.int64(2),
        ),
    ):
        flow.fit(points(), "normal", seed=np.int64(0), progress=False)
        assert torch.equal(
            Flow.load(flow.save(tmp_path / "flow.safetensors")).sample(3, seed=np.int64(1)),
            flow.sample(3, seed=1),
        )


class Tied(nn.Module):
    "The second layer has the weights of the first"

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(2, 2), nn.Linear(2, 2)
        self.b.weight = self.a.weight

    def forward(self, x, t):
        return self.b(self.a(x).tanh())


def test_tied_weights(tmp_path):
    "Saved once, loaded tied; a fit that is stopped goes on to the same bits"
    fresh = lambda: StraightFlow(**LINES, network=(torch.manual_seed(0), Tied())[1])
    with torch.random.fork_rng():
        whole = fresh().fit(points(), "normal", seed=0, progress=False)
        stopped(fresh(), tmp_path, points(), source="normal")
        parts = fresh().fit(
            points(), "normal", seed=0, workdir=tmp_path, resume=True, progress=False
        )
    file = whole.save(tmp_path / "flow.safetensors")
    assert read_header(file, "flow").aliases == {"net.b.weight": "net.a.weight"}
    back = Flow.load(file, network=Tied())
    assert back.net.b.weight is back.net.a.weight
    assert torch.equal(back.sample(9, seed=0), whole.sample(9, seed=0)) and torch.equal(
        parts.sample(9, seed=0), whole.sample(9, seed=0)
    )


@pytest.mark.parametrize(
    "make", [lambda: StraightFlow(**LINES), lambda: NSGF(**SMALL)], ids=["straight", "nsgf"]
)
def test_saved_in_a_callback(tmp_path, make):
    file, flow = tmp_path / "flow.safetensors", make()
    flow.fit(
        points(),
        "normal",
        seed=0,
        progress=False,
        callbacks=[lambda row: flow.save(file) if row["step"] == 20 else None],
    )
    back = Flow.load(file)
    assert back.history == flow.history[:20] and back.sample(3, seed=0).isfinite().all()


def test_leftovers_of_a_killed_run(shop):
    "The next command removes them, whichever it is"
    run = shop / "run"
    for name in ("samples.png", "path.gif", "loss.png"):  # so that nothing is drawn again
        (run / name).write_bytes(b"")
    keep = {p.name for p in run.iterdir()}
    for command in (
        ["fit", "moons", "--method", "fm", "--out", str(run), "--resume"],
        ["info", str(run)],
        ["sample", str(run), "-n", "2", "--out", str(shop / "x.npy")],
    ):
        (run / "pool").mkdir()
        (run / "parts" / "straight").mkdir(parents=True)
        for name in (
            "pool/shard-00000.safetensors",
            "training.safetensors",
            ".samples.0a1b2c3d.tmp.png",
            "parts/straight/.model.0a1b2c3d.tmp.safetensors",
        ):
            (run / name).write_text("left")
        assert main(command) == 0
        assert {p.name for p in run.iterdir()} == keep


def test_out_of_memory_is_one_sentence(shop, monkeypatch, capsys):
    def full(*args, **kw):
        raise RuntimeError(
            "[enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: can't allocate memory: "
            "you tried to allocate 4000000000000 bytes."
        )

    monkeypatch.setattr(Flow, "sample", full)
    assert main(["sample", str(shop / "run"), "-n", "2", "--out", str(shop / "x.npy")]) == 1
    said = capsys.readouterr().err
    assert (
        said.startswith("nsgf: out of memory: expected a smaller batch_size")
        and said.count("\n") == 1
    )


def test_a_declared_network_takes_no_time_and_no_memory(shop, tmp_path):
    tensors, facts = load_tensors(shop / "nsgf.safetensors", "flow")
    for large in (
        dict(layers=10**5),
        dict(hidden=10**9),
        dict(layers=10**12),
        dict(num_classes=10**12),
        dict(shape=[10**9]),
    ):
        file = save_tensors(
            tmp_path / "flow.safetensors", tensors, facts | dict(network=facts["network"] | large)
        )
        with pytest.raises(ValueError, match="flow.safetensors: "):
            Flow.load(file)


def test_damaged_settings_of_a_run(shop, tmp_path):
    settings = read_settings(shop / "run")
    for changed, said in (
        (dict(seed="0"), "seed: expected int, got '0'"),
        (dict(parameters=3), "parameters: expected dict, got 3"),
        (dict(method="fmm"), "unknown method 'fmm'"),
        (dict(parameters=settings["parameters"] | dict(lr=-1)), "lr: expected a finite number > 0"),
    ):
        (tmp_path / "config.json").write_text(json.dumps(settings | changed))
        with pytest.raises(ValueError, match=f"config.json: damaged: {said}"):
            read_settings(tmp_path)
