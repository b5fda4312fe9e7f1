"""Killed at random moments of building and training, and resumed: the same bits.

Also damaged pools, and folders that cannot be written.
"""

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time

import pytest
import torch
from waiting import ENV, HANGS

from nsgf_nb.cli import FILES, main
from nsgf_nb.files import load_tensors
from nsgf_nb.motion.shards import verify_pool

COMMAND = [sys.executable, "-c", "import sys; from nsgf_nb.cli import main; sys.exit(main())"]
SETTINGS = [
    "--set",
    "num_steps=4",
    "pool_size=4096",
    "group=128",
    "iterations=800",
    "batch_size=64",
]


def run(*words, cwd):
    return subprocess.run(
        [*COMMAND, *words], cwd=cwd, env=ENV, text=True, capture_output=True, timeout=HANGS
    )


def weights(folder):
    return load_tensors(folder / "model.safetensors", "flow")[0]


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    "A run that nobody disturbs: its folder, and the seconds it took"
    home, start = tmp_path_factory.mktemp("whole"), time.monotonic()
    p = run("fit", "8gaussians", "--out", "run", *SETTINGS, cwd=home)
    assert p.returncode == 0, p.stderr
    return home / "run", time.monotonic() - start


def killed(home, whole, kills, seed):
    "Kill the command at random moments, resume it each time, and let it end; what the kills hit"
    moments, hit = random.Random(seed), []
    for _ in range(kills):
        p = subprocess.Popen(
            [*COMMAND, "fit", "8gaussians", "--out", "run", "--resume", *SETTINGS],
            cwd=home,
            env=ENV,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            p.wait(moments.uniform(0.25, 0.8) * whole[1])
        except subprocess.TimeoutExpired:
            p.kill()
        hit.append(
            "not begun"
            if not (home / "run" / "config.json").exists()
            else "done"
            if (home / "run" / "model.safetensors").exists()
            else "training"
            if (home / "run" / "pool" / "manifest.json").exists()
            else "building"
        )
        assert p.wait() in (0, -signal.SIGKILL)
    p = run("fit", "8gaussians", "--out", "run", "--resume", *SETTINGS, cwd=home)
    assert p.returncode == 0, p.stderr
    assert same(weights(whole[0]), weights(home / "run")), f"killed while {hit}"
    assert {p.relative_to(home).as_posix() for p in home.rglob("*")} == {
        "run",
        *(f"run/{name}" for name in FILES),
    }, f"killed while {hit}"
    return hit


def test_killed_three_times(tmp_path, whole):
    folder, seconds = whole
    # a machine that has become faster since `whole` is done before it is killed
    for sooner in (1, 2, 4, 8, 16):
        home = tmp_path / str(sooner)
        home.mkdir()
        if set(killed(home, (folder, seconds / sooner), 3, seed=1)) - {"done"}:
            return
    pytest.fail("each kill came too late")


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_killed_five_times(tmp_path, whole, seed):
    killed(tmp_path, whole, 5, seed + 10)


@pytest.fixture
def pool(tmp_path, capsys, monkeypatch):
    "A pool in a run that is not fitted, and the command in its folder: exit code, what was said"
    monkeypatch.chdir(tmp_path)

    def call(*words):
        rc = main(list(words))
        return rc, "\n".join(capsys.readouterr())

    build = (
        "pool",
        "build",
        "moons",
        "--out",
        "run",
        "--set",
        "num_steps=3",
        "pool_size=1024",
        "group=64",
        "iterations=40",
    )
    assert call(*build)[0] == 0
    return tmp_path / "run" / "pool", call, build


@pytest.mark.parametrize("damage", ["cut short", "flipped", "empty", "gone"])
def test_a_damaged_shard_is_named_and_it_alone_is_made_again(pool, damage):
    folder, call, build = pool
    file = folder / "shard-00009.safetensors"
    data = bytearray(file.read_bytes())
    if damage == "flipped":
        data[len(data) // 2] ^= 64
        file.write_bytes(data)
    elif damage == "cut short":
        file.write_bytes(data[: len(data) // 2])
    elif damage == "empty":
        file.write_bytes(b"")
    else:
        file.unlink()
    rc, said = call("pool", "verify", "run")
    assert (
        rc == 1
        and f"{file.relative_to(folder.parent.parent)}: " in said
        and said.count("shard-") == 1
        and "Traceback" not in said
    )
    others = {p: p.stat().st_mtime_ns for p in folder.glob("shard-*") if p != file}
    assert (
        call(*build)[0] == 0
        and not verify_pool(folder)
        and all(p.stat().st_mtime_ns == t for p, t in others.items())
    )


def test_a_manifest_that_is_gone(pool):
    folder, call, build = pool
    (folder / "manifest.json").unlink()
    rc, said = call("pool", "info", "run")
    assert rc == 2 and said.strip() == (
        "nsgf: run/pool: no pool here, or one that is not complete (no manifest.json): "
        "build it with its settings, shards that are there are kept"
    )
    others = {p: p.stat().st_mtime_ns for p in folder.glob("shard-*")}
    assert call(*build)[0] == 0 and all(p.stat().st_mtime_ns == t for p, t in others.items())


def test_another_setting_is_refused_by_its_name(pool):
    folder, call, build = pool
    rc, said = call(*build[:-4], "pool_size=2048")
    assert rc == 2 and said.strip() == "nsgf: run: cannot resume, pool_size was 1024, is now 2048"
    assert call("fit", "moons", "--out", "run", "--resume", "--set", "tol=.1")[
        0
    ] == 2 and not verify_pool(folder)
    settings = json.loads((folder / "manifest.json").read_text())
    settings["settings"]["seed"] = 7
    (folder / "manifest.json").write_text(json.dumps(settings))
    rc, said = call("fit", "moons", "--out", "run", "--resume")
    assert (
        rc == 2
        and "run/pool: holds another pool, its seed is 7, asked for was 0" in said
        and (folder / "shard-00000.safetensors").exists()
    )


def test_a_full_disk_while_building(pool):
    folder, call, build = pool
    file = folder / "shard-00003.safetensors"
    file.unlink()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
        rc, said = call(*build)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (
        rc == 1
        and said.count("could not be written (File too large)") == 1
        and "Traceback" not in said
        and len(list(folder.glob("shard-*"))) == 15
    )
    assert call(*build)[0] == 0 and not verify_pool(folder)


def test_a_folder_that_cannot_be_written(pool):
    folder, call, build = pool
    (folder / "shard-00003.safetensors").unlink()
    for f, mode in ((folder.parent.parent, 0o755), (folder.parent, 0o777), (folder, 0o555)):
        f.chmod(mode)
    user = os.geteuid()
    try:
        if user == 0:
            os.seteuid(65534)  # root may write everywhere
        rc, said = call(*build)
    finally:
        os.seteuid(user)
        folder.chmod(0o755)
    assert (
        rc == 1
        and "Permission denied" in said
        and "Traceback" not in said
        and len(list(folder.glob("shard-*"))) == 15
    )
    assert call(*build)[0] == 0 and not verify_pool(folder)


def test_processes_share_a_pool(tmp_path):
    "Two commands at once: both end well, the bits are those of one"
    words = [
        "pool",
        "build",
        "moons",
        "--out",
        "run",
        "--set",
        "num_steps=3",
        "pool_size=4096",
        "group=128",
    ]
    assert run(*words[:3], "--out", "alone", *words[5:], cwd=tmp_path).returncode == 0
    two = [
        subprocess.Popen(
            [*COMMAND, *words],
            cwd=tmp_path,
            env=ENV,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for _ in range(2)
    ]
    assert [p.wait(timeout=HANGS) for p in two] == [0, 0]
    a, b = (
        sorted((tmp_path / "alone" / "pool").iterdir()),
        sorted((tmp_path / "run" / "pool").iterdir()),
    )
    assert [p.name for p in a] == [p.name for p in b] and all(
        p.read_bytes() == q.read_bytes() for p, q in zip(a, b)
    )
