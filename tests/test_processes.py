"""Two processes, joined by Gloo on one machine, make one fit.

It is that of one process up to rounding, is stopped together and resumed to the same bits.
"""

import json
import signal
import socket
import subprocess
import sys
import time
import weakref
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from waiting import ENV, HANGS

from nsgf_nb.core import keep_random_state, make_generator
from nsgf_nb.files import load_tensors, save_tensors
from nsgf_nb.learning.nets import MLP
from nsgf_nb.learning.training import Task, TrainingOptions, train
from nsgf_nb.processes import batch_part, on_rank_0, process_group, world

COMMAND = [sys.executable, "-c", "import sys; from nsgf_nb.cli import main; sys.exit(main())"]
FIT = [
    "fit",
    "points.npy",
    "--method",
    "fm",
    "--set",
    "iterations=200",
    "batch_size=64",
    "num_steps=2",
    "--out",
]


def rows(s, part, net):
    x = torch.randn(64, 2, generator=make_generator(0, "x", s))[batch_part(64, part)]
    return x, torch.full((len(x),), 0.5), x.sin(), None


def fitted(rows=rows, **kw):
    with keep_random_state(world()[0]):
        net = MLP((2,), hidden=32)  # other weights on other ranks: those of rank 0 count
    names = [f.name for f in fields(TrainingOptions)]
    named = {name: kw.pop(name) for name in names if name in kw}
    options = TrainingOptions(iterations=50, lr=0.01, warmup=5, **named)
    return net, train(net, Task(rows), options, show=False, **kw)


def keep(path, result):
    save_tensors(path, result[0].state_dict(), dict(kind="net", history=result[1]))


def one_of_two(home):
    """What a process of `two` does.

    A whole run, one in 2 x 2 parts, one that rank 1 is interrupted in at step 20, and its
    resumption.
    """
    with process_group("cpu"):
        rank, many = world()
        assert many == 2 and on_rank_0(lambda: [rank, "é"]) == [0, "é"]
        try:
            on_rank_0(lambda: int("x"))
        except ValueError as e:
            assert "invalid literal" in str(e)
        keep(home / f"whole{rank}", fitted())
        keep(home / f"parts{rank}", fitted(accumulate=2))

        def stopping(s, part, net):
            if rank == 1 and s == 20:
                signal.raise_signal(signal.SIGINT)
            return rows(s, part, net)

        try:
            fitted(stopping, checkpoint=home / "state", minutes=0)
        except KeyboardInterrupt as e:
            (home / f"said{rank}").write_text(str(e))
        keep(home / f"again{rank}", fitted(checkpoint=home / "state", resume=True))
        group = weakref.ref(torch.distributed.group.WORLD)
    assert group() is None  # or its threads may outlive the program, which is then aborted


