"Bias, variance and advice where lessons do not look: weights, shapes, units, bad input"

from dataclasses import replace

import pytest
import torch

from nsgf_nb import NSGF, Advice, advise
from nsgf_nb.core import make_generator
from nsgf_nb.evaluation.bias import RELATIVE_BLURS, SELF_TERMS, batch_errors, wanted_velocity
from nsgf_nb.transport.scale import inner_length
from nsgf_nb.velocity import gaussian_velocity

FEW = dict(max_group=32, show=False)


def normals(n, d=4, seed=0):
    "N(0, I) and N(1/2, B)"
    gen = make_generator(seed, "advise")
    x, y = torch.randn(n, d, generator=gen), torch.randn(n, d, generator=gen)
    return x, y * torch.linspace(0.3, 1.5, d) + 0.5


def exact(x, eps):
    "The velocity of that Gaussian pair"
    d = x.shape[1]
    mean, B = torch.zeros(d).double(), torch.diag(torch.linspace(0.3, 1.5, d).double() ** 2)
    c, L = gaussian_velocity(mean, torch.eye(d).double(), mean + 0.5, B, eps)
    return (c + x.double() @ L.T).float()


def test_the_wanted_velocity_is_that_of_the_closed_form():
    """What all points do not know is about what their halves differ by.

    The error of a mean falls as 1/n: a half has twice that of all, and is once that apart.
    An error that falls as n^-1/2 is a half larger in a half. So four times leaves room."""
    x, y = normals(2048)
    for r in (0.5, 1.0):
        wanted = wanted_velocity(x, y, r)
        v = exact(x, (r * inner_length(x, y)) ** 2)
        off = (wanted.velocity - v).square().sum().item() / v.square().sum().item()
        assert off < 4 * wanted.apart and wanted.relative_blur == r


def test_error_against_the_closed_form():
    "Groups of 64 of 2048 points: what all points do not know moves each root by its own root"
    x, y = normals(2048)
    wanted = wanted_velocity(x, y, 0.7)
    blur = 0.7 * inner_length(x, y)
    v = exact(x, blur**2)
    delta = (wanted.velocity - v).square().sum(1).mean().item() ** 0.5
    told = batch_errors(x, y, wanted.velocity, blur, 64)
    known = batch_errors(x, y, v, blur, 64)
    for s in SELF_TERMS:
        assert (
            abs(told[s].total ** 0.5 - known[s].total ** 0.5) < 1.05 * delta
        )  # 1.05: N over N - n
    assert known["same"].bias2 > 2 * known["two_batch"].bias2
    assert 0 < known["same"].self_diag < 1
    assert known["masked"].self_diag == known["two_batch"].self_diag == 0


def test_points_of_no_weight_are_not_there():
    x, y = normals(96)
    far = torch.full((32, 4), 40.0)
    a, b = torch.ones(128), torch.ones(128)
    a[96:], b[96:] = 0, 0
    with_far = wanted_velocity(torch.cat([x, far]), torch.cat([y, far]), 1.0, a, b)
    alone = wanted_velocity(x, y, 1.0)
    assert (with_far.velocity[:96] - alone.velocity).abs().max() < 0.02
    advice = advise(torch.cat([x, far]), torch.cat([y, far]), a=a, b=b, relative_blur=1.0, **FEW)
    assert advice.share() < 2 and max(advice.rank) < 4.01


def test_weights_count_like_copies():
    "Points of weight 2 and points that are there twice: the same populations"
    x, y = normals(256)
    twice = torch.cat([x, x[:128]])
    a = torch.ones(256)
    a[:128] = 2
    blur = inner_length(x, y, a)
    assert abs(blur / inner_length(twice, y) - 1) < 1e-6
    goal = exact(x, blur**2)
    weighted = batch_errors(x, y, goal, blur, 32, ("two_batch",), rounds=8, a=a)["two_batch"]
    copied = batch_errors(
        twice, y.repeat(2, 1)[:384], torch.cat([goal, goal[:128]]), blur, 32, ("two_batch",), 8
    )["two_batch"]
    assert abs(weighted.total / copied.total - 1) < 0.25


def test_units_and_shapes_do_not_matter():
    x, y = normals(128)
    one, same = (
        advise(c * x.view(s), c * y.view(s), **FEW) for c, s in ((1, (128, 4)), (8, (128, 2, 2)))
    )
    assert one.settings() == same.settings() and abs(same.blur / one.blur - 8) < 1e-4
    assert abs(same.share() / one.share() - 1) < 1e-3 and same.wanted.velocity.shape == (128, 2, 2)


def test_the_advice_says_what_it_found():
    x, y = normals(200)
    advice = advise(x, y[:150], **FEW)
    assert isinstance(advice, Advice) and advice.points == (200, 150) and advice.dim == 4
    assert len(advice.errors) == 3 * len(RELATIVE_BLURS) * len(SELF_TERMS)
    assert advice.share() == min(advice.share(*key) for key in advice.errors)
    flow = NSGF(**advice.settings())
    assert flow.relative_blur == advice.relative_blur and flow.group == advice.group
    lines = str(advice).splitlines()
    assert len(lines) == 10 and lines[3].endswith(f"self_term={advice.self_term!r})")
    slow = replace(advice, arrival=0.3)
    assert "keep NSGF's falling blur" in str(slow) and "keep" not in str(replace(slow, arrival=1))
    assert repr(advice).startswith("Advice(relative_blur=")


def test_it_prints_unless_it_is_told_not_to(capsys):
    x, y = normals(64)
    advise(x, y, max_group=16, show=False)
    assert not capsys.readouterr().out
    advice = advise(x, y, max_group=16)
    assert capsys.readouterr().out == f"{advice}\n"


def test_large_samples_are_thinned_with_their_weights():
    x, y = normals(4100, d=2)
    advice = advise(x, y[:80], a=torch.rand(4100), relative_blur=1.4, max_group=8, show=False)
    assert advice.points == (4096, 80)


@pytest.mark.parametrize(
    "change, said",
    [
        (dict(x=torch.randn(63, 4)), "x: expected at least 64 points, got 63"),
        (dict(y=torch.randn(64, 3)), "x and y: expected points of the same shape"),
        (dict(y=torch.full((64, 4), torch.nan)), "y: 256 of 256 values are NaN or infinite"),
        (dict(x=torch.ones(64, 4)), "x: expected spread-out points for a relative blur"),
        (dict(a=torch.ones(3)), r"a: expected 64 weights of shape \(64,\), got shape \(3,\)"),
        (dict(b=-torch.ones(64)), "b: expected finite non-negative weights"),
        (dict(relative_blur=0.0), "relative_blur: expected a finite number > 0, got 0"),
        (dict(max_group=4), "max_group: expected"),
    ],
)
def test_bad_input_is_one_sentence(change, said):
    x, y = normals(64)
    with pytest.raises(ValueError, match=said):
        advise(**(dict(x=x, y=y, show=False) | change))


def test_bad_groups_and_rounds():
    x, y = normals(64)
    with pytest.raises(ValueError, match="group: expected at most half of the 64 points, got 33"):
        batch_errors(x, y, x, 1.0, 33)
    with pytest.raises(ValueError, match="rounds: expected"):
        batch_errors(x, y, x, 1.0, 8, rounds=1)
