"""What the estimator says is true: 300 problems here, 2000 with `make test-slow`.

bench/certificate.py writes the figures by stratum. 0 false promises in 2000 say that the rate is
below .15 % (95 %), on these strata."""

import json
import math

import numpy as np
import ot
import problems
import pytest
import reference
import torch
import verdict

SHARE = 0.8  # of the problems whose temperature float64 resolves, converged, in each stratum
UNCHECKED = 0.05


def strata_short_of(verdicts, share):
    "Strata in which too few converged of what float64 resolves."
    short = {}
    for name, _, _ in problems.STRATA:
        part = [
            v for v in verdicts if v.stratum == name and v.above_floor and v.outcome != "refused"
        ]
        done = sum(v.converged for v in part)
        if done < share * len(part):
            short[name] = f"{done} of {len(part)}"
    return short


def numbers(verdicts, what):
    return [v.number for v in verdicts if what(v)]


def complaints(verdicts):
    "All that the estimator promised and did not hold, by kind."
    unchecked = numbers(verdicts, lambda v: v.outcome == "answer" and not v.checked)
    found = {
        "exceptions": {v.number: v.message for v in verdicts if v.exception},
        "NaN": {v.number: v.nan for v in verdicts if v.nan},
        "false promises": numbers(verdicts, lambda v: v.some("false_promise")),
        "broken bounds": numbers(verdicts, lambda v: v.some("broken_bound")),
        "another blur": numbers(verdicts, lambda v: v.some("wrong_blur")),
        "too few converged": strata_short_of(verdicts, SHARE),
        "too many unchecked": unchecked if len(unchecked) > UNCHECKED * len(verdicts) else [],
    }
    return {kind: what for kind, what in found.items() if what}


def judged(numbers):
    return [verdict.judge(problems.problem(number)) for number in numbers]


@pytest.fixture(autouse=True)
def one_thread():
    "Small problems: threads cost more than they give."
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_300_problems():
    "An even stride through all strata"
    found = complaints(judged(problems.stride(300)))
    assert not found, json.dumps(found, indent=1)


@pytest.mark.slow
def test_all_2000_problems():
    "All of them"
    found = complaints(judged(range(problems.TOTAL)))
    assert not found, json.dumps(found, indent=1)


# --- is the reference right, and can the comparison fail? -----------------------------------------


def test_the_problems_are_a_pure_function_of_their_number():
    "The same number, the same bits, whatever was drawn before"
    first = problems.problem(1234)
    torch.randn(5)
    np.random.rand(5)
    problems.problem(7)
    again = problems.problem(1234)
    assert torch.equal(first.x, again.x) and torch.equal(first.y, again.y)
    assert first.settings() == again.settings()
    assert problems.TOTAL == 2000 and len(set(problems.stride(300))) == 300


def clouds(seed, n=14, m=11, d=2):
    rng = np.random.default_rng(seed)
    return (
        rng.standard_normal((n, d)),
        rng.standard_normal((m, d)) + 1,
        rng.uniform(0.2, 1, n),
        rng.uniform(0.2, 1, m),
    )


def pot_map(x, y, a, b, blur):
    "The entropic map by POT."
    cost = np.square(x[:, None] - y[None]).sum(2)
    plan = ot.bregman.sinkhorn_log(a, b, cost, 2 * blur**2, numItermax=20000, stopThr=1e-12)
    return plan @ y / plan.sum(1, keepdims=True)


@pytest.mark.parametrize("blur", [0.5, 1.0, 10.0])
def test_the_reference_is_what_another_library_says(blur):
    "POT, with weights, three sizes of blur"
    x, y, a, b = clouds(0)
    a, b = a / a.sum(), b / b.sum()
    right = pot_map(x, y, a, b, blur) - pot_map(x, x, a, a, blur)
    assert np.abs(reference.velocity(x, y, blur, a=a, b=b).v - right).max() < 1e-8
    z, _, _, _ = clouds(1)
    other = pot_map(x, y, a, b, blur) - pot_map(x, z, a, np.full(len(z), 1 / len(z)), blur)
    two = reference.velocity(x, y, blur, a=a, b=b, self_term="two_batch", x_self=z)
    assert np.abs(two.v - other).max() < 1e-8


def test_the_reference_knows_the_limits():
    "Blur 0: the best assignment. Blur infinite: the difference of the means. A shift: the shift"
    x, y, _, _ = clouds(2, 12, 12)
    cost = np.square(x[:, None] - y[None]).sum(2)
    best = ot.emd(np.full(12, 1 / 12), np.full(12, 1 / 12), cost).argmax(1)
    assert np.abs(reference.velocity(x, y, 1e-6).v - (y[best] - x)).max() < 1e-12
    assert np.abs(reference.velocity(x, y, 1e6).v - (y.mean(0) - x.mean(0))).max() < 1e-9
    assert np.abs(reference.velocity(x, x + 3, 0.2).v - 3).max() < 1e-9


def test_the_reference_does_not_care_for_units_and_padding():
    "Powers of two, points without weight, and a light point beside a heavy one"
    x, y, a, b = clouds(3)
    v = reference.velocity(x, y, 0.2, a=a, b=b).v
    small = 2.0**-500
    assert np.array_equal(
        reference.velocity(x * small, y * small, 0.2 * small, a=a, b=b).v, v * small
    )
    padded = np.concatenate([y, y[:3] * 50])
    weights = np.concatenate([b, np.zeros(3)])
    assert np.abs(reference.velocity(x, padded, 0.2, a=a, b=weights).v - v).max() < 1e-12
    pair, targets, heavy = np.array([[0.0], [1.0]]), np.array([[3.0], [4.0]]), np.array([1, 1e-7])
    assert abs(reference.velocity(pair, targets, 1.0, a=heavy).v[1, 0] - 3.73) < 0.01


def test_masked_by_the_plan_itself():
    "Three points: each pair holds a third; four on a line at small blur: neighbours"
    x = np.array([[0.0], [1.0], [5.0]])
    y = np.zeros((3, 1))
    others = np.array([[3.0], [2.5], [0.5]])
    assert np.abs(reference.velocity(x, y, 0.1, self_term="masked").v + others).max() < 1e-9
    x = np.array([[0.0], [1.0], [5.0], [6.0]])
    neighbours = x[[1, 0, 3, 2]]
    assert (
        np.abs(reference.velocity(x, x[:1] * 0, 0.1, self_term="masked").v + neighbours).max()
        < 1e-9
    )


def test_a_wrong_answer_is_found():
    "v off by three times what is allowed is a false promise; NaN and too small a bound are seen"
    p = problems.problem(110)
    right = verdict.answers(p)
    v, info = verdict.ask(p)
    good = verdict.check(p, right[0], v, info)
    assert good.good and good.converged
    off = verdict.check(p, right[0], v + 3 * good.allowed, info)
    assert off.false_promise
    off.bound = good.allowed / 10
    assert off.broken_bound
    assert verdict.not_finite(v * math.nan, [info]) == "v"
