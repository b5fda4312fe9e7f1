"The entropic plan: identities, weights, files, precisions, bad input, bounded memory."

import math

import pytest
import torch

from nsgf_nb import EntropicPlan, self_score
from nsgf_nb.core import make_generator
from nsgf_nb.files import load_tensors, save_tensors
from nsgf_nb.transport.gaussian import gaussian_map, matrix_root

EYE = torch.eye(2, dtype=torch.float64)


def normal(n, d=2, seed=0, dtype=torch.float64):
    return torch.randn(n, d, generator=make_generator(seed, "test_plan"), dtype=dtype)


def clouds(n=40, m=50, dtype=torch.float64):
    "Two clouds and weights; three points of each hold no mass"
    x, y = normal(n, seed=1).to(dtype), (0.5 * normal(m, seed=2) + 1).to(dtype)
    a, b = normal(n, 1, 3)[:, 0].square(), normal(m, 1, 4)[:, 0].square()
    a[:3], b[-3:] = 0.0, 0.0
    return x, y, a, b


@pytest.fixture(scope="module")
def plan():
    x, y, a, b = clouds()
    return EntropicPlan(x, y, 0.7, a=a, b=b, tol=1e-11)


def softmin(plan, q, cloud, weights, potential):
    "The potential at q, with the gradients of autograd"
    cost = (q[:, None] - cloud).square().sum(-1) / 2
    return -plan.eps * torch.logsumexp((potential - cost) / plan.eps + weights.log(), 1)


# identities of the discrete plan


def test_marginals(plan):
    pot = plan.info.potentials
    C = (plan.x[:, None] - plan.y).square().sum(-1) / 2
    P = plan.a[:, None] * plan.b * ((pot.f[:, None] + pot.g - C) / plan.eps).exp()
    assert (P.sum(1) - plan.a).abs().max() < 1e-12 and (P.sum(0) - plan.b).abs().max() < 1e-12
    assert (plan.a @ plan.map(plan.x) - plan.b @ plan.y).abs().max() < 1e-11
    assert (plan.b @ plan.back(plan.y) - plan.a @ plan.x).abs().max() < 1e-11


def test_the_map_and_the_score_are_gradients_of_the_soft_minimum(plan):
    pot, q, p = plan.info.potentials, normal(9, seed=5), normal(9, seed=6)
    leaf = q.clone().requires_grad_()
    (slope,) = torch.autograd.grad(softmin(plan, leaf, plan.y, plan.b, pot.g).sum(), leaf)
    assert (plan.map(q) - (q - slope)).abs().max() < 1e-12
    leaf = q.clone().requires_grad_()
    coupling = softmin(plan, leaf, plan.x, plan.a, pot.f) - (p - leaf).square().sum(1) / 2
    (slope,) = torch.autograd.grad(coupling.sum() / plan.eps, leaf)
    assert (plan.score(q, p) - slope).abs().max() < 1e-11


@pytest.mark.parametrize("t", [0.0, 0.1, 0.5, 0.9, 0.99])
def test_drift_of_the_discrete_bridge(plan, t):
    "A sum over all pairs; at t = 0 over the row"
    pot, q = plan.info.potentials, normal(9, seed=7)
    C = (plan.x[:, None] - plan.y).square().sum(-1) / 2
    log_P = plan.a[:, None].log() + plan.b.log() + (pot.f[:, None] + pot.g - C) / plan.eps
    if t == 0:
        assert torch.equal(plan.drift(q, t), plan.map(q) - q)
        return
    at_t = (1 - t) * plan.x[:, None] + t * plan.y
    far = (q[:, None, None] - at_t).square().sum(-1) / (2 * plan.eps * t * (1 - t))
    w = torch.softmax((log_P - far).flatten(1), 1).view(len(q), len(plan.x), len(plan.y)).sum(1)
    assert (plan.drift(q, t) - (w @ plan.y - q) / (1 - t)).abs().max() < 1e-9


