"""Tasks that a user has, each as a short script from README, the site and `help` alone.

 1  My table, a CSV file, becomes new rows, in six lines.
 2  Source and target are NumPy arrays, and my points come back as an array.
 3  Clone a flow, and search over two blurs with scikit-learn.
 4  A Sinkhorn loss in my training loop, in place of GeomLoss's.
 5  Labelled digits: samples by class.
 6  The colours of one picture, given to another.
 7  A fitted flow is kept by joblib and by pickle, and so is a sampler.
 8  A flow on points in space, with a plot.
 9  My points have weights.
10  A network of my own.
11  A fit is killed, and goes on.
12  Is the fit good? Distances beside their floors.
13  A folder of pictures: fit, and save samples as pictures.
14  From A to B, without pairs.
15  The velocity of a moving cloud.
16  A generator, trained by the divergence.
17  A plan between two samples: where does a new point go, and where might it go?
18  A bridge: many ends of one start.
19  Cells of two days: which of them grew?
20  A table with a column of times, in the shell, and samples of a time between.
21  Which data sets, methods and options are there? In the shell.
22  Save, and go on in another process.
23  A flow in a loop of my own, with a network and with pairs of my own.
24  Which blur and which group for my data?
25  How likely are these points? Which are outliers?
26  Sixteen digits at once, from the model that comes with the package.
27  Fewer steps, another solver, and an animation.
28  A quick fit in the shell, and one page to send to somebody.
29  A file of points with classes: samples of one of them, as a table.
30  Pictures of several sizes, in the shell.
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

QUICK = dict(num_steps=5, group=64, pool_size=512, iterations=200, batch_size=64, device="cpu")
FEW = dict(iterations=200, batch_size=64, device="cpu")
pytestmark = pytest.mark.filterwarnings("ignore::nsgf_nb.core.RegimeWarning")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    "Each script runs in a folder of its own, with torch's random numbers seeded."
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    return tmp_path


def shell(line):
    "A line of a user's shell: `nsgf ...`. What it prints."
    command = [sys.executable, "-c", "import sys; from nsgf_nb.cli import main; sys.exit(main())"]
    run = subprocess.run([*command, *line.split()[1:]], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return run.stdout


def three_days():
    "Rows of a table: a day, and two measurements that move with it."
    rng = np.random.default_rng(0)
    days = np.repeat([0.0, 2.0, 4.0], 150)
    return np.column_stack([days, rng.normal(size=(450, 2)) * [1, 100] + days[:, None] * [1, 100]])


def test_01_my_table():
    rng = np.random.default_rng(0)
    mine = rng.normal(size=(500, 3)) * [1, 10, 100] + [0, 5, 50]
    np.savetxt("mine.csv", mine, delimiter=",", header="a,b,c", comments="")

    from nsgf_nb import NSGF

    x = np.loadtxt("mine.csv", delimiter=",", skiprows=1)
    mean, scale = x.mean(0), x.std(0)
    flow = NSGF(**QUICK).fit((x - mean) / scale, seed=0, progress=False)
    new = flow.sample(1000, seed=1).numpy() * scale + mean
    np.savetxt("new.csv", new, delimiter=",", header="a,b,c", comments="")

    assert (np.abs(new.mean(0) - mean) < 0.25 * scale).all()
    assert (np.abs(new.std(0) / scale - 1) < 0.3).all()


def test_02_arrays_in_arrays_out():
    from nsgf_nb import NSGF, SinkhornVelocity

    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(500, 2)), rng.normal(size=(500, 2)) + [4, 0]
    flow = NSGF(**QUICK).fit(b, source=a, seed=0, progress=False)
    moved = flow.transform(a)
    path = flow.sample(x0=a, return_path=True)
    v = flow.velocity(a, 0.0)
    exact = SinkhornVelocity(relative_blur=0.5)(a, b)

    assert all(isinstance(z, np.ndarray) for z in (moved, path, v, exact))
    assert moved.shape == v.shape == exact.shape == (500, 2) and path.shape == (6, 500, 2)
    assert np.allclose(moved, path[-1]) and np.abs(moved.mean(0) - [4, 0]).max() < 0.3
    assert np.square(v - exact).sum() < 0.1 * np.square(exact).sum()


def test_03_search():
    from sklearn.base import clone
    from sklearn.model_selection import GridSearchCV

    from nsgf_nb import NSGF, FlowEstimator, get_sampler

    flow = NSGF(**QUICK)
    again = clone(flow)
    assert again is not flow and again.get_params() == flow.get_params()

    x = get_sampler("moons")(400).numpy()
    grid = {"model__relative_blur": [(0.5, 0.1), (4.0, 4.0)]}
    search = GridSearchCV(FlowEstimator(flow), grid, cv=2).fit(x)

    assert search.best_params_ == {"model__relative_blur": (0.5, 0.1)}
    best = search.best_estimator_
    assert best.score(x) == best.model_.score(x)  # one meaning, for flows and estimators


def test_04_loss():
    geomloss = pytest.importorskip("geomloss")

    from nsgf_nb import SinkhornLoss

    ours = SinkhornLoss(blur=0.5)
    theirs = geomloss.SamplesLoss(p=2, blur=0.5, scaling=0.99, backend="tensorized")
    y = torch.randn(200, 3) + 1
    net = torch.nn.Linear(2, 3)
    adam = torch.optim.Adam(net.parameters(), lr=0.05)
    losses = []
    for _ in range(40):
        x = net(torch.randn(150, 2))
        loss = ours(x, y)
        adam.zero_grad()
        loss.backward()
        adam.step()
        losses.append(loss.item())
        if len(losses) % 10 == 1:
            assert losses[-1] == pytest.approx(theirs(x, y).item(), rel=1e-3)

    assert losses[-1] < 0.3 * losses[0]


def test_05_digits_by_class():
    from sklearn.datasets import load_digits
    from sklearn.linear_model import LogisticRegression

    from nsgf_nb import MLP, StraightFlow

    data = load_digits()
    x, label = data.images[:, None] / 8 - 1, data.target  # (n, 1, 8, 8), in [-1, 1]
    net = MLP((1, 8, 8), hidden=256, num_classes=10)
    flow = StraightFlow("ot", network=net, iterations=350, batch_size=64, ema=0.99, device="cpu")
    flow.fit((x, label), seed=0, progress=False)
    wanted = np.arange(200) % 10
    made = flow.sample(200, label=wanted, guidance=1.0, seed=1)

    reader = LogisticRegression(max_iter=200).fit(x.reshape(-1, 64), label)
    assert (reader.predict(made.flatten(1).numpy()) == wanted).mean() > 0.8


def test_06_colours():
    from sklearn.datasets import load_sample_image

    from nsgf_nb import EntropicPlan, w2

    temple = torch.tensor(load_sample_image("china.jpg")[::20, ::20] / 255).float()
    flower = torch.tensor(load_sample_image("flower.jpg")[::20, ::20] / 255).float()
    colours, wanted = temple.reshape(-1, 3), flower.reshape(-1, 3)
    plan = EntropicPlan(colours, wanted, relative_blur=0.1)
    painted = plan.map(colours).reshape(temple.shape)
    Image.fromarray((painted.clamp(0, 1) * 255).byte().numpy()).save("painted.png")

    assert w2(painted.reshape(-1, 3), wanted) < 0.3 * w2(colours, wanted)
    assert Image.open("painted.png").size == (32, 22)


def test_07_kept():
    import pickle

    import joblib

    from nsgf_nb import FlowEstimator, StraightFlow, get_sampler

    flow = StraightFlow(**FEW).fit("moons", seed=0, progress=False)
    joblib.dump(flow, "flow.joblib")
    sampler = get_sampler("moons", noise=0.1)
    estimator = FlowEstimator(StraightFlow(**FEW)).fit(sampler(100))

    again = joblib.load("flow.joblib")
    assert torch.equal(again.sample(9, seed=1), flow.sample(9, seed=1))
    again = pickle.loads(pickle.dumps(flow))
    assert torch.equal(again.sample(9, seed=1), flow.sample(9, seed=1))
    seeded = lambda: torch.Generator().manual_seed(0)
    again = pickle.loads(pickle.dumps(sampler))
    assert torch.equal(again(9, seeded()), sampler(9, seeded()))
    joblib.dump(estimator, "estimator.joblib")
    assert np.array_equal(joblib.load("estimator.joblib").sample(9), estimator.sample(9))


def test_08_in_space():
    from nsgf_nb import NSGF, panels

    x = torch.randn(500, 3)
    ring = 3 * x / x.norm(dim=1, keepdim=True) * torch.tensor([1, 1, 0.2])
    flow = NSGF(**QUICK).fit(ring, seed=0, progress=False)
    made = flow.sample(400, seed=1)
    figure = panels({"data": ring, "samples": made}, target=ring)
    figure.savefig("space.png")

    assert made.shape == (400, 3) and Image.open("space.png").width > 100
    with pytest.raises(ValueError, match="choose two or three of the columns"):
        panels({"wide": torch.randn(9, 7)})


def test_09_weights():
    from nsgf_nb import SinkhornVelocity, StraightFlow, get_sampler

    left, right = torch.randn(300, 2) - 4, torch.randn(300, 2) + 4
    x, w = torch.cat([left, right]), torch.tensor([3.0, 1.0]).repeat_interleave(300)
    flow = StraightFlow("ot", **FEW | dict(iterations=500, ema=0.99))
    flow.fit(get_sampler(x, weights=w), seed=0, progress=False)
    share = (flow.sample(2000, seed=1)[:, 0] < 0).float().mean()
    v = SinkhornVelocity(blur=1.0)(torch.zeros(1, 2), x, b=w)  # the mean of x under w is at -2

    assert abs(share - 0.75) < 0.1
    assert torch.allclose(v, torch.full((1, 2), -4.0), atol=2.5)
    assert (v < -0.5).all()


def test_10_own_network():
    from nsgf_nb import StraightFlow

    class Mine(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = torch.nn.Sequential(
                torch.nn.Linear(3, 64), torch.nn.Tanh(), torch.nn.Linear(64, 2)
            )

        def forward(self, x, t, label=None):
            return self.layers(torch.cat([x, t[:, None]], 1))

    x = torch.randn(500, 2) * 0.5 + 3
    flow = StraightFlow(network=Mine(), **FEW | dict(iterations=500, ema=0.99))
    flow.fit(x, seed=0, progress=False)
    flow.save("mine.safetensors")
    again = StraightFlow.load("mine.safetensors", network=Mine())

    made = flow.sample(1000, seed=1)
    assert (made.mean(0) - 3).abs().max() < 0.2
    assert torch.equal(again.sample(1000, seed=1, x0=None), made)


def test_11_killed():
    from nsgf_nb import NSGF

    def kill(row):
        if row["step"] == 100:
            raise KeyboardInterrupt

    os.mkdir("work")
    flow = NSGF(**QUICK)
    with pytest.raises(KeyboardInterrupt):
        flow.fit("moons", seed=0, workdir="work", callbacks=[kill], progress=False)
    flow.fit("moons", seed=0, workdir="work", resume=True, progress=False)

    whole = NSGF(**QUICK).fit("moons", seed=0, progress=False)
    assert torch.equal(flow.sample(50, seed=1), whole.sample(50, seed=1))


def test_12_judged():
    from nsgf_nb import NSGF, get_sampler, w2, w2_floor
    from nsgf_nb.distances import distances

    target = get_sampler("moons")
    flow = NSGF(**QUICK | dict(iterations=400)).fit(target, seed=0, progress=False)
    found = w2(flow.sample(500, seed=1), target(500))
    floor, spread = w2_floor(target, 500)
    table = distances(target, flow.sample(500, seed=2), n=500, pairs=3)

    assert 0 < spread < floor < found
    assert table["w2"] > table["w2_floor"] and table["mmd"] > table["mmd_floor"]
    assert flow.score(target(500)) < 0.05


def test_13_folder_of_pictures():
    os.mkdir("pictures")
    rng = np.random.default_rng(0)
    for k in range(40):
        pixels = rng.integers(0, 100, (10, 12, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(f"pictures/{k}.png")

    from nsgf_nb import MLP, StraightFlow, get_sampler, to_images

    pictures = get_sampler("folder", path="pictures", size=8)
    flow = StraightFlow(network=MLP((3, 8, 8)), iterations=60, batch_size=16, device="cpu")
    flow.fit(pictures, seed=0, progress=False)
    made = to_images(flow.sample(5, seed=1))
    made[0].resize((80, 80)).save("first.png")

    assert len(made) == 5 and made[0].size == (8, 8) and Image.open("first.png").mode == "RGB"


def test_14_from_a_to_b():
    from nsgf_nb import StraightFlow, get_sampler

    a, b = get_sampler("8gaussians"), get_sampler("moons")
    flow = StraightFlow("ot", iterations=400, batch_size=64, ema=0.99, device="cpu")
    flow.fit(b, source=a, seed=0, progress=False)
    x = a(500)
    moved = flow.transform(x)

    assert moved.shape == x.shape
    assert flow.score(b(500)) > -0.1
    same_order = torch.corrcoef(torch.stack([x[:, 0], moved[:, 0]]))[0, 1]
    assert same_order > 0.6  # transport keeps left to the left


def test_15_velocity_of_a_moving_cloud():
    from nsgf_nb import SinkhornVelocity, particle_flow

    x, y = torch.randn(200, 2), torch.randn(250, 2) * 0.5 + 3
    velocity = SinkhornVelocity(blur=0.5)
    info = None
    for _ in range(20):
        v, info = velocity(x, y, init=info, return_info=True)
        x = x + 0.3 * v
    there = particle_flow(torch.randn(200, 2), y, velocity, num_steps=10)

    assert info.converged and "converged" in repr(info)
    assert (x.mean(0) - y.mean(0)).abs().max() < 0.05 and v.norm(dim=1).mean() < 0.1
    assert (there.mean(0) - y.mean(0)).abs().max() < 0.05


def test_16_generator():
    from nsgf_nb import SinkhornGenerator, sinkhorn_divergence

    y = torch.randn(256, 2) * torch.tensor([2.0, 0.5]) + torch.tensor([1.0, -1.0])
    net = torch.nn.Sequential(torch.nn.Linear(2, 32), torch.nn.SiLU(), torch.nn.Linear(32, 2))
    adam = torch.optim.Adam(net.parameters(), lr=0.02)
    losses = []
    for _ in range(80):
        loss = sinkhorn_divergence(net(torch.randn(128, 2)), y, blur=0.5)
        adam.zero_grad()
        loss.backward()
        adam.step()
        losses.append(loss.item())
    made = net(torch.randn(2000, 2)).detach()

    assert losses[-1] < 0.1 * losses[0]
    assert (made.mean(0) - y.mean(0)).abs().max() < 0.4

    ready = SinkhornGenerator(iterations=100, batch_size=64, device="cpu")  # the same, ready made
    made = ready.fit(y, seed=0, progress=False).sample(500, seed=1)
    assert made.shape == (500, 2) and ready.nfe == 1


def test_17_plan():
    from nsgf_nb import EntropicPlan

    x, y = torch.randn(300, 2), torch.cat([torch.randn(200, 2) - 3, torch.randn(200, 2) + 3])
    plan = EntropicPlan(x, y, blur=1.0)
    new = torch.zeros(400, 2)
    mean = plan.map(new)
    ends = plan.resample(new)

    assert torch.allclose(mean, mean[:1].expand(400, 2))
    assert (ends[:, None] == y).all(2).any(1).all()  # points of y
    assert 0.1 < (ends[:, 0] < 0).float().mean() < 0.9  # of both clusters
    assert (ends.mean(0) - mean[0]).abs().max() < 0.6
    plan.save("plan.safetensors")
    assert torch.equal(EntropicPlan.load("plan.safetensors").map(new), mean)


def test_18_bridge():
    from nsgf_nb import SchrodingerBridge

    y = torch.cat([torch.randn(300, 2) * 0.3 - 2, torch.randn(300, 2) * 0.3 + 2])
    bridge = SchrodingerBridge(
        blur=2.0, cloud=128, num_steps=20, iterations=400, batch_size=64, ema=0.99, device="cpu"
    )
    bridge.fit(y, source="normal", seed=0, progress=False)
    ends = bridge.sample(x0=torch.zeros(500, 2), seed=1)  # 500 times from one point

    assert 0.15 < (ends[:, 0] < 0).float().mean() < 0.85
    assert ends.std(0).min() > 1


def test_19_growth():
    from nsgf_nb import growth

    few, many = torch.randn(200, 2) - 4, torch.randn(200, 2) + 4
    before = torch.cat([few, many])
    after = torch.cat([torch.randn(100, 2) - 4, torch.randn(300, 2) + 4])
    grew = growth(before, after, blur=1.0)  # descendants over the mean

    assert grew[:200].mean() == pytest.approx(0.5, abs=0.15)
    assert grew[200:].mean() == pytest.approx(1.5, abs=0.15)


def test_20_times_in_the_shell():
    header = "day,size,age"
    np.savetxt("cells.csv", three_days(), delimiter=",", header=header, comments="")

    shell("nsgf fit cells.csv --time day --out run --set iterations=100 batch_size=64")
    shell("nsgf sample run -n 100 --times 1 3 --out between.csv")

    rows = np.loadtxt("between.csv", delimiter=",", skiprows=1)
    assert Path("between.csv").read_text().startswith(header + "\n") and rows.shape == (200, 3)
    early, late = rows[rows[:, 0] == 1, 1:], rows[rows[:, 0] == 3, 1:]
    assert (early.mean(0) < late.mean(0)).all()
    assert (np.abs(early.mean(0) / [1, 100] - 1) < 0.5).all()


def test_21_what_is_there():
    said = shell("nsgf list")
    options = shell("nsgf fit moons --method bridge --set help")

    for word in ("moons", "8gaussians", "digits", "nsgf++", "ot-cfm", "bridge", "mnist"):
        assert word in said
    assert "relative_blur" in options and "iterations" in options


def test_22_another_process():
    from nsgf_nb import NSGF

    flow = NSGF(**QUICK).fit("moons", seed=0, progress=False)
    flow.save("flow.safetensors")
    script = """
