"The loss: twice differentiable, one value for every call, quiet only where it has converged."

import warnings

import pytest
import torch

import nsgf_nb.transport.divergence
import nsgf_nb.transport.entropic
from nsgf_nb.sinkhorn import sinkhorn_divergence as S
from nsgf_nb.transport.divergence import plain_divergence, plain_gradient

grad = torch.autograd.grad


def clouds(seed, n, m, d=2, dtype=torch.float32):
    "N(0, I) and N(1, I)."
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=g, dtype=torch.float64)
    y = torch.randn(m, d, generator=g, dtype=torch.float64) + 1
    return x.to(dtype), y.to(dtype)


def close(z, true, tol):
    return (z - true).abs().max() <= tol * true.abs().max()


@pytest.fixture(autouse=True)
def no_warnings():
    "A warning is an error unless a test expects it."
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.mark.parametrize("n, m", [(256, 255), (1000, 999)])
def test_unequal_sizes_converge_in_float32_as_in_float64(n, m):
    "2000 sweeps and a warning, where masses were normalised in float32."
    x, y = clouds(0, n, m)
    p = x.clone().requires_grad_()
    value = S(p, y, 0.5)
    value.backward()
    q = x.double().requires_grad_()
    exact = S(q, y.double(), 0.5)
    exact.backward()
    assert value.dtype == torch.float32 and close(value.double(), exact, 1e-7)
    assert close(p.grad.double(), q.grad, 1e-6)


@pytest.mark.parametrize("blur", [0.05, 0.5, 5.0])
def test_value_and_gradient_are_those_of_the_plain_lines(blur):
    x, y = clouds(1, 40, 30, 3, torch.float64)
    g = torch.Generator().manual_seed(1)
    a, b = torch.rand(40, generator=g).double(), torch.rand(30, generator=g).double()
    leaves = [z.clone().requires_grad_() for z in (x, y, a, b)]
    p, q, u, w = leaves
    value = S(p, q, blur, u, w, tol=1e-12)
    assert abs(value - plain_divergence(x, y, blur, a, b, tol=1e-11)) < 1e-9
    in_x, in_y, in_a, in_b = plain_gradient(x, y, blur, a, b, tol=1e-11)
    for ours, theirs in zip(grad(value, leaves), (in_x, in_y, in_a / a.sum(), in_b / b.sum())):
        assert close(ours, theirs, 1e-7)


@pytest.mark.parametrize("seed", range(4))
def test_both_derivatives_by_finite_differences(seed):
    "In points, weights of any sum and blur, at the default tolerance."
    x, y = clouds(seed, 5, 4, 2, torch.float64)
    g = torch.Generator().manual_seed(seed)
    a, b = 0.1 + torch.rand(5, generator=g).double(), 0.1 + torch.rand(4, generator=g).double()
    leaves = [z.requires_grad_() for z in (x, y, a, b, torch.tensor(0.6, dtype=torch.float64))]

    def loss(x, y, a, b, blur):
        return S(x, y, blur, a, b)

    assert torch.autograd.gradcheck(loss, leaves)
    assert torch.autograd.gradgradcheck(loss, leaves)


def test_a_gradient_penalty_adds_what_it_should():
    "It added nothing."
    x, y = clouds(3, 30, 25, 2, torch.float64)

    def penalised(x):
        x = x.requires_grad_()
        s = S(x, y, 0.3)
        (g,) = grad(s, x, create_graph=True)
        return s + 1000 * g.square().sum()

    p = x.clone()
    (total,) = grad(penalised(p), p)
    (alone,) = grad(S(p, y, 0.3), p)
    v, h = torch.randn(30, 2, generator=torch.Generator().manual_seed(3)).double(), 1e-5
    central = (penalised(x + h * v) - penalised(x - h * v)).detach() / (2 * h)
    assert abs((total * v).sum() - central) < 1e-6 * abs(central)
    assert abs((alone * v).sum() - central) > 0.1 * abs(central)


def test_a_third_derivative_is_refused():
    x, y = clouds(4, 6, 5)
    x.requires_grad_()
    (once,) = grad(S(x, y, 0.5), x, create_graph=True)
    (twice,) = grad(once.square().sum(), x, create_graph=True)
    with pytest.raises(NotImplementedError, match="differentiable twice, not three times"):
        grad(twice.sum(), x)


