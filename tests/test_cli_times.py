"""`nsgf fit cells.csv --time day` as a user's shell sees it.

Files, samples in the units of the table, one sentence for what went wrong, and runs that go on.
"""

import csv
import json
import signal

import numpy as np
import pytest
import torch
from test_cli import nsgf, read, start, stop_at, weights

from nsgf_nb.cli import FILES, main
from nsgf_nb.core import make_generator
from nsgf_nb.sets.snapshots import snapshots

FEW = ["--set", "iterations=60", "batch_size=32", "num_steps=3", "lr=2e-2", "ema=0.9"]
TIMES, ROWS = (2, 4, 6.5), 90
SCALES = torch.tensor([1e4, 1.0])


def table():
    "Three clouds that move by a deviation from time to time, in columns of scales 1e4 and 1"
    x = torch.randn(len(TIMES), ROWS, 2, generator=make_generator(0, "table"))
    x = (x + torch.arange(len(TIMES))[:, None, None]) * SCALES
    columns = dict(day=np.repeat(TIMES, ROWS), size=x[..., 0].flatten(), age=x[..., 1].flatten())
    return {name: np.asarray(values) for name, values in columns.items()}


def write_csv(file, columns):
    with open(file, "w", newline="") as f:
        out = csv.writer(f)
        out.writerow(columns)
        out.writerows(zip(*columns.values()))


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    "A folder with tables, and with what is no such table"
    home = tmp_path_factory.mktemp("home")
    columns = table()
    write_csv(home / "cells.csv", columns)
    np.savez(home / "cells.npz", **columns)
    np.save(home / "plain.npy", columns["size"])
    write_csv(home / "words.csv", columns | dict(kind=["T cell"] * len(columns["day"])))
    write_csv(home / "once.csv", columns | dict(day=[2] * len(columns["day"])))
    write_csv(home / "two.csv", {name: v[: 2 * ROWS] for name, v in columns.items()})
    write_csv(home / "single.csv", {name: v[: ROWS + 1] for name, v in columns.items()})
    return home


@pytest.fixture(scope="module")
def done(home):
    "One run from beginning to end, in a process of its own, into the default folder"
    p = nsgf("fit", "cells.csv", "--time", "day", *FEW, cwd=home)
    assert p.returncode == 0, p.stderr
    return home / "runs/cells-ot-cfm", p


@pytest.fixture
def here(home, monkeypatch, capsys):
    "Call main in this process: exit code, standard output and standard error"
    monkeypatch.chdir(home)

    def call(*words):
        rc = main([str(w) for w in words])
        return rc, *capsys.readouterr()

    return call


def test_a_run_leaves_its_files_and_nothing_else(done):
    assert sorted(p.name for p in done[0].iterdir()) == sorted(FILES)


def test_the_settings(home, done):
    c = read(done[0] / "config.json")
    assert c["target"] == str(home / "cells.csv") and c["source"] is None
    assert (c["time"], c["columns"], c["weight"], c["method"]) == ("day", None, None, "ot-cfm")
    assert c["times"] == list(TIMES) and c["held_out"] == 0.2 and c["standardise"] is True
    assert c["parameters"]["iterations"] == 60 and "coupling" not in c["parameters"]


def test_the_numbers(done):
    m = read(done[0] / "metrics.json")
    assert [row["time"] for row in m["distances"]] == [4, 6.5] and m["nfe"] == 6
    for row in m["distances"]:
        assert row["n"] == 18 and row["held_out"] and 0 < row["w1"] <= row["w2"]
        assert 0 < row["w1_floor"] < row["w1_unmoved"]
    assert set(m["parts"]) == {"interval1", "interval2"}
    assert set(m["seconds"]) == {"matching", "evaluation"}


def test_what_is_said(done):
    p = done[1]
    assert p.stderr.startswith("day 2 → 4 → 6.5 of ") and "by ot-cfm, seed 0" in p.stderr
    assert "interval2: step 120 of 120: loss" in p.stderr
    assert "W1 at 6.5 " in p.stdout and "unmoved" in p.stdout
    assert "distances of 18, 18 points, to rows held out of the fit" in p.stdout


