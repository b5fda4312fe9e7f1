"The estimator on problems of all kinds: always finite, honest, the same bits for any call."

import math
import warnings

import pytest
import torch

from nsgf_nb.core import rms
from nsgf_nb.estimator import SinkhornVelocity


def random_problem(seed):
    "Any dimension, size, blur, precision; duplicates, lines, far outliers, one point, no centring."
    g = torch.Generator().manual_seed(seed)
    unit = lambda: torch.rand(1, generator=g).item()
    integer = lambda low, high: int(torch.randint(low, high + 1, (1,), generator=g))
    d, n, m = round(math.exp(unit() * math.log(3072))), integer(1, 500), integer(1, 500)
    x, y = (
        torch.randn(n, d, generator=g) * math.exp(2 * unit() - 1),
        torch.randn(m, d, generator=g) + 3 * unit(),
    )
    kind = integer(0, 6)
    if kind == 1:
        y = y[torch.randint(0, max(1, m // 4), (m,), generator=g)]
    if kind == 2:
        x, y = x[:, :1].expand(n, d).clone(), y[:, :1].expand(m, d).clone()
    if kind == 3:
        y[0] += 1000
    if kind == 4:
        x, y = x + 1000, y + 1000
    if kind == 5:
        x = y[torch.randint(0, m, (n,), generator=g)]
    if kind == 6:
        x = x[:1]
    spread = lambda z: (z - z.mean(0)).square().sum(1).mean()
    distance = math.sqrt(spread(x) + spread(y) + (x.mean(0) - y.mean(0)).square().sum())
    if unit() < 0.5:
        x, y = x.double(), y.double()
    return x, y, 10 ** (5 * unit() - 3) * max(distance, 1e-6)


def test_200_random_problems():
    """No NaN, no exception, three quarters converged.

    Where it says so, the mean velocity is right within the stated error.
    """
    converged = 0
    for seed in range(200):
        x, y, blur = random_problem(seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            v, info = SinkhornVelocity(blur)(x, y, return_info=True)
        assert v.isfinite().all() and v.shape == x.shape and v.dtype == x.dtype, seed
        converged += info.converged
        if info.converged:
            mid = y.double().mean(0)
            off = (v.double().mean(0) - (mid - x.double().mean(0))).norm().item()
            size = (rms(x.double() - mid) + rms(y.double() - mid)).item()
            assert off <= info.err_v + 1e-6 * size, seed  # v is rounded to float32 where x is
            assert (
                math.isfinite(info.err_v)
                and info.err_marginal >= 0
                and info.gap >= 0
                and info.cross_perplexity * (1 + 1e-3) >= 1
                and 0 <= info.self_diag <= 1 + 1e-3
            ), seed
    assert converged >= 150, converged


@pytest.mark.parametrize("backend", ["auto", "dense", "stream"])
def test_the_same_bits_alone_in_a_batch_and_after_other_calls(backend):
    "The core is a pure function of its arguments"
    g = torch.Generator().manual_seed(0)
    x, y = (
        torch.randn(5, 80, 3, generator=g),
        torch.randn(5, 60, 3, generator=g) * torch.tensor([0.1, 0.5, 1.0, 2.0, 4.0])[:, None, None],
    )
    vel = SinkhornVelocity(0.4, backend=backend, chunk=16)
    first = [vel(x[i], y[i], return_info=True) for i in range(5)]
    SinkhornVelocity(0.01)(100 * x[0], y[1])
    v, info = vel(x, y, batched=True, return_info=True)
    for i, (alone, known) in enumerate(first):
        assert torch.equal(alone, v[i]) and torch.equal(alone, vel(x[i], y[i]))
        assert info.n_iter[i] == known.n_iter and torch.equal(
            info.potentials[i].g, known.potentials.g
        )


@pytest.mark.parametrize("n, d", [(40, 2), (300, 3), (300, 6), (300, 40)])
def test_points_in_column_order(n, d):
    "Columns of a table lie in memory one after the other."
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(n, d, generator=g), torch.randn(n, d, generator=g) / 2 + 1
    columns = [z.T.contiguous().T for z in (x, y)]
    assert not columns[0].is_contiguous()
    v = SinkhornVelocity(1.0)(x, y)
    torch.testing.assert_close(
        SinkhornVelocity(1.0)(*columns), v, rtol=0, atol=1e-3 * rms(v).item()
    )


def test_a_warm_start_does_not_change_what_it_started_from():
    "init is read, never written"
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(80, 3, generator=g), torch.randn(60, 3, generator=g)
    v, info = SinkhornVelocity(0.4)(x, y, return_info=True)
    kept = info.potentials.f.clone(), info.potentials.g.clone()
    SinkhornVelocity(0.4)(x + 0.1 * v, y, init=info)
    assert torch.equal(info.potentials.f, kept[0]) and torch.equal(info.potentials.g, kept[1])


def test_what_is_known_prints_as_three_short_lines():
    x, y = torch.randn(30, 2), torch.randn(20, 2)
    _, info = SinkhornVelocity(0.5)(x, y, return_info=True)
    lines = str(info).splitlines()
    assert len(lines) == 3 and max(map(len, lines)) < 80
    assert lines[0].startswith("converged after") and f"{info.cross_perplexity:.1f}" in lines[2]
    batch = torch.stack([x, x + 1])
    _, both = SinkhornVelocity(0.5)(batch, y.expand(2, 20, 2), batched=True, return_info=True)
    assert str(both) == "2 of 2 problems converged"