def test_a_batch_is_a_batch_or_refused():
    "S of two batches returned one number."
    g = torch.Generator().manual_seed(5)
    x, y = torch.randn(3, 30, 2, generator=g), torch.randn(3, 20, 2, generator=g)
    a, b = torch.rand(3, 30, generator=g), torch.rand(3, 20, generator=g)
    with pytest.raises(ValueError, match="x: expected batched=True for a batch of clouds"):
        S(x, y, 0.5)
    together = S(x, y, 0.5, a, b, batched=True)
    assert together.shape == (3,)
    assert torch.allclose(together, torch.stack([S(x[i], y[i], 0.5, a[i], b[i]) for i in range(3)]))
    images = x.view(3, 30, 1, 2)
    assert torch.equal(S(images, y.view(3, 20, 1, 2), 0.5, a, b, batched=True), together)
    assert torch.equal(
        S(images[0], y[0].view(20, 1, 2), 0.5, a[0], b[0], batched=False),
        S(x[0], y[0], 0.5, a[0], b[0]),
    )
    with pytest.raises(
        ValueError, match="x and y: expected as many clouds in both batches, got 3 and 2"
    ):
        S(x, y[:2], 0.5, batched=True)


def test_gradients_of_a_batch_stay_apart():
    g = torch.Generator().manual_seed(6)
    x, y = torch.randn(2, 9, 2, generator=g).double(), torch.randn(2, 8, 2, generator=g).double()
    blur = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    p = x.clone().requires_grad_()
    weights = torch.tensor([1.0, -3.0]).double()
    in_p, in_blur = grad((weights * S(p, y, blur, batched=True)).sum(), [p, blur])
    alone = []
    for i in range(2):
        q = x[i].clone().requires_grad_()
        alone.append([weights[i] * z for z in grad(S(q, y[i], blur), [q, blur])])
    assert close(in_p, torch.stack([alone[0][0], alone[1][0]]), 1e-7)
    assert abs(in_blur - alone[0][1] - alone[1][1]) < 1e-7


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("where", [1.0, 1e4])
def test_points_without_weight_are_not_there(dtype, where):
    x, y = clouds(7, 40, 30, 2, dtype)
    full_x, full_y = torch.cat([x, where * x[:3]]), torch.cat([where * y[:5], y])
    a, b = torch.cat([torch.ones(40), torch.zeros(3)]), torch.cat([torch.zeros(5), torch.ones(30)])
    p, q = full_x.requires_grad_(), full_y.requires_grad_()
    value = S(p, q, 0.3, a, b)
    few_p, few_q = x.clone().requires_grad_(), y.clone().requires_grad_()
    few = S(few_p, few_q, 0.3)
    assert abs(value - few) < 1e-6
    (in_p, in_q), (true_p, true_q) = grad(value, [p, q]), grad(few, [few_p, few_q])
    assert close(in_p[:40], true_p, 2e-6) and close(in_q[5:], true_q, 2e-6)
    assert not in_p[40:].any() and not in_q[:5].any()


def test_the_derivative_in_a_weight_of_zero_is_that_of_letting_the_point_in():
    x, y = clouds(8, 20, 15, 2, torch.float64)
    a = torch.ones(20, dtype=torch.float64)
    a[3] = 0
    into = grad(S(x, y, 0.4, a.requires_grad_(), tol=1e-13), a)[0][3]

    def with_weight(h):
        w = a.detach().clone()
        w[3] = h
        return S(x, y, 0.4, w, tol=1e-13)

    assert abs((with_weight(1e-6) - with_weight(0.0)) / 1e-6 - into) < 1e-5


def test_points_that_coincide_cost_nothing_and_pull_nowhere():
    for place in (0.0, 0.1):
        x, y = torch.full((5, 2), place, requires_grad=True), torch.full((3, 2), place)
        value = S(x, y, 0.1)
        assert abs(value) < 1e-12 and grad(value, x)[0].abs().max() < 1e-12
    x, _ = clouds(9, 50, 1, 2, torch.float64)
    x.requires_grad_()
    # two solvers, each to its tolerance; at 1e-8 a value of 1e-11 is left on some processors
    value = S(x, x.detach().clone(), 0.2, tol=1e-9)
    assert abs(value) < 1e-11 and grad(value, x)[0].abs().max() < 1e-8


def test_units_and_places_do_not_matter():
    x, y = clouds(10, 40, 30)
    value = S(x, y, 0.3)
    assert S(128 * x, 128 * y, 128 * 0.3) == 128**2 * value
    assert abs(S(1e-15 * x, 1e-15 * y, 1e-15 * 0.3) / value / 1e-30 - 1) < 1e-5
    assert abs(S(x.double() + 1e6, y.double() + 1e6, 0.3) - S(x.double(), y.double(), 0.3)) < 1e-6
    c = torch.tensor([3.0, -4.0])
    for blur in (0.01, 1.0, 1e6):
        assert abs(S(x, x + c, blur) - 12.5) < 1e-4