def test_one_time_for_each_point(plan):
    q, t = normal(6, seed=8), torch.tensor([0.0, 0.1, 0.3, 0.5, 0.9, 0.99])
    one_by_one = torch.cat([plan.drift(q[i : i + 1], t[i].double().item()) for i in range(6)])
    assert (plan.drift(q, t) - one_by_one).abs().max() < 1e-10
    assert torch.equal(plan.drift(q, torch.tensor(0.5).double()), plan.drift(q, 0.5))


# Gaussians


def grid(mean, S, step):
    var, U = torch.linalg.eigh(S)
    z = torch.cartesian_prod(*[torch.arange(-8, 8.01, step, dtype=S.dtype)] * 2)
    return mean + (z * var.sqrt()) @ U.T, torch.exp(-z.square().sum(1) / 2)


def test_identities_between_gaussians_that_do_not_commute():
    a, b = torch.tensor([[-3.0, 0.5], [1.0, 2.0]], dtype=torch.float64)
    A = torch.tensor([[0.7, -0.2], [-0.2, 1.1]], dtype=torch.float64)
    B = torch.tensor([[1.3, 0.6], [0.6, 0.9]], dtype=torch.float64)
    assert (A @ B - B @ A).norm() > 0.1
    (x, wx), (y, wy) = grid(a, A, 0.4), grid(b, B, 0.4)
    plan = EntropicPlan(x, y, math.sqrt(2), a=wx, b=wy, tol=1e-11)
    M, N = gaussian_map(a, A, b, B, 2.0)[1], gaussian_map(b, B, a, A, 2.0)[1]
    q = a + normal(30).clamp(-2, 2) @ torch.linalg.cholesky(A).T
    p = b + normal(30, seed=1).clamp(-2, 2) @ torch.linalg.cholesky(B).T
    assert (plan.map(q) - b - (q - a) @ M.T).abs().max() < 1e-10
    assert (plan.back(p) - a - (p - b) @ N.T).abs().max() < 1e-10
    exact = -(p - b - (q - a) @ M.T) @ torch.linalg.inv(B - M @ A @ M)
    assert (plan.score(p, q) - (p - b) @ torch.linalg.inv(B) - exact).abs().max() < 1e-10
    t = 0.4
    m = (1 - t) * a + t * b
    S = (1 - t) ** 2 * A + t**2 * B + t * (1 - t) * (A @ M + M @ A + 2.0 * EYE)
    K = ((1 - t) * M @ A + t * B) @ torch.linalg.inv(S)
    z = m + normal(30, seed=2).clamp(-2, 2) @ torch.linalg.cholesky(S).T
    exact = (b + (z - m) @ K.T - z) / (1 - t)
    assert (plan.drift(z, t) - exact).abs().max() < 1e-10


def unexplained(x, y, S, mean):
    "BW-UVP of pairs: 100 BW² over half the variance"
    z = torch.cat([x, y], 1)
    T, R = torch.cov(z.T), matrix_root(S)
    bures = S.trace() + T.trace() - 2 * matrix_root(R @ T @ R).trace()
    return 200 * ((z.mean(0) - mean).square().sum() + bures) / S.trace()


def turned(low, high, seed):
    "A covariance in a random frame"
    U = torch.linalg.qr(normal(2, seed=seed))[0]
    return (U * torch.tensor([low, high], dtype=torch.float64)) @ U.T