import numpy as np
from nsgf_nb import Flow
flow = Flow.load("flow.safetensors")
np.save("there.npy", flow.sample(20, seed=1).numpy())
print(flow)
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)

    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith("NSGF(") and "fitted" in run.stdout
    assert np.allclose(np.load("there.npy"), flow.sample(20, seed=1).numpy(), atol=1e-5)


def test_23_own_loop():
    from nsgf_nb import energy_distance, get_sampler, integrate, sample_lines

    def by_angle(x0, x1):
        "Pairs of the same rank, when both batches are sorted by their first coordinate."
        rows = torch.empty(len(x0), dtype=torch.long)
        rows[x0[:, 0].argsort()] = x1[:, 0].argsort()
        return rows

    target = get_sampler("moons")
    for coupling, options in (("entropic", dict(blur=0.3)), ("ot", {}), (by_angle, {})):
        net = torch.nn.Sequential(torch.nn.Linear(3, 64), torch.nn.SiLU(), torch.nn.Linear(64, 2))
        adam = torch.optim.Adam(net.parameters(), lr=0.01)
        for _ in range(200):
            t, xt, ut = sample_lines(torch.randn(128, 2), target(128), coupling, **options)
            loss = (net(torch.cat([xt, t[:, None]], 1)) - ut).square().mean()
            adam.zero_grad()
            loss.backward()
            adam.step()

        velocity = lambda x, t, net=net: net(torch.cat([x, torch.full((len(x), 1), t)], 1))
        with torch.no_grad():
            path, _ = integrate(velocity, torch.randn(500, 2), [k / 10 for k in range(11)])
        made, data = path[-1], target(500)
        assert energy_distance(made, data) < 0.2 * energy_distance(path[0], data)