def start(words, cwd=None):
    "Two processes with the environment that a launcher gives"
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    env = ENV | dict(
        WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), CUDA_VISIBLE_DEVICES=""
    )
    return [
        subprocess.Popen(
            list(map(str, words)),
            env=env | dict(RANK=str(r), LOCAL_RANK=str(r)),
            cwd=cwd,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for r in (0, 1)
    ]


def ended(processes):
    return [(*p.communicate(timeout=HANGS), p.returncode) for p in processes]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("two")
    for _, err, rc in ended(start([sys.executable, __file__, home])):
        assert rc == 0, err
    return home


def read(file):
    tensors, facts = load_tensors(file, "net")
    return tensors, facts["history"]


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("run", ["whole", "parts"])
def test_two_processes_are_one_up_to_rounding(home, run):
    net, history = fitted()
    weights, two = read(home / f"{run}0")
    assert [r["step"] for r in two] == list(range(1, 51)) and history[-1]["loss"] < 0.6 * history[
        0
    ]["loss"]
    # sums in another order, once in each of 50 steps
    rounding = 50 * torch.finfo(torch.float32).eps
    assert all(abs(a["loss"] / b["loss"] - 1) < rounding for a, b in zip(history, two))
    assert all(
        (p - weights[k]).abs().max() < rounding * p.abs().max() for k, p in net.state_dict().items()
    )


@pytest.mark.parametrize("run", ["whole", "parts", "again"])
def test_all_ranks_end_alike(home, run):
    (a, x), (b, y) = read(home / f"{run}0"), read(home / f"{run}1")
    assert same(a, b) and x == y


def test_one_that_is_interrupted_stops_all(home):
    assert [(home / f"said{r}").read_text().split(",")[0] for r in (0, 1)] == [
        "stopped after step 21 of 50"
    ] * 2


def test_resumed_is_uninterrupted(home):
    (a, x), (b, y) = read(home / "whole0"), read(home / "again0")
    assert same(a, b) and [r["loss"] for r in x] == [r["loss"] for r in y]


def test_the_command(tmp_path):
    "A run folder by two processes; Ctrl-C to both; what they resume is the run that was left alone"
    np.save(
        tmp_path / "points.npy", np.random.default_rng(0).normal(size=(100, 2)).astype(np.float32)
    )
    (out, err, rc), (silent, quiet, rc1) = ended(start([*COMMAND, *FIT, "a"], tmp_path))
    assert (
        (rc, rc1) == (0, 0)
        and "step 200 of 200" in err
        and "a/ holds samples.png" in out
        and silent == ""
        and "nsgf" not in quiet + err.lower()
    ), err + quiet
    assert json.loads((tmp_path / "a/config.json").read_text())["machine"]["processes"] == 2
    both = start([*COMMAND, *FIT, "b"], tmp_path)
    next(line for line in both[0].stderr if "step 20 of 200" in line)
    for p in both:
        p.send_signal(signal.SIGINT)
    (_, err, rc), (_, quiet, rc1) = ended(both)
    assert (
        (rc, rc1) == (130, 130)
        and "nsgf: stopped after step" in err
        and "Traceback" not in err + quiet
        and not (tmp_path / "b/model.safetensors").exists()
    ), (rc, rc1, err, quiet)
    (_, err, rc), (_, _, rc1) = ended(start([*COMMAND, *FIT, "b", "--resume"], tmp_path))
    assert (rc, rc1) == (0, 0) and "step 20 of 200" not in err, err
    assert same(*(load_tensors(tmp_path / d / "model.safetensors", "flow")[0] for d in "ab"))
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == sorted(
        p.name for p in (tmp_path / "b").iterdir()
    )


def test_a_late_interruption_changes_nothing(tmp_path):
    "Ctrl-C reaches one process; the other gets it when both have stopped already"
    np.save(tmp_path / "points.npy", np.random.default_rng(0).normal(size=(100, 2)))
    both = start([*COMMAND, *FIT, "run"], tmp_path)
    next(line for line in both[0].stderr if "step 20 of 200" in line)
    both[0].send_signal(signal.SIGINT)
    said = next(line for line in both[0].stderr if "stopped after step" in line)
    for p in both * 3:
        p.send_signal(signal.SIGINT)
        time.sleep(0.02)
    (_, err, rc), (_, quiet, rc1) = ended(both)
    assert (rc, rc1) == (130, 130) and "Traceback" not in said + err + quiet, err + quiet


def test_bad_input_is_said_once(tmp_path):
    (_, err, rc), (_, quiet, rc1) = ended(
        start([*COMMAND, "fit", "moons", "--method", "fm", "--set", "batch_size=31"], tmp_path)
    )
    assert (rc, rc1) == (2, 2) and err.splitlines()[
        -1
    ] == "nsgf: batch_size: expected a multiple of 2 (processes × accumulate), got 31"
    assert "nsgf" not in quiet and not list((tmp_path / "runs/moons-fm").iterdir())


if __name__ == "__main__":
    one_of_two(Path(sys.argv[1]))


@pytest.mark.parametrize("dies", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_process_that_dies_is_one_sentence_of_the_other(tmp_path, dies):
    np.save(tmp_path / "points.npy", np.random.default_rng(0).normal(size=(200, 2)))
    both = start(
        [
            *COMMAND,
            "fit",
            "points.npy",
            "--method",
            "fm",
            "--out",
            "run",
            "--set",
            "iterations=10000",
            "batch_size=8",
            "network=mlp",
        ],
        tmp_path,
    )
    while not (tmp_path / "run" / "history.csv").exists():
        assert all(p.poll() is None for p in both), ended(both)
        time.sleep(0.05)
    both[dies].kill()
    out, said, code = ended(both)[1 - dies]
    told = [line for line in said.splitlines() if line.startswith("nsgf: ")]
    assert code == 1 and "Traceback" not in said + out and len(told) == 1
    assert (
        "another process of this training has ended or cannot be reached: "
        "start all of them again, with --resume" in told[0]
    )
