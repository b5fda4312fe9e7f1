"A population in time: the contract of a chain, and what is no lesson in nbs/7_family/04"

import pickle
import signal

import numpy as np
import pytest
import torch
from toy_method import EnergyGenerator

import nsgf_nb
from nsgf_nb import NSGF, Model, StraightFlow, Trajectory, leave_one_out, snapshots
from nsgf_nb.core import make_generator

FEW = dict(iterations=3, batch_size=8)
STEPS = dict(method="nsgf", num_steps=2, pool_size=96, group=32) | FEW
KINDS = {"ot-cfm": FEW, "nsgf": STEPS, "instance": StraightFlow("independent", **FEW)}
DATA = {
    t: torch.randn(200, 2, generator=make_generator(0, "data", i)) + t
    for i, t in enumerate((2, 4, 6))
}
every_kind = pytest.mark.parametrize("kind", KINDS)


def fitted(kind="ot-cfm", data=DATA, **kw):
    return Trajectory(KINDS[kind], device="cpu").fit(data, seed=0, progress=False, **kw)


@every_kind
def test_a_sample_and_a_file(kind, tmp_path):
    model = fitted(kind)
    z = model.sample(7, times=[2, 3, 4, 5.5, 6], seed=1)
    assert z.shape == (5, 7, 2) and z.isfinite().all()
    assert torch.equal(model.sample(7, seed=1), z[-1])
    assert torch.equal(model.sample(7, times=3, seed=1), z[1])
    x0 = z[0]
    assert torch.allclose(model.sample(x0=x0, times=[2, 6]), z[[0, -1]], atol=1e-5)
    assert torch.allclose(model.sample(x0=z[2], start=4), z[-1], atol=1e-5)
    again = Model.load(model.save(tmp_path / "model.safetensors"), device="cpu")
    assert type(again) is Trajectory and again.history == model.history
    assert again.settings() == model.settings() and again.times == [2, 4, 6]
    assert torch.equal(again.sample(x0=x0, times=[3, 6]), model.sample(x0=x0, times=[3, 6]))
    t = torch.linspace(2, 6, 7)
    assert torch.equal(again.velocity(x0, t), model.velocity(x0, t))
    assert torch.equal(pickle.loads(pickle.dumps(model)).sample(7, seed=1), z[-1])


@every_kind
def test_one_history(kind):
    model = fitted(kind)
    assert [row["step"] for row in model.history] == [1, 2, 3, 4, 5, 6]
    assert [row["part"] for row in model.history] == ["interval1"] * 3 + ["interval2"] * 3
    assert model.iterations == 6 and repr(model).startswith("Trajectory(")


@every_kind
@pytest.mark.parametrize("step", [2, 5])
def test_a_stopped_fit_goes_on_to_the_same_bits(kind, step, tmp_path):
    def stop(row):
        if row["step"] == step:
            signal.raise_signal(signal.SIGINT)

    model = Trajectory(KINDS[kind], device="cpu")
    with pytest.raises(KeyboardInterrupt):
        model.fit(DATA, seed=0, workdir=tmp_path, callbacks=[stop], progress=False)
    assert model.velocity is None and model.parts() == {}  # as it was
    model.fit(DATA, seed=0, workdir=tmp_path, resume=True, progress=False)
    whole = fitted(kind)
    assert torch.equal(model.sample(7, seed=1), whole.sample(7, seed=1))
    strip = [
        {k: v for k, v in row.items() if k in ("part", "step", "loss")} for row in whole.history
    ]
    assert [{k: row[k] for k in strip[0]} for row in model.history] == strip


def test_other_data_are_not_resumed(tmp_path):
    fitted(workdir=tmp_path)
    with pytest.raises(ValueError, match="cannot resume, the data of the target have changed"):
        fitted(data=DATA | {4: DATA[4] + 1}, workdir=tmp_path, resume=True)
    with pytest.raises(ValueError, match="resume: expected a workdir to resume from"):
        fitted(resume=True)


def test_a_fit_that_fails_leaves_the_trajectory_as_it_was():
    model = fitted()
    z = model.sample(7, seed=1)
    with pytest.raises(ValueError, match="data at 4: target: all points are the same"):
        model.fit({2: DATA[2], 4: torch.ones(9, 2)}, progress=False)
    assert torch.equal(model.sample(7, seed=1), z) and model.times == [2, 4, 6]


def test_the_velocity_is_that_of_the_paths():
    "A small step along the velocity is where sample is a small time later"
    model = fitted()
    x0 = DATA[2][:50]
    for t, last in ((2.05, 2), (3.1, 3), (4.05, 4), (5.3, 5.2)):  # steps of .2 are straight
        x = model.sample(x0=x0, times=[last, t])
        field = model.velocity(x[0], last)
        assert torch.allclose((x[1] - x[0]) / (t - last), field, atol=1e-3 * field.abs().max())


def test_velocity_may_be_differentiated_and_takes_many_times():
    model = fitted()
    x = DATA[2][:5].clone().requires_grad_()
    t = torch.tensor([2.0, 6.0, 4.0, 3.0, 5.0])
    v = model.velocity(x, t)
    v.sum().backward()
    assert x.grad.isfinite().all()
    for i in range(5):
        assert torch.allclose(model.velocity(x[i : i + 1], t[i].item()), v[i : i + 1], atol=1e-5)