def test_samples_are_in_the_units_of_the_table(here, done):
    words = ("sample", done[0], "-n", 60, "--seed", 1)
    assert here(*words, "--times", 4, 5, 6.5)[0] == 0
    x = torch.from_numpy(np.load(done[0] / "samples.npy"))
    assert x.shape == (3, 60, 2) and x.dtype == torch.float32
    middle = torch.tensor([1.0, 1.4, 2.0])[:, None]
    assert ((x.mean(1) / SCALES - middle).abs() < 0.7).all()
    assert here(*words, "--out", "last.npy")[0] == 0
    assert np.array_equal(np.load("last.npy"), x[-1])
    rc, out, _ = here(*words, "--times", 4, 5, 6.5, "--out", "made.csv")
    assert rc == 0 and out == "made.csv: 180 rows of day, size, age\n"
    made = snapshots("made.csv")
    assert list(made) == [4, 5, 6.5] and made.columns == ("size", "age")
    assert torch.equal(made.points[5].float(), x[1])
    (done[0] / "samples.npy").unlink()


def test_eval_and_plot_repeat_themselves(here, done):
    old = read(done[0] / "metrics.json")
    rc, out, _ = here("eval", done[0])
    assert rc == 0 and "W2 at 4" in out
    assert read(done[0] / "metrics.json")["distances"] == old["distances"]
    before = (done[0] / "samples.png").read_bytes()
    (done[0] / "samples.png").unlink()
    assert here("plot", done[0])[0] == 0 and (done[0] / "samples.png").read_bytes() == before


def test_info(here, done):
    rc, out, _ = here("info", done[0])
    assert rc == 0 and out.startswith("day 2 → 4 → 6.5 of ") and "W1 at 4" in out