def test_16_bit_input_is_worked_on_in_64():
    x, y = clouds(11, 40, 30)
    for dtype in (torch.float16, torch.bfloat16):
        p = x.to(dtype).requires_grad_()
        value = S(p, y.to(dtype), 0.5, torch.full((40,), 6e4, dtype=torch.float16))
        q = p.detach().double().requires_grad_()
        exact = S(q, y.to(dtype).double(), 0.5)
        assert value.dtype == torch.float32 and close(value.double(), exact, 1e-6)
        assert grad(value, p)[0].dtype == dtype
        assert close(grad(S(p, y.to(dtype), 0.5), p)[0].double(), grad(exact, q)[0], 1e-2)


def test_nothing_around_the_call_matters():
    x, y = clouds(12, 60, 50, 64)
    value = S(x, y, 3.0)
    assert value.requires_grad is False
    with torch.autocast("cpu", torch.bfloat16):
        p = x.clone().requires_grad_()
        inside = S(p, y, 3.0)
        (g,) = grad(inside, p, create_graph=True)
        grad(g.square().sum(), p)
    assert torch.equal(inside, value)
    with torch.no_grad():
        assert torch.equal(S(x.requires_grad_(), y, 3.0), value)
    with torch.inference_mode():
        assert torch.equal(S(x, y, 3.0), value)
    precision = torch.get_float32_matmul_precision()
    try:
        torch.set_default_dtype(torch.float64)
        torch.set_float32_matmul_precision("medium")
        assert torch.equal(S(x, y, 3.0), value)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_float32_matmul_precision(precision)


def test_transforms_of_functions():
    x, y = clouds(13, 12, 9)
    p = x.clone().requires_grad_()
    (g,) = grad(S(p, y, 0.5), p, create_graph=True)
    (hv,) = grad(g.square().sum() / 2, p)
    slope = torch.func.grad(lambda x: S(x, y, 0.5))
    assert torch.equal(slope(x), g.detach())
    assert torch.equal(torch.func.grad(lambda x: slope(x).square().sum() / 2)(x), hv)
    H = torch.func.jacrev(slope)(x).view(24, 24)
    assert torch.allclose(H, H.T, atol=1e-7) and torch.allclose(
        H @ g.detach().flatten(), hv.flatten(), atol=1e-7
    )
    many = torch.stack([x, 2 * x, -x])
    each = torch.stack([S(z, y, 0.5) for z in many])
    assert torch.allclose(torch.func.vmap(lambda z: S(z, y, 0.5))(many), each)
    assert torch.allclose(
        torch.func.vmap(slope)(many), torch.stack([slope(z) for z in many]), atol=1e-7
    )


@pytest.mark.skipif(
    torch.__version__.startswith("2.6"), reason="its compiler cannot follow setup_context"
)
def test_a_compiler_takes_it_whole():
    x, y = clouds(14, 12, 9)
    whole = torch.compile(lambda x, y: 2 * S(x, y, 0.5), backend="aot_eager", fullgraph=True)
    p, q = x.clone().requires_grad_(), x.clone().requires_grad_()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the compiler's own
        value = whole(p, y)
        value.backward()
    exact = 2 * S(q, y, 0.5)
    exact.backward()
    assert torch.equal(value, exact) and torch.equal(p.grad, q.grad)


def test_blur_may_want_a_gradient():
    x, y = clouds(15, 30, 20)
    blur = torch.tensor(0.5, requires_grad=True)
    (slope,) = grad(S(x, y, blur), blur)
    x, y = x.double(), y.double()
    central = (S(x, y, 0.5 + 1e-4) - S(x, y, 0.5 - 1e-4)) / 2e-4
    assert slope.dtype == torch.float32 and abs(slope - central) < 1e-5


def test_it_says_where_it_stopped():
    x, y = clouds(16, 100, 100)
    with pytest.warns(
        UserWarning, match="sinkhorn_divergence stopped after .* raise max_iter, tol or blur"
    ):
        value = S(x, y, 0.05, max_iter=1)
    assert value.isfinite()
    p = x.double().requires_grad_()
    (g,) = grad(S(p, y.double(), 0.03, tol=1e-3), p, create_graph=True)
    v = torch.randn(100, 2, generator=torch.Generator().manual_seed(16))
    with pytest.warns(
        UserWarning, match="the linear system of the second derivative has a relative residual of"
    ):
        (h,) = grad((g * v).sum(), p)
    assert h.isfinite().all()