def test_a_plan_of_2000_points_is_near_the_coupling_of_gaussians():
    """Means over five seeds, beside those of 4000 exact pairs.

    Over 20 seeds .23 ± .05 beside .08 ± .02, and .23 ± .08 for 2000 exact pairs.
    """
    A, B = turned(0.5, 1.5, 30), turned(0.3, 2.0, 31)
    zero, b = torch.zeros(2).double(), torch.ones(2).double() / math.sqrt(2)
    eps = 0.5 * math.sqrt((A @ B).trace())
    M = gaussian_map(zero, A, b, B, eps)[1]
    S = torch.cat([torch.cat([A, A @ M], 1), torch.cat([M @ A, B], 1)])
    mean = torch.cat([zero, b])
    roots = [torch.linalg.cholesky(R).T for R in (A, B, B - M @ A @ M)]
    rows = []
    for seed in range(5):
        x, q = normal(6000, seed=100 + seed).split((2000, 4000))
        y, rest = normal(6000, seed=200 + seed).split((2000, 4000))
        plan = EntropicPlan(x @ roots[0], b + y @ roots[1], math.sqrt(eps))
        q = q @ roots[0]
        exact = b + q @ M.T + rest @ roots[2]
        drawn = plan.resample(q, make_generator(seed, "drawn"))
        rows.append([unexplained(q, z, S, mean) for z in (drawn, exact)])
    found, floor = torch.tensor(rows).mean(0).tolist()
    assert found <= 3 * floor + 0.1


def test_the_bridge_ends_in_the_coupling():
    a, b, A, B = torch.zeros(2).double(), torch.ones(2).double(), EYE, 0.5 * EYE
    (x, wx), (y, wy) = grid(a, A, 0.5), grid(b, B, 0.5)
    plan = EntropicPlan(x, y, 1.0, a=wx, b=wy)
    M = gaussian_map(a, A, b, B, 1.0)[1]
    start = torch.tensor([[1.0, -0.5]]).double().expand(3000, 2)
    path = plan.sample_bridge(start, 40, make_generator(0, "paths"), return_path=True)
    assert path.shape == (41, 3000, 2) and torch.equal(path[0], start)
    ends = plan.sample_bridge(start, 40, make_generator(0, "paths"))
    assert torch.equal(ends, path[-1])
    C = B - M @ A @ M  # .25 I, about
    bound = 4 * (C[0, 0] / 3000).sqrt()
    assert (ends.mean(0) - b - start[0] @ M.T).abs().max() < bound
    assert abs(torch.cov(ends.T).trace() / C.trace() - 1) < 4 / math.sqrt(3000) + 0.02


def test_self_score_of_a_normal_sample():
    "Single precision, points of images' shape, a sample instead of a grid"
    points = normal(2000, 1).float().view(-1, 1, 1)
    y = torch.linspace(-1, 1, 5).view(-1, 1, 1)
    s = self_score(y, points, 0.5)
    assert s.shape == y.shape and s.dtype == torch.float32
    assert (s + y).abs().max() < 0.25


# samples


def test_frequencies(plan):
    "A hundred thousand draws: within five standard errors, and never a point without mass"
    pot, q = plan.info.potentials, normal(1, seed=9)
    w = (pot.g - (q - plan.y).square().sum(1) / 2) / plan.eps + plan.b.log()
    w = torch.softmax(w, 0)
    drawn = plan.resample(q.expand(100_000, 2), make_generator(0, "draws"))
    share = (drawn[:, None] == plan.y).all(-1).double().mean(0)
    assert ((share - w).abs() <= 5 * (w * (1 - w) / 100_000).sqrt()).all()
    assert share[-3:].sum() == 0 and abs(share.sum() - 1) < 1e-9


def test_a_generator_decides(plan):
    q = normal(50, seed=9)
    for draw in (plan.resample, plan.sample_bridge):
        first, again, other = (draw(q, generator=make_generator(s, "g")) for s in (0, 0, 1))
        assert torch.equal(first, again) and not torch.equal(first, other)


# weights


def test_points_without_weight_are_not_there(plan):
    x, y, a, b = clouds()
    fewer = EntropicPlan(x[3:], y[:-3], 0.7, a=a[3:], b=b[:-3], tol=1e-11)
    q = normal(20, seed=10)
    assert (plan.map(q) - fewer.map(q)).abs().max() < 1e-9
    assert (plan.back(q) - fewer.back(q)).abs().max() < 1e-9
    drawn = (p.resample(q, make_generator(0, "w")) for p in (plan, fewer))
    assert torch.equal(*drawn)