def test_the_units_of_a_table_come_out(tmp_path):
    "The flows of a table with columns of scales 1e4 and 1 are those of its standard units"
    unit = torch.tensor([1e4, 1.0])
    x = torch.cat(list(DATA.values()))
    day = torch.tensor(list(DATA)).repeat_interleave(200)
    small = snapshots(dict(day=day, x=x))
    large = snapshots(dict(day=day, x=x * unit))
    a, b = (fitted(data=cells) for cells in (small, large))
    z = a.sample(50, times=[3, 6], seed=1)
    assert torch.allclose(b.sample(50, times=[3, 6], seed=1) / unit, z, atol=1e-4)
    assert torch.allclose(b.sample(x0=DATA[2] * unit) / unit, a.sample(x0=DATA[2]), atol=1e-4)
    assert torch.allclose(b.velocity(DATA[2] * unit, 3) / unit, a.velocity(DATA[2], 3), atol=1e-4)
    assert torch.allclose(b.source(9, make_generator(0, "x")), large[2](9, make_generator(0, "x")))
    again = Trajectory.load(b.save(tmp_path / "t.safetensors"), device="cpu")
    x0 = DATA[2] * unit
    assert torch.equal(again.sample(x0=x0, times=5), b.sample(x0=x0, times=5))


def test_times_may_be_any_real_numbers_in_any_order():
    data = {np.float64(0.5): DATA[4], -1: DATA[2], 1: DATA[6]}
    model = fitted(data=data)
    assert model.times == [-1, 0.5, 1]
    assert model.sample(3, times=[1, -1, 0.7, 1], seed=0).shape == (4, 3, 2)
    assert set(model.parts()) == {"interval1", "interval2"}


def test_images_move_too():
    data = {t: torch.rand(40, 1, 4, 4) * (1 + t) for t in (0, 1)}
    model = fitted(data=data)
    assert model.sample(3, times=[0.2, 0.5]).shape == (2, 3, 1, 4, 4)


def test_a_flow_of_ones_own(tmp_path):
    mine = EnergyGenerator(**FEW)
    model = Trajectory(mine).fit(DATA, seed=0, progress=False)
    assert model.settings()["flow"]["method"] == "toy_method:EnergyGenerator" and mine.net is None
    again = Trajectory.load(model.save(tmp_path / "t.safetensors"))
    assert torch.equal(again.sample(x0=DATA[2]), model.sample(x0=DATA[2]))


def test_a_flow_that_is_copied_stays_unfitted():
    flow = NSGF(**{k: v for k, v in STEPS.items() if k != "method"}, device="cpu")
    Trajectory(flow).fit(DATA, seed=0, progress=False)
    assert flow.velocity is None
    start = StraightFlow(**FEW, device="cpu").fit("moons", seed=0, progress=False)
    with pytest.raises(ValueError, match="flow: expected one that begins at the data, got a model"):
        Trajectory(StraightFlow(start=start))


def test_a_file_imports_nothing():
    with pytest.raises(ImportError, match="what a file names is not imported"):
        Trajectory(dict(method="no_such_module:Flow"))


@pytest.mark.parametrize("times", [[2, 4], [6, 4, 2], [2, 4, 4], [2, 4, "x"]])
def test_a_file_of_other_times_is_damaged(times):
    model = fitted()
    tensors, facts = model.contents()
    with pytest.raises(ValueError, match="t.safetensors: damaged: times are not those"):
        Trajectory(FEW).restore("t.safetensors", tensors, facts | dict(times=times))


@pytest.mark.parametrize(
    "data, sentence",
    [
        ({"day 2": 1, 4: 1}, "data: expected times that are numbers, got 'day 2'"),
        ({True: 1, 4: 1}, "data: expected times that are numbers, got True"),
        ({float("nan"): 1, 4: 1}, "data: expected times that are numbers, got nan"),
        (
            {2: torch.ones(9, 1), 4: torch.ones(9, 2)},
            "data: expected points of one shape at all times, got (1,) and (2,)",
        ),
    ],
)
def test_one_sentence(data, sentence):
    with pytest.raises((TypeError, ValueError)) as e:
        Trajectory(FEW).fit(data, progress=False)
    assert sentence in str(e.value)


def test_not_fitted():
    with pytest.raises(ValueError, match="sample: the trajectory is not fitted"):
        Trajectory().sample(3)


def test_the_package_lends_them():
    assert nsgf_nb.Trajectory is Trajectory and nsgf_nb.leave_one_out is leave_one_out


def test_leave_one_out_is_repeatable_and_pairs_its_draws():
    model = Trajectory(FEW, device="cpu")
    a, b = (leave_one_out(DATA, model, n=50, draws=2, progress=False) for _ in range(2))
    assert a == b and [r.time for r in a] == [4] and a[0].n == 50 and model.velocity is None
    assert set(a[0].scores) == {"model", "floor", "nearest", "line"}
    assert all(len(values) == 2 for values in a[0].scores.values())
    assert str(a[0]).startswith("time 4 left out, W2 of 50 points: model ")


def test_a_distance_has_as_many_points_as_the_smallest_snapshot_allows():
    data = DATA | {4: DATA[4][:90]}
    (row,) = leave_one_out(data, Trajectory(FEW, device="cpu"), draws=2, progress=False)
    assert row.n == 45