def test_a_finished_run_is_not_fitted_again(here, done):
    "The folder says that the run has times"
    before = (done[0] / "model.safetensors").read_bytes()
    assert here("fit", "cells.csv", "--out", done[0], "--resume")[0] == 0
    assert (done[0] / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize("text", ["interval1: step 24", "interval2: step 84"])
def test_a_killed_run_goes_on_to_the_same_weights(home, here, done, text):
    folder = text.partition(":")[0]
    words = ("fit", "cells.csv", "--time", "day", *FEW, "--out", folder)
    assert stop_at(start(*words, cwd=home), text, signal.SIGKILL)[0] == -signal.SIGKILL
    assert not (home / folder / "model.safetensors").exists()
    assert "not fitted to its end: step" in here("info", folder)[1]
    rc, _, said = here("fit", "cells.csv", "--out", folder, "--resume")
    assert rc == 0, said
    a, b = weights(done[0]), weights(home / folder)
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_a_stopped_run_says_how_to_go_on(home):
    words = ("fit", "cells.csv", "--time", "day", *FEW, "--out", "stopped")
    rc, said = stop_at(start(*words, cwd=home), "interval1: step", signal.SIGINT)
    assert rc == 130 and "Traceback" not in said
    assert "nsgf fit cells.csv --out stopped --resume --time day" in said


def test_nsgf_between_the_times_of_an_npz(here):
    "Two times; nothing is held out, one column, another method"
    small = ("num_steps=2", "pool_size=135", "group=45", "iterations=5", "batch_size=16")
    words = ("--time", "day", "--method", "nsgf", "--columns", "age", "--held-out", 0)
    rc, out, said = here("fit", "cells.npz", *words, "--set", *small)
    assert rc == 0 and "distances of 45, 45 points, to rows of the fit" in out, said
    assert here("sample", "runs/cells-nsgf", "-n", 7, "--times", 3)[0] == 0
    assert np.load("runs/cells-nsgf/samples.npy").shape == (1, 7, 1)


def test_times_that_are_left_out(here, done):
    rc, out, said = here("eval", done[0], "--leave-out")
    assert rc == 0 and "time 4 left out, W2 of 45 points: model" in out, said
    assert read(done[0] / "metrics.json")["left_out"][0]["time"] == 4


def test_a_table_that_has_changed(home, here, done):
    changed = home / "changed"
    changed.mkdir()
    for file in done[0].iterdir():
        (changed / file.name).write_bytes(file.read_bytes())
    config = read(changed / "config.json") | dict(target=str(home / "two.csv"))
    (changed / "config.json").write_text(json.dumps(config))
    rc, out, err = here("eval", changed)
    assert (rc, out) == (2, "") and "two.csv: expected the times of the fit" in err
    config |= dict(target=str(home / "gone.csv"))
    (changed / "config.json").write_text(json.dumps(config))
    rc, out, err = here("sample", changed, "-n", 5)
    assert (rc, out) == (2, "") and "gone.csv: no such file" in err


WRONG = [  # words after nsgf, what standard error says
    (
        "fit cells.csv --time dya",
        "nsgf: cells.csv: unknown time column 'dya': did you mean 'day'? known: day, size, age",
    ),
    (
        "fit cells.csv --time day --columns aeg",
        "nsgf: cells.csv: unknown column 'aeg': did you mean 'age'?",
    ),
    (
        "fit cells.csv --time day --weight w",
        "nsgf: cells.csv: unknown weight column 'w': known: day, size",
    ),
    (
        "fit words.csv --time day",
        "nsgf: words.csv: expected numbers, got 'T cell' in the column kind: choose the columns",
    ),
    (
        "fit once.csv --time day",
        "nsgf: once.csv: expected at least 2 times in the column day, got 1",
    ),
    ("fit single.csv --time day", "nsgf: single.csv: expected at least 2 rows at each time, got 1"),
    (
        "fit cells.csv --time day --source moons",
        "nsgf: --source: expected none, the first time is the source, got moons",
    ),
    (
        "fit cells.csv --time day --held-out 1",
        "nsgf: --held-out: expected a share from 0 to below 1, got 1",
    ),
    (
        "fit two.csv --time day --leave-out",
        "nsgf: --leave-out: expected at least 3 times, got 2",
    ),
    (
        "fit cells.csv --time day --method nsgf++",
        "nsgf: --method: expected one flow between two times, got 'nsgf++'",
    ),
    ("fit cells.csv --time day --method otcfm", "nsgf: unknown method 'otcfm': did you mean"),
    ("fit cells.csv --time day --set iters=5", "nsgf: unknown option 'iters': did you mean"),
    ("fit moons --time day", "nsgf: moons: no such file, and --time is of a table"),
    ("fit plain.npy --time day", "nsgf: {home}/plain.npy: expected an array whose columns have"),
    (
        "fit cells.csv --time day --preset quik",
        "nsgf: unknown preset of StraightFlow 'quik': did you mean 'quick'?",
    ),
    ("fit cells.csv --time day --size 8", "nsgf: --size: expected a folder of images, got cells"),
    ("fit words.csv", "nsgf: words.csv: expected numbers, got 'T cell' in the column kind"),
    (
        "fit moons --columns x",
        "nsgf: --columns: expected a run through several times, with --time COLUMN",
    ),
    (
        "fit cells.csv --time day --out runs/cells-ot-cfm",
        "nsgf: runs/cells-ot-cfm: not empty, expected a new or empty folder, or --resume",
    ),
    (
        "fit cells.csv --time age --out runs/cells-ot-cfm --resume",
        "nsgf: runs/cells-ot-cfm: cannot resume, time was day, is now age",
    ),
    (
        "fit cells.csv --out runs/cells-ot-cfm --resume --set lr=1",
        "nsgf: runs/cells-ot-cfm: cannot resume, lr was 0.02, is now 1",
    ),
    (
        "sample runs/cells-ot-cfm -n 5 --times 4 7",
        "nsgf: times: expected times from 2 to 6.5, got 7",
    ),
    (
        "sample runs/cells-ot-cfm -n 5 --out x.pt",
        "nsgf: --out: expected a .npy or .csv file, got x.pt",
    ),
    (
        "sample runs/cells-ot-cfm -n 500",
        "nsgf: n: expected at most 72, the points of cells.csv at 2, where samples start, got 500",
    ),
]


@pytest.mark.parametrize("words, sentence", WRONG, ids=[w for w, _ in WRONG])
def test_bad_input_is_one_sentence(home, here, done, words, sentence):
    before = sorted(home.rglob("*"))
    new = [] if "--out" in words or words.startswith("sample") else ["--out", "new"]
    rc, out, err = here(*words.split(), *new)
    assert (rc, out) == (2, "") and err.startswith(sentence.format(home=home)), err
    assert err.count("\n") == 1 and "Traceback" not in err
    assert sorted(home.rglob("*")) == before


def test_times_of_a_run_without_times(here):
    assert here("fit", "moons", "--method", "fm", "--set", "iterations=2", "--out", "plain")[0] == 0
    rc, _, err = here("sample", "plain", "-n", 5, "--times", 4)
    assert rc == 2 and err.startswith("nsgf: --times: expected a run through several times")
    rc, _, err = here("fit", "cells.csv", "--time", "day", "--out", "plain", "--resume")
    assert rc == 2 and err.startswith("nsgf: plain: expected a run with --time, this one goes from")


def test_a_preset_of_the_flows(home, here):
    few = ("--set", "iterations=3", "num_steps=2", "batch_size=16")
    words = ("fit", "cells.csv", "--time", "day", "--preset", "quick", "--out", "quick", *few)
    assert here(*words)[0] == 0
    c = read(home / "quick/config.json")["parameters"]
    assert (c["iterations"], c["lr"], c["ema"]) == (3, 4e-3, 0.99)
    assert here(*words, "--resume")[0] == 0