def test_24_advice():
    from nsgf_nb import NSGF, advise

    x, y = torch.randn(200, 2), torch.randn(200, 2) * 0.5 + 2
    advice = advise(x, y, max_group=64, show=False)
    flow = NSGF(**advice.settings())

    assert flow.relative_blur == advice.relative_blur and flow.group == advice.group
    assert "suggested" in str(advice) and advice.share() <= advice.share(relative_blur=0.1)


def test_25_outliers():
    from nsgf_nb import StraightFlow

    x = torch.randn(1000, 2) * 0.5 + 1
    flow = StraightFlow(**FEW | dict(iterations=600, batch_size=128, ema=0.99))
    flow.fit(x, seed=0, progress=False)
    usual, strange = torch.ones(1, 2), torch.tensor([[5.0, -4.0]])
    log_p = flow.log_prob(torch.cat([usual, strange]), num_steps=20)

    exact = -np.log(2 * np.pi * 0.25)  # of the density at its mean
    assert log_p[0].item() == pytest.approx(exact, abs=0.5) and log_p[1] < log_p[0] - 5


def test_26_shipped():
    from nsgf_nb import NSGFPlusPlus, image_grid, list_pretrained, to_images

    name = list_pretrained()[0]
    flow = NSGFPlusPlus.from_pretrained(name)
    x = flow.sample(16, seed=0)
    image_grid(x, ncols=8).savefig("digits.png")
    first = to_images(x)[0]

    assert name == "mnist" and first.size == (28, 28) and flow.about["method"] == "nsgf++"
    assert 0.03 < np.mean(np.asarray(first) > 128) < 0.5 and Image.open("digits.png").width > 100