def test_a_double_weight_is_a_double_point():
    x, y, *_ = clouds()
    b = torch.ones(50)
    b[7] = 2.0
    q, twice = normal(20, seed=11), torch.cat([y, y[7:8]])
    heavy, doubled = (EntropicPlan(x, *z, 0.7, tol=1e-11) for z in ((y,), (twice,)))
    assert (heavy.map(q) - doubled.map(q)).abs().max() > 1e-4
    heavy = EntropicPlan(x, y, 0.7, b=b, tol=1e-11)
    assert (heavy.map(q) - doubled.map(q)).abs().max() < 1e-9


@pytest.mark.parametrize("n, m", [(1, 5), (5, 1), (1, 1)])
def test_one_point(n, m):
    x, y = normal(n), normal(m, seed=1)
    plan = EntropicPlan(x, y, 1.0)
    assert plan.info.converged and torch.allclose(plan.map(x).mean(0), y.mean(0), atol=1e-6)


# precision, shape, memory


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_answers_have_the_form_of_the_question(plan, dtype):
    q = normal(5, seed=12).to(dtype)
    answers = [plan.map(q), plan.back(q), plan.score(q, q[:1]), plan.drift(q, 0.3)]
    answers += [plan.resample(q), plan.sample_bridge(q, 2)]
    assert all(z.dtype == dtype and z.shape == q.shape for z in answers)
    exact = plan.map(q.double())
    assert (answers[0].double() - exact).norm() <= torch.finfo(dtype).eps * exact.norm()


def test_single_precision_solves_the_same_problem():
    x, y, a, b = clouds(dtype=torch.float32)
    single = EntropicPlan(x, y, 0.7, a=a, b=b)
    double = EntropicPlan(x.double(), y.double(), 0.7, a=a, b=b, tol=1e-10)
    assert single.info.converged and single.map(x).dtype == torch.float32
    off = (single.map(x[3:]) - double.map(x[3:].double())).norm() / math.sqrt(len(x) - 3)
    assert off <= 3 * single.info.err_v + 1e-6


def test_far_from_the_origin(plan):
    x, y, a, b = clouds()
    away = EntropicPlan(x + 1000, y + 1000, 0.7, a=a, b=b, tol=1e-11)
    q = normal(20, seed=13)
    assert (away.map(q + 1000) - plan.map(q) - 1000).abs().max() < 1e-8
    assert (away.drift(q + 1000, 0.9) - plan.drift(q, 0.9)).abs().max() < 1e-7


def test_points_of_any_shape_and_no_gradient():
    x, y, *_ = clouds()
    flat = EntropicPlan(x, y, 0.7)
    image = EntropicPlan(x.view(-1, 1, 2), y.view(-1, 1, 2), 0.7)
    q = normal(5, seed=14).requires_grad_()
    assert torch.equal(image.map(q.view(-1, 1, 2)).view(-1, 2), flat.map(q))
    assert image.sample_bridge(q.view(-1, 1, 2), 3, return_path=True).shape == (4, 5, 1, 2)
    assert not flat.map(q).requires_grad and not flat.drift(q, 0.5).requires_grad
    with torch.autocast("cpu", torch.bfloat16), torch.inference_mode():
        assert torch.equal(flat.map(q), image.map(q.view(-1, 1, 2)).view(-1, 2))


def test_a_plan_keeps_its_clouds():
    x, y, *_ = clouds()
    plan = EntropicPlan(x, y, 0.7)
    before = plan.resample(x, make_generator(0, "keep"))
    y.zero_()
    assert torch.equal(plan.resample(x, make_generator(0, "keep")), before)


def test_blocks_are_the_whole(plan):
    x, y, a, b = clouds()
    small = EntropicPlan(x, y, 0.7, a=a, b=b, tol=1e-11, chunk=7)
    stream = EntropicPlan(x, y, 0.7, a=a, b=b, tol=1e-11, backend="stream", chunk=7)
    q, t = normal(30, seed=15), torch.linspace(0, 0.9, 30)
    for other in (small, stream):
        assert (other.map(q) - plan.map(q)).abs().max() < 1e-9
        assert (other.back(q) - plan.back(q)).abs().max() < 1e-9
        assert (other.drift(q, t) - plan.drift(q, t)).abs().max() < 1e-8
        drawn = (p.resample(q, make_generator(0, "d")) for p in (plan, other))
        assert torch.equal(*drawn)