@pytest.mark.parametrize("blur", [1e6, 1e8, 1e10, 1e200])
def test_a_growing_blur_comes_to_the_distance_of_the_means(blur):
    "At 1e8 the value was a fifth too small, above 1e10 negative, and slopes in weights were noise."
    x, y = clouds(19, 40, 30, 2, torch.float64)
    a = torch.rand(40, generator=torch.Generator().manual_seed(19)).double()
    leaves = x.requires_grad_(), a.requires_grad_()
    limit = (a / a.sum() @ x - y.mean(0)).square().sum() / 2
    length = torch.tensor(blur, dtype=torch.float64, requires_grad=True)
    value = S(x, y, length, a)
    assert abs(value - limit) < 1e-5 * limit
    ours, theirs = (grad(z, leaves, create_graph=True) for z in (value, limit))
    assert close(ours[0], theirs[0], 1e-5) and close(ours[1], theirs[1], 1e-5)
    bends = [grad(z[0].square().sum(), x, retain_graph=True)[0] for z in (ours, theirs)]
    assert close(*bends, 1e-5)
    (slope,) = grad(value, length)
    assert abs(slope * blur) < 1e-5 * limit


@pytest.mark.parametrize("blur", [1e-6, 1e-2, 1e6])
def test_hard_input_gives_finite_numbers(blur):
    x, y = clouds(17, 20, 15, 2, torch.float64)
    far = torch.cat([x, torch.tensor([[1e4, 0.0]]).double()])
    for p, q in (
        (x[:1], y[:1]),
        (x[:1], y),
        (x[:1].repeat(6, 1), y),
        (far, y),
        (torch.zeros(3, 2).double(), y),
    ):
        p = p.clone().requires_grad_()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # at 1e-6 it may say that it stopped
            value = S(p, q, blur)
            (g,) = grad(value, p, create_graph=True)
            (h,) = grad(g.square().sum(), p)
        assert value.isfinite() and g.isfinite().all() and h.isfinite().all()


def test_bad_input_is_one_sentence():
    x, y = clouds(18, 8, 8)
    for call, kind, sentence in (
        (lambda: S([1.0], y, 1.0), TypeError, "x: expected a tensor, got list"),
        (
            lambda: S(x, y[:, :1], 1.0),
            ValueError,
            "x and y: expected points of the same shape, got (2,) and (1,)",
        ),
        (lambda: S(x, y.double(), 1.0), ValueError, "x and y: expected points of the same dtype"),
        (lambda: S(x[:0], y, 1.0), ValueError, "x: expected at least 1 point, got shape (0, 2)"),
        (
            lambda: S(x[0], y, 1.0),
            ValueError,
            "x: expected points of shape (n, *shape), got shape (2,)",
        ),
        (
            lambda: S(x, y, 1.0, batched=True),
            ValueError,
            "x: expected points of shape (B, n, *shape), got shape (8, 2)",
        ),
        (lambda: S(x, y / 0, 1.0), ValueError, "y: 16 of 16 values are NaN or infinite"),
        (lambda: S(x, y, 0.0), ValueError, "blur: expected a finite number > 0, got 0"),
        (
            lambda: S(x, y, torch.ones(2)),
            ValueError,
            "blur: expected a number or a floating-point tensor of shape ()",
        ),
        (
            lambda: S(x, y, 1.0, torch.ones(7)),
            ValueError,
            "a: expected 8 weights of shape (8,), got shape (7,)",
        ),
        (
            lambda: S(x, y, 1.0, b=torch.zeros(8)),
            ValueError,
            "b: expected finite non-negative weights with a positive sum",
        ),
        (
            lambda: S(x, y, 1.0, -torch.ones(8)),
            ValueError,
            "a: expected finite non-negative weights with a positive sum",
        ),
        (
            lambda: S(x, y, 1.0, [1.0] * 8),
            TypeError,
            "a: expected a floating-point tensor of weights",
        ),
        (lambda: S(x, y, 1.0, tol=0), ValueError, "tol: expected a finite number > 0, got 0"),
        (lambda: S(x, y, 1.0, max_iter=0), ValueError, "max_iter: expected at least 1, got 0"),
    ):
        with pytest.raises(kind) as caught:
            call()
        assert str(caught.value).startswith(sentence)


def test_it_is_found_where_it_was():
    assert nsgf_nb.sinkhorn.sinkhorn_divergence is S
    assert nsgf_nb.sinkhorn.sinkhorn_divergence is S