def test_27_steps_and_solvers():
    from nsgf_nb import NSGF, StraightFlow
    from nsgf_nb.plot import save_gif

    flow = NSGF(**QUICK | dict(num_steps=4)).fit("moons", seed=0, progress=False)
    x0 = torch.randn(300, 2)
    ways = {
        "fewer steps": flow.sample(x0=x0, num_steps=2),
        "heun": flow.sample(x0=x0, solver="heun"),
        "midpoint": flow.sample(x0=x0, num_steps=2, solver="midpoint"),
    }
    for made in ways.values():
        assert (made - flow.sample(x0=x0)).norm(dim=1).mean() < 0.5
    with pytest.raises(ValueError, match="heun in 7 asks at others: fit with jitter=True"):
        flow.sample(x0=x0, num_steps=7, solver="heun")

    straight = StraightFlow(**FEW).fit("moons", seed=0, progress=False)
    path = straight.sample(300, num_steps=7, solver="heun", return_path=True, seed=1)
    save_gif(path, "path.gif")
    assert path.shape == (8, 300, 2) and straight.nfe == 14
    with Image.open("path.gif") as animation:
        assert animation.n_frames == 8


def test_28_quick_fit_and_a_page():
    shell("nsgf fit moons --preset quick --out run --set iterations=50 pool_size=1536")
    assert shell("nsgf report run") == "run/report.html\n"
    page = Path("run/report.html").read_text()
    assert page.count("<img") == 3 and "nsgf fit moons" in page and "http" not in page


def test_29_a_class_of_a_file():
    x = np.random.default_rng(0).normal(size=(90, 2)) + np.repeat([[-4, 0], [4, 0]], 45, 0)
    np.savez("points.npz", x=x, label=np.repeat([0, 1], 45))
    options = "num_classes=2 iterations=300 lr=5e-3 ema=0.9 batch_size=32"
    shell(f"nsgf fit points.npz --method ot-cfm --out run --set {options}")
    shell("nsgf sample run -n 50 --label 1 --out right.csv")
    right = np.loadtxt("right.csv", delimiter=",", skiprows=1)
    assert right.shape == (50, 2) and right[:, 0].mean() > 2


def test_30_pictures_of_several_sizes():
    Path("pictures").mkdir()
    for k, side in enumerate((8, 10, 12, 8) * 8):
        Image.new("RGB", (side, side), (8 * k, 0, 0)).save(f"pictures/{k}.png")
    shell("nsgf fit pictures --size 8 --out run --method fm --set iterations=3 batch_size=8")
    shell("nsgf sample run -n 3 --out made")
    assert Image.open("made/0000.png").size == (8, 8)