def test_memory_of_new_points_is_bounded(monkeypatch):
    sizes, softmax = [], torch.softmax
    monkeypatch.setattr(torch, "softmax", lambda z, dim: sizes.append(z.numel()) or softmax(z, dim))
    plan = EntropicPlan(normal(50), normal(3000, seed=1), 1.0)
    plan.map(normal(2000, seed=2))
    plan.resample(normal(2000, seed=2))
    assert len(sizes) > 4 and max(sizes) <= 2**21 and sum(sizes) == 2 * 2000 * 3000


# files


def test_save_and_load(plan, tmp_path):
    file = plan.save(tmp_path / "plan.safetensors")
    again = EntropicPlan.load(file)
    q = normal(20, seed=16)
    assert torch.equal(again.map(q), plan.map(q)) and torch.equal(again.back(q), plan.back(q))
    assert torch.equal(again.drift(q, 0.4), plan.drift(q, 0.4)) and again.eps == plan.eps
    drawn = (p.resample(q, make_generator(0, "s")) for p in (plan, again))
    assert torch.equal(*drawn)
    assert repr(again) == repr(plan)
    for name in ("err_v", "bound_v", "n_iter", "converged", "cross_perplexity", "gap"):
        assert getattr(again.info, name) == getattr(plan.info, name)
    assert again.save(tmp_path / "again.safetensors").read_bytes() == file.read_bytes()


def test_a_plan_of_a_cloud_with_itself_is_saved(tmp_path):
    "The same tensor twice"
    x = normal(20)
    plan = EntropicPlan(x, x, 1.0)
    again = EntropicPlan.load(plan.save(tmp_path / "own.safetensors"))
    assert torch.equal(again.map(x), plan.map(x))


def test_every_damaged_bit_is_found(plan, tmp_path):
    file = plan.save(tmp_path / "plan.safetensors")
    whole = file.read_bytes()
    for place in range(0, len(whole), 97):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(ValueError, match="plan.safetensors: .*") as e:
            EntropicPlan.load(file)
        assert "\n" not in str(e.value)
    for size in (0, 7, 100, len(whole) - 1):
        file.write_bytes(whole[:size])
        with pytest.raises(ValueError, match="plan.safetensors: not a readable safetensors file"):
            EntropicPlan.load(file)


def changed(plan, folder, tensors=None, **facts):
    "A file that is written well and says something else"
    file = plan.save(folder / "plan.safetensors")
    known, said = load_tensors(file, "plan")
    return save_tensors(file, {**known, **(tensors or {})}, said | facts)


FOREIGN = {
    "kind": (dict(kind="flow"), {}, "expected a plan, the file holds flow"),
    "version": (dict(version=2), {}, "written by another version of nsgf_nb, expected version 1"),
    "no-eps": (dict(eps=None), {}, "damaged: eps: expected float, got None"),
    "eps": (dict(eps=-1.0), {}, "damaged: eps: expected a finite number > 0, got -1"),
    "info": (dict(info={}), {}, "damaged: err_v: expected int or float, got nothing"),
    "f": ({}, dict(f=torch.ones(3)), "damaged: f: expected 40 finite numbers, got shape"),
    "nan": ({}, dict(g=torch.full((50,), math.nan)), "damaged: g: expected 50 finite numbers"),
    "a": ({}, dict(a=-torch.ones(40)), "damaged: a: expected finite non-negative weights"),
    "x": ({}, dict(x=torch.ones(40, 3)), "damaged: x and y: expected points of the same shape"),
}


@pytest.mark.parametrize("facts, tensors, said", FOREIGN.values(), ids=FOREIGN)
def test_a_foreign_file(plan, tmp_path, facts, tensors, said):
    file = changed(plan, tmp_path, tensors, **facts)
    with pytest.raises(ValueError) as e:
        EntropicPlan.load(file)
    assert str(e.value).startswith(f"{file}: ") and said in str(e.value)


