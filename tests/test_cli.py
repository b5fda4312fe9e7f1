"""The command `nsgf` as a user's shell sees it.

Files, exit codes, one sentence for what went wrong, and runs that are stopped and go on.
"""

import csv
import json
import resource
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from waiting import ENV, HANGS

from nsgf_nb.cli import FILES, main
from nsgf_nb.data import get_sampler
from nsgf_nb.family.members import MEMBERS
from nsgf_nb.files import load_tensors
from nsgf_nb.processes import folder_lock

TINY = ["--set", "num_steps=3", "pool_size=384", "group=128", "iterations=60", "batch_size=32"]
COMMAND = [sys.executable, "-c", "import sys; from nsgf_nb.cli import main; sys.exit(main())"]


def nsgf(*words, cwd, **kw):
    return subprocess.run(
        [*COMMAND, *map(str, words)],
        cwd=cwd,
        env=ENV,
        text=True,
        capture_output=True,
        timeout=HANGS,
        **kw,
    )


def start(*words, cwd):
    return subprocess.Popen(
        [*COMMAND, *map(str, words)],
        cwd=cwd,
        env=ENV,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def stop_at(process, text, sig):
    "Send a signal once a line with `text` has been printed; exit code and the rest of the output"
    for line in process.stderr:
        if text in line:
            break
    process.send_signal(sig)
    rest = process.communicate(timeout=HANGS)[1]
    return process.returncode, rest


def read(file):
    return json.loads(file.read_text())


def weights(folder):
    return load_tensors(folder / "model.safetensors", "flow")[0]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def done(home):
    "One run from beginning to end, in a process of its own, into the default folder"
    p = nsgf("fit", "8gaussians", *TINY, cwd=home)
    assert p.returncode == 0, p.stderr
    return home / "runs/8gaussians-nsgf", p


@pytest.fixture
def here(home, done, monkeypatch, capsys):
    """Call main in this process, from the folder that holds the run.

    It gives the exit code, standard output and standard error.
    """
    monkeypatch.chdir(home)

    def call(*words):
        rc = main([str(w) for w in words])
        return rc, *capsys.readouterr()

    return call


def test_a_run_leaves_its_files_and_nothing_else(done):
    assert sorted(p.name for p in done[0].iterdir()) == sorted(FILES)


def test_config_is_enough_to_repeat_the_run(done):
    c = read(done[0] / "config.json")
    assert (c["target"], c["source"], c["method"], c["seed"]) == ("8gaussians", None, "nsgf", 0)
    assert (
        c["parameters"]["num_steps"] == 3
        and c["parameters"]["lr"] is None
        and c["parameters"]["relative_blur"] == [0.5, 0.05]
    )
    assert c["version"] and set(c["machine"]) == {"python", "torch", "system", "device", "threads"}


def test_metrics_stand_beside_their_floors(done):
    m = read(done[0] / "metrics.json")
    assert {"w2", "w2_sd", "w2_floor", "w2_floor_sd", "mmd", "mmd_floor", "n", "pairs"} <= set(
        m["distances"]
    )
    assert {"passed", "ratio", "low", "high", "floor", "bound", "tv"} <= set(m["gate"]) and m[
        "nfe"
    ] == 3
    assert set(m["seconds"]) == {"pool", "matching", "sampling", "evaluation"} and all(
        v > 0 for v in m["seconds"].values()
    )
    assert m["loss"] > 0 and m["val"] > 0 and m["floor"] > 0
    assert (
        m["pool"]["groups"] == 3
        and m["pool"]["converged"] == 1.0
        and m["pool"]["error"] < 0.02
        and len(m["pool"]["passes"]) == 3
    )


def test_history_is_a_table(done):
    rows = list(csv.DictReader((done[0] / "history.csv").open()))
    assert list(rows[0]) == ["step", "loss", "seconds", "rate", "val", "floor"] and [
        int(r["step"]) for r in rows
    ] == list(range(1, 61))


def test_pictures_open(done):
    assert Image.open(done[0] / "samples.png").size > (300, 150) and Image.open(
        done[0] / "loss.png"
    ).size > (200, 150)
    assert Image.open(done[0] / "path.gif").n_frames == 4


def test_output_without_a_terminal_is_plain(done):
    p = done[1]
    assert "\r" not in p.stderr + p.stdout and "step 60 of 60: loss" in p.stderr
    assert [line.split()[0] for line in p.stdout.splitlines()] == [
        "loss",
        "W2",
        "MMD",
        "gate",
        "cost",
        "seconds",
        "runs/8gaussians-nsgf/",
    ]


def test_sample_writes_points(here, done):
    assert (
        here("sample", done[0], "-n", 50, "--seed", 1)[0] == 0
        and here("sample", done[0], "-n", 50, "--seed", 1, "--out", "b.npy")[0] == 0
    )
    a, b = np.load(done[0] / "samples.npy"), np.load("b.npy")
    (done[0] / "samples.npy").unlink()
    assert a.shape == (50, 2) and a.dtype == np.float32 and (a == b).all() and np.isfinite(a).all()


def test_eval_repeats_its_numbers(here, done):
    old = read(done[0] / "metrics.json")
    rc, out, _ = here("eval", done[0])
    new = read(done[0] / "metrics.json")
    assert (
        rc == 0
        and "gate" in out
        and new["distances"] == old["distances"]
        and new["gate"] == old["gate"]
        and new["pool"] == old["pool"]
    )


def test_plot_draws_again(here, done):
    old = (done[0] / "samples.png").read_bytes()
    (done[0] / "samples.png").unlink()
    assert here("plot", done[0])[0] == 0 and (done[0] / "samples.png").read_bytes() == old


def test_info_tells_settings_and_results(here, done):
    rc, out, _ = here("info", done[0])
    assert (
        rc == 0
        and "normal → 8gaussians by nsgf, seed 0" in out
        and "iterations=60" in out
        and "W2" in out
        and "machine" in out
    )


def test_a_finished_run_is_not_fitted_again(here, done):
    before = (done[0] / "model.safetensors").read_bytes()
    assert (
        here("fit", "8gaussians", "--resume")[0] == 0
        and (done[0] / "model.safetensors").read_bytes() == before
    )


def test_a_run_of_two_phases_goes_on(home, here):
    "Stopped in its second phase and resumed: the same weights, and no second fit when it is done"
    words = (
        "fit",
        "moons",
        "--method",
        "nsgf++",
        "--set",
        "sinkhorn.iterations=30",
        "sinkhorn.group=64",
        "sinkhorn.pool_size=512",
        "straight.iterations=300",
    )
    assert here(*words, "--out", "whole")[0] == 0
    rc, said = stop_at(start(*words, "--out", "stopped", cwd=home), "straight: step", signal.SIGINT)
    assert rc == 130 and "--resume" in said
    rc, _, said = here("fit", "moons", "--out", "stopped", "--resume")
    assert rc == 0, said
    assert all(
        torch.equal(v, weights(home / "whole")[k]) for k, v in weights(home / "stopped").items()
    )
    before = (home / "stopped" / "model.safetensors").read_bytes()
    assert (
        here("fit", "moons", "--out", "stopped", "--resume")[0] == 0
        and (home / "stopped" / "model.safetensors").read_bytes() == before
    )


def test_ctrl_c_and_kill_lose_nothing(home, done, here):
    "Stopped with Ctrl-C, resumed, killed, resumed: the same weights as without, bit by bit"
    again = ["fit", "8gaussians", *TINY, "--out", "b"]
    rc, said = stop_at(start(*again, cwd=home), "step 12 of", signal.SIGINT)
    assert (
        rc == 130
        and "Traceback" not in said
        and "nsgf: stopped after step" in said
        and "nsgf fit 8gaussians --out b --resume" in said
    )
    assert "not fitted to its end: step" in here("info", home / "b")[1]
    rc, said = stop_at(
        start("fit", "8gaussians", "--out", "b", "--resume", cwd=home), "step", signal.SIGKILL
    )
    assert (
        rc == -signal.SIGKILL
        and (home / "b/training.safetensors").exists()
        and not (home / "b/model.safetensors").exists()
    )
    rc, _, said = here("fit", "8gaussians", "--out", "b", "--resume")
    assert rc == 0 and "step 60 of 60" in said and "step 6 of" not in said
    assert sorted(f.name for f in (home / "b").iterdir()) == sorted(FILES)
    a, b = weights(done[0]), weights(home / "b")
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
    same = lambda f: [
        (r["step"], r["loss"], r["val"]) for r in csv.DictReader((f / "history.csv").open())
    ]
    assert (
        same(done[0]) == same(home / "b")
        and read(done[0] / "metrics.json")["distances"]
        == read(home / "b/metrics.json")["distances"]
    )


def test_ctrl_c_while_the_pool_is_built(home):
    p = start("fit", "8gaussians", "--out", "c", "--set", "pool_size=50000", "group=500", cwd=home)
    rc, said = stop_at(p, "→ 8gaussians", signal.SIGINT)
    assert (
        rc == 130
        and "Traceback" not in said
        and "nsgf: stopped; to go on: nsgf fit 8gaussians --out c --resume" in said
    )


def test_a_full_disk(home, here):
    "Played by a limit on the size of files"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
        rc, _, err = here(
            "fit", "8gaussians", "--method", "fm", "--set", "iterations=2", "--out", "full"
        )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert rc == 1 and err.splitlines()[-1].startswith(
        "nsgf: full/model.safetensors: could not be written (File too large)"
    )
    assert not list((home / "full").glob(".*"))


@pytest.mark.parametrize("words", ["fit moons", "pool build moons", "fit nowhere.csv --time day"])
def test_set_help_prints_the_options(here, words):
    rc, out, err = here(*words.split(), "--set", "help")
    assert rc == 0 and "iterations" in out and "optimiser steps" in out and not err


WRONG = [  # words after nsgf, exit code, what standard error says
    ("fit moon", 2, "nsgf: unknown data set 'moon': did you mean 'moons'?"),
    (
        "fit moons --method otcfm",
        2,
        "nsgf: unknown method 'otcfm': did you mean 'ot-cfm'? known: nsgf, nsgf++, fm, ot-cfm, ",
    ),
    (
        "fit moons --set itertions=5",
        2,
        "nsgf: unknown option 'itertions': did you mean 'iterations'?",
    ),
    ("fit moons --method fm --set pool_size=512", 2, "nsgf: unknown option 'pool_size'"),
    (
        "fit moons --method absent:Lines",
        2,
        "nsgf: method 'absent:Lines': cannot be imported (No module named 'absent')",
    ),
    (
        "fit moons --method broken:Lines",
        2,
        "nsgf: method 'broken:Lines': cannot be imported (division by zero)",
    ),
    (
        "fit moons --method json:Lines",
        2,
        "nsgf: method 'json:Lines': expected a subclass of nsgf_nb.Model, json has no Lines",
    ),
    (
        "fit moons --method json:JSONDecoder",
        2,
        "nsgf: method 'json:JSONDecoder': expected a subclass of nsgf_nb.Model, got <class",
    ),
    ("fit moons --method nsgf_nb:Flow", 2, "nsgf: method 'nsgf_nb:Flow': expected a subclass of"),
    ("fit moons --method :Lines", 2, "nsgf: method ':Lines': expected package.module:Class"),
    (
        "sample runs/8gaussians-nsgf -n 5 --method fm",
        2,
        "nsgf: --method: expected nsgf, as in runs/8gaussians-nsgf, got fm",
    ),
    ("fit moons --set iterations", 2, "nsgf: --set: expected key=value, got 'iterations'"),
    ("fit moons --set iterations=many", 2, "nsgf: iterations: expected an integer, got 'many'"),
    ("fit moons --set jitter=no", 2, "nsgf: jitter: expected true or false, got 'no'"),
    ("fit moons --set blur=0", 2, "nsgf: blur: expected a finite number > 0, got 0"),
    ("fit moons --seed -1", 2, "nsgf: seed: expected at least 0, got -1"),
    (
        "fit moons --seed one",
        2,
        "nsgf fit: argument --seed: invalid int value: 'one' (see nsgf fit --help)",
    ),
    ("fit moons --source scuve", 2, "nsgf: unknown data set 'scuve': did you mean 'scurve'?"),
    ("fit moons --device gpu", 2, "nsgf: device 'gpu': expected 'cpu', 'cuda', 'cuda:0' or 'mps'"),
    ("fit moons --config none.json", 2, "nsgf: none.json: No such file or directory"),
    ("fit moons --config bad.json", 2, "nsgf: bad.json: not readable as JSON"),
    ("fit none.npy", 2, "nsgf: none.npy: no such file"),
    ("fit bad.npy", 2, "nsgf: bad.npy: "),
    ("fit nan.npy", 2, "nsgf: nan.npy: data: 1 of 12 values are NaN or infinite"),
    (
        "fit same.npy --out same",
        2,
        "nsgf: target: all points are the same, and a flow needs a scale",
    ),
    (
        "fit digits --source moons --out mixed",
        2,
        "nsgf: source and target: expected points of one shape, got (2,) and (1, 8, 8)",
    ),
    (
        "fit 8gaussians",
        2,
        "nsgf: runs/8gaussians-nsgf: not empty, expected a new or empty folder, "
        "or --resume to go on with the run in it",
    ),
    (
        "fit 8gaussians --resume --seed 1",
        2,
        "nsgf: runs/8gaussians-nsgf: cannot resume, seed was 0, is now 1",
    ),
    (
        "fit 8gaussians --resume --set lr=1",
        2,
        "nsgf: runs/8gaussians-nsgf: cannot resume, lr was None, is now 1",
    ),
    ("fit moons --out . --resume", 2, "nsgf: .: no run here (no config.json)"),
    ("fit moons --out bad.json", 2, "nsgf: bad.json: expected a folder, this is a file"),
    ("fit moons --out bad.json/x", 1, "nsgf: bad.json/x: Not a directory"),
    ("sample nowhere -n 5", 2, "nsgf: nowhere: no run here (no config.json)"),
    (
        "sample",
        2,
        "nsgf sample: the following arguments are required: DIR (see nsgf sample --help)",
    ),
    ("sample runs/8gaussians-nsgf -n 0", 2, "nsgf: n: expected at least 1, got 0"),
    (
        "sample runs/8gaussians-nsgf -n 5 --out x.pt",
        2,
        "nsgf: --out: expected a .npy or .csv file, or a folder for pictures, got x.pt",
    ),
    (
        "sample runs/8gaussians-nsgf -n 5 --out no/x.npy",
        2,
        "nsgf: no/x.npy: the folder no does not exist",
    ),
    (
        "eval damaged",
        2,
        "nsgf: damaged/model.safetensors: not a readable safetensors file, damaged or cut short",
    ),
    (
        "plot unfitted",
        2,
        "nsgf: unfitted: not fitted to its end (no model.safetensors), "
        "go on with: nsgf fit 8gaussians --out unfitted --resume",
    ),
    (
        "fit moons --preset mnist-paper",
        2,
        "nsgf: unknown preset of NSGF 'mnist-paper': known: quick",
    ),
    (
        "fit moons --preset quick --config few.json",
        2,
        "nsgf: --preset and --config: expected one of them",
    ),
    ("fit moons --size 16", 2, "nsgf: --size: expected a folder of images, got moons"),
    (
        "sample runs/8gaussians-nsgf -n 5 --label 1",
        2,
        "nsgf: label: expected none, the network has no num_classes",
    ),
    (
        "sample runs/8gaussians-nsgf -n 5 --guidance 1",
        2,
        "nsgf: --guidance: expected --label, the class that is asked for",
    ),
    ("train moons", 2, "nsgf: argument COMMAND: invalid choice: 'train'"),
    ("", 2, "nsgf: the following arguments are required: COMMAND (see nsgf --help)"),
]


@pytest.fixture(scope="module")
def litter(home, done):
    "Files and folders that something is wrong with"
    (home / "bad.json").write_text("{")
    (home / "bad.npy").write_text("hello")
    (home / "broken.py").write_text("1 / 0")
    x = np.ones((6, 2), np.float32)
    np.save(home / "same.npy", x)
    x[0, 0] = np.nan
    np.save(home / "nan.npy", x)
    for name in ("damaged", "unfitted"):
        (home / name).mkdir()
        (home / name / "config.json").write_bytes((done[0] / "config.json").read_bytes())
    (home / "damaged/model.safetensors").write_bytes(
        (done[0] / "model.safetensors").read_bytes()[:-10]
    )


@pytest.mark.parametrize("words, code, sentence", WRONG, ids=[w or "no command" for w, *_ in WRONG])
def test_bad_input_is_one_sentence(here, litter, words, code, sentence):
    rc, out, err = here(*words.split())
    assert (
        rc == code
        and err.splitlines()[-1].startswith(sentence)
        and out == ""
        and "Traceback" not in err
    )
    assert len([line for line in err.splitlines() if " → " not in line]) == 1


OWN = """
from nsgf_nb.straight import StraightFlow


class Lines(StraightFlow):
    "Straight lines by another name"
"""


@pytest.fixture(scope="module")
def own(home):
    "A run that was fitted by a class of the user's own, by the command as a shell finds it"
    (home / "shop").mkdir()
    (home / "shop/lines.py").write_text(OWN)
    few = ("--set", "iterations=5", "batch_size=16", "network=mlp")
    p = nsgf("fit", "moons", "--method", "shop.lines:Lines", *few, cwd=home)
    assert p.returncode == 0, p.stderr
    return home / "runs/moons-Lines"


def test_a_class_of_the_users_own(home, own):
    config = read(own / "config.json")
    assert config["method"] == "shop.lines:Lines"
    assert config["parameters"]["iterations"] == 5
    assert config["parameters"]["coupling"] == "independent"  # nothing is settled
    named = ("--method", "shop.lines:Lines")
    assert nsgf("sample", own, "-n", 5, *named, "--out", "own.npy", cwd=home).returncode == 0
    assert np.load(home / "own.npy").shape == (5, 2)
    before = (own / "model.safetensors").read_bytes()
    assert nsgf("fit", "moons", *named, "--resume", cwd=home).returncode == 0
    assert (own / "model.safetensors").read_bytes() == before


def test_the_current_folder_is_searched(home, own, here, monkeypatch):
    monkeypatch.setattr(sys, "path", [folder for folder in sys.path if folder])
    for name in ("shop", "shop.lines"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    rc, out, err = here("info", own, "--method", "shop.lines:Lines")
    assert rc == 0 and "by shop.lines:Lines, seed 0" in out, err


@pytest.mark.parametrize(
    "words", ["sample {} -n 5", "eval {}", "plot {}", "info {}", "fit moons --out {} --resume"]
)
def test_what_a_file_names_is_not_imported(home, own, here, words, monkeypatch):
    "A module is code: one that lies beside a run is not executed because the run names it"
    monkeypatch.setattr(sys, "path", [str(home), *sys.path])
    (home / "trap.py").write_text(f"open({str(home / 'executed')!r}, 'w')")
    (home / "foreign").mkdir(exist_ok=True)
    for file in own.iterdir():
        (home / "foreign" / file.name).write_bytes(file.read_bytes())
    config = read(own / "config.json") | dict(method="trap:Lines")
    (home / "foreign/config.json").write_text(json.dumps(config))
    rc, out, err = here(*words.format("foreign").split())
    assert rc == 2 and out == "" and not (home / "executed").exists()
    assert err == (
        "nsgf: method 'trap:Lines': what a file names is not imported:"
        " import trap before, or say --method trap:Lines\n"
    )


def test_help_names_the_methods(here):
    out = " ".join(here("fit", "--help")[1].split())
    assert f"--method M {', '.join(MEMBERS)}, or package.module:Class" in out


def test_a_refused_fit_leaves_nothing(home, here, litter):
    here("fit", "same.npy", "--out", "same2")
    assert (
        not list((home / "same2").iterdir())
        and here("fit", "moons", "--set", "blur=0", "--out", "new")[0] == 2
        and not (home / "new").exists()
    )


def test_one_process_at_a_time(home, here):
    "The lock of a process that was killed is gone: test_ctrl_c_and_kill_lose_nothing"
    (home / "two").mkdir()
    with folder_lock(home / "two"):
        rc, _, err = here("fit", "8gaussians", "--out", "two")
    assert (
        rc == 2
        and err == "nsgf: two: another process is at work on this run\n"
        and not list((home / "two").iterdir())
    )


def test_a_config_file_and_what_wins(home, here):
    np.save(home / "line.npy", np.linspace(0, 1, 50)[:, None])
    (home / "few.json").write_text(json.dumps(dict(iterations=3, num_steps=2, batch_size=16)))
    assert (
        here(
            "fit",
            "line.npy",
            "--method",
            "fm",
            "--config",
            "few.json",
            "--set",
            "iterations=4",
            "--out",
            "conf",
            "--source",
            "normal",
        )[0]
        == 0
    )
    c = read(home / "conf/config.json")
    assert (
        c["parameters"]["iterations"] == 4
        and c["parameters"]["num_steps"] == 2
        and c["source"] == "normal"
        and c["target"] == str(home / "line.npy")
        and "coupling" not in c["parameters"]
    )


def test_a_preset_and_what_wins(home, here):
    few = ("--set", "iterations=3", "num_steps=2", "group=32", "pool_size=96", "batch_size=16")
    assert here("fit", "moons", "--preset", "quick", "--out", "quick", *few)[0] == 0
    c = read(home / "quick/config.json")["parameters"]
    assert (c["iterations"], c["lr"], c["ema"]) == (3, 4e-3, 0.99)
    rc, _, err = here("fit", "moons", "--out", "quick", "--resume", "--preset", "quick")
    assert rc == 2 and "cannot resume" in err
    assert here("fit", "moons", "--out", "quick", "--resume", "--preset", "quick", *few)[0] == 0


def test_a_table_with_classes_and_its_page(home, here):
    "Labels come with the file; samples of a class as a table; one page with all of it"
    x = np.random.default_rng(0).normal(size=(90, 2)) + np.repeat([[-4, 0], [4, 0]], 45, 0)
    rows = [f"{a},{b},{k}" for (a, b), k in zip(x, np.repeat([0, 1], 45))]
    (home / "two.csv").write_text("\n".join(["height,width,label", *rows]))
    few = ("--set", "num_classes=2", "iterations=300", "lr=5e-3", "ema=0.9", "batch_size=32")
    assert here("fit", "two.csv", "--method", "fm", "--out", "two-classes", *few)[0] == 0
    asked = ("-n", 60, "--label", 0, 1, "--out", "two-classes.csv")
    assert here("sample", "two-classes", *asked)[0] == 0
    made = np.loadtxt(home / "two-classes.csv", delimiter=",", skiprows=1)
    assert made[::2, 0].mean() < -2 and made[1::2, 0].mean() > 2
    rc, out, _ = here("report", "two-classes")
    page = (home / "two-classes/report.html").read_text()
    assert (rc, out) == (0, "two-classes/report.html\n")
    assert page.count("<img") == 3 and "num_classes" in page and "http" not in page


def test_images_of_several_sizes(home, here):
    (home / "pictures").mkdir()
    for k, side in enumerate((8, 10, 12, 8) * 8):
        Image.new("L", (side, side), 8 * k).save(home / f"pictures/{k}.png")
    few = ("--set", "iterations=2", "batch_size=8", "num_steps=2")
    words = ("fit", "pictures", "--method", "fm", "--out", "resized", *few)
    rc, _, err = here(*words)
    assert rc == 2 and "pixels like the first image" in err and "--size" in err
    assert here(*words, "--size", 8)[0] == 0
    assert read(home / "resized/config.json")["size"] == 8
    assert here("eval", "resized")[0] == here("sample", "resized", "-n", 3)[0] == 0


@pytest.mark.parametrize("method", ["nsgf", "ot-cfm"])
def test_images_take_the_same_path(home, here, method):
    words = ["num_steps=2", "iterations=3"] + (
        ["pool_size=384", "group=128"] if method == "nsgf" else ["batch_size=32"]
    )
    assert here("fit", "digits", "--method", method, "--set", *words)[0] == 0
    folder = home / f"runs/digits-{method}"
    m = read(folder / "metrics.json")
    assert (
        sorted(p.name for p in folder.iterdir()) == sorted(FILES)
        and "gate" not in m
        and m["distances"]["n"] == 898
    )


def test_points_from_a_file_as_target_and_source(home, here):
    rng = np.random.default_rng(0)
    np.save(home / "a.npy", rng.normal(size=(200, 3)))
    np.save(home / "b.npy", rng.normal(size=(300, 3)))
    assert (
        here(
            "fit",
            "a.npy",
            "--source",
            "b.npy",
            "--method",
            "fm",
            "--set",
            "iterations=3",
            "batch_size=16",
            "--out",
            "ab",
        )[0]
        == 0
    )
    assert here("sample", "ab", "-n", 300)[0] == 0 and np.load(home / "ab/samples.npy").shape == (
        300,
        3,
    )
    rc, _, err = here("sample", "ab", "-n", 301)
    assert rc == 2 and "n: expected at most 300, the points of" in err


def test_a_bridge_between_two_laws(home, here):
    "Fitted to a source by its name, and sampled from it: ends near the moons, not on the ring"
    few = ("iterations=120", "batch_size=64", "cloud=128", "num_steps=10", "lr=5e-3", "ema=0.9")
    words = ("fit", "moons", "--source", "8gaussians", "--method", "bridge", "--out", "bridge")
    assert here(*words, "--set", *few)[0] == 0
    config = read(home / "bridge/config.json")
    asked = ("moons", "8gaussians", "bridge")
    assert (config["target"], config["source"], config["method"]) == asked
    assert here("sample", "bridge", "-n", 400, "--seed", 3)[0] == 0
    made = torch.as_tensor(np.load(home / "bridge/samples.npy"))
    target, source = (get_sampler(name)(400) for name in ("moons", "8gaussians"))
    far = lambda x: torch.cdist(x, target).min(1).values.mean()
    assert made.shape == (400, 2) and far(made) < 1 < 2 < far(source)


def test_help_and_version_are_quick(home):
    "They do not wait for torch"
    code = "import sys; from nsgf_nb.cli import main; main(sys.argv[1:])"
    code += "; assert 'torch' not in sys.modules"
    for words in (
        ["--help"],
        ["--version"],
        *([c, "--help"] for c in ("fit", "sample", "eval", "plot", "info")),
    ):
        p = subprocess.run(
            [sys.executable, "-c", code, *words], cwd=home, text=True, capture_output=True
        )
        assert p.returncode == 0 and "nsgf" in p.stdout and not p.stderr