def test_a_tensor_is_missing_and_a_file_too(plan, tmp_path):
    file = plan.save(tmp_path / "plan.safetensors")
    known, said = load_tensors(file, "plan")
    save_tensors(file, {k: v for k, v in known.items() if k != "g"}, said)
    with pytest.raises(ValueError, match="damaged: 'g' is missing"):
        EntropicPlan.load(file)
    with pytest.raises(FileNotFoundError, match="none: no such file"):
        EntropicPlan.load(tmp_path / "none")


# bad input

Q = torch.zeros(4, 2)
SENTENCES = [
    (lambda p: p.map([[0.0, 1.0]]), "x: expected a tensor, got list"),
    (lambda p: p.map(torch.zeros(4)), "x: expected points of shape (n, *shape), got shape (4,)"),
    (lambda p: p.map(torch.zeros(4, 3)), "x: expected points of shape (2,), got (3,)"),
    (lambda p: p.map(torch.zeros(4, 2).long()), "x: expected floating point, got torch.int64"),
    (lambda p: p.map(Q / 0), "x: 8 of 8 values are NaN or infinite"),
    (lambda p: p.back(torch.zeros(4, 3)), "y: expected points of shape (2,), got (3,)"),
    (lambda p: p.score(Q, Q[:3]), "x: expected 1 or 4 points, one for each y, got 3"),
    (lambda p: p.drift(Q, 1.0), "t: expected 0 ≤ t < 1, got 1.0"),
    (lambda p: p.drift(Q, -0.1), "t: expected 0 ≤ t < 1, got -0.1"),
    (lambda p: p.drift(Q, torch.ones(4)), "t: expected 0 ≤ t < 1 for all points"),
    (lambda p: p.drift(Q, torch.zeros(3)), "t: expected a number or 4 of them, one a point"),
    (lambda p: p.sample_bridge(Q, 0), "num_steps: expected at least 1, got 0"),
    (lambda p: EntropicPlan(Q, Q), "blur: expected either blur or relative_blur"),
    (lambda p: EntropicPlan(Q, Q, 1.0, relative_blur=1.0), "blur: expected either blur or"),
    (lambda p: EntropicPlan(Q, Q, -1.0), "blur: expected a finite number > 0, got -1"),
    (lambda p: EntropicPlan(Q, Q[:, :1], 1.0), "x and y: expected points of the same shape"),
    (lambda p: EntropicPlan(Q, None, 1.0), "y: expected a tensor, got NoneType"),
    (lambda p: EntropicPlan(Q, Q, 1.0, a=torch.ones(3)), "a: expected 4 weights of shape (4,)"),
    (lambda p: EntropicPlan(Q, Q, 1.0, b=torch.zeros(4)), "b: expected finite non-negative"),
    (lambda p: EntropicPlan(Q, Q, 1.0, backend="geomloss"), "unknown backend 'geomloss'"),
    (lambda p: EntropicPlan(Q, Q, 1.0, chunk=0), "chunk: expected at least 1, got 0"),
    (lambda p: EntropicPlan(Q, Q, 1.0, tol=0), "tol: expected a finite number > 0, got 0"),
    (lambda p: self_score(Q, torch.zeros(4, 3), 1.0), "y and points: expected points of"),
]


@pytest.mark.parametrize("call, said", SENTENCES, ids=[said[:40] for _, said in SENTENCES])
def test_one_sentence(plan, call, said):
    with pytest.raises((ValueError, TypeError)) as e:
        call(plan)
    assert str(e.value).startswith(said)


def test_a_plan_that_has_not_converged_says_so():
    x, y, *_ = clouds()
    with pytest.warns(UserWarning, match="Sinkhorn stopped at .*: raise max_iter, blur or tol"):
        plan = EntropicPlan(x, y, 0.02, tol=1e-9, max_iter=2)
    assert not plan.info.converged and "not converged" in repr(plan)
    assert plan.map(x).isfinite().all()
