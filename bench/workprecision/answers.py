"""What the answers file holds, and how a velocity is held against it.

Kept are two potentials of each problem in float64, g of the cross term and h of the self term: from
them T_xy and T_xx follow by one softmax each, in float64 and in the log domain, with exact rows.
That the columns of the two plans have the right sums is then checked by adding them up, whoever
found the potentials. The metadata of the file say for each problem the hash of its inputs, these
errors of the columns, and the other checks that make_answers.py made.

The error of v is sqrt(Σ a |v - v*|²) / sqrt(Σ a |T_xy - x|²).
"""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

FILE = Path(__file__).parent / "answers.safetensors"
BLOCK = 2**22  # entries of a kernel that are held at a time


@dataclass(frozen=True)
class Doubles:
    "A problem in float64, centred, with weights of sum 1."

    x: Tensor  # (n, d)
    y: Tensor  # (m, d)
    a: Tensor  # (n,)
    b: Tensor  # (m,)
    eps: float


@dataclass(frozen=True)
class Answer:
    "The right velocity."

    v: Tensor  # (n, d), float64
    pull: float  # rms of |T_xy - x| under the weights: the unit of errors
    weights: Tensor  # (n,), of sum 1
    cross_columns: float  # L1 error of the columns of the cross plan, whose rows are exact
    self_columns: float  # the same of the self plan


def weights_of(given, points):
    "Weights of sum 1 in float64."
    if given is None:
        return torch.full((len(points),), 1 / len(points), dtype=torch.float64)
    return given.double() / given.double().sum()


def doubles(problem):
    "The problem in float64, with the mean of y as origin."
    x, y = problem.x.double(), problem.y.double()
    a, b = weights_of(problem.a, x), weights_of(problem.b, y)
    middle = b @ y
    return Doubles(x - middle, y - middle, a, b, problem.blur**2)


def row_blocks(n, m):
    "Slices of rows, so that a block holds at most BLOCK entries."
    size = max(1, BLOCK // m)
    return [slice(k, min(k + size, n)) for k in range(0, n, size)]


def half_costs(x, y):
    "|x - y|²/2 from differences where there are few coordinates, else from the expanded square."
    if x.shape[1] > 16:
        squares = x.square().sum(1)[:, None] + y.square().sum(1)[None, :]
        return (squares / 2 - x @ y.T).clamp_(min=0)
    total = torch.zeros(len(x), len(y), dtype=x.dtype)
    for p, q in zip(x.T, y.T):
        total += (p[:, None] - q[None, :]).square()
    return total / 2


def entropic_map(x, y, a, b, eps, g):
    "T (n, d) with exact rows, from the potential g of y; and the L1 error of the columns."
    T = torch.empty_like(x)
    columns = torch.zeros_like(b)
    for rows in row_blocks(len(x), len(y)):
        exponents = (g - half_costs(x[rows], y)) / eps + b.log()
        plan = torch.softmax(exponents, 1)
        T[rows] = plan @ y
        columns += a[rows] @ plan
    return T, (columns - b).abs().sum().item()


def answer_from(problem, g, h):
    "The velocity that two potentials give, and how well they keep the marginals."
    p = doubles(problem)
    cross, cross_columns = entropic_map(p.x, p.y, p.a, p.b, p.eps, g)
    own, self_columns = entropic_map(p.x, p.x, p.a, p.a, p.eps, h)
    pull = (p.a @ (cross - p.x).square().sum(1)).sqrt().item()
    return Answer(cross - own, pull, p.a, cross_columns, self_columns)


def error_of(v, answer):
    "Of a velocity (n, d), in units of the rms of T_xy - x under the weights."
    off = (v.detach().cpu().double() - answer.v).square().sum(1)
    return (answer.weights @ off).sqrt().item() / answer.pull


def load(file=FILE):
    "Potentials by name (`NAME g`, `NAME h`), and what is known of each problem."
    from safetensors import safe_open

    with safe_open(file, "pt") as stored:
        potentials = {key: stored.get_tensor(key) for key in stored.keys()}  # noqa: SIM118, no dict
        known = {name: json.loads(text) for name, text in (stored.metadata() or {}).items()}
    return potentials, known


def answer_of(problem, file=FILE):
    "The answer to a problem; a ValueError where the file is for other inputs."
    potentials, known = load(file)
    if problem.name not in known:
        raise ValueError(f"{problem.name}: no answer in {file}, run make_answers.py")
    if known[problem.name]["digest"] != problem.digest:
        raise ValueError(
            f"{problem.name}: this machine makes other inputs than the file was made for"
        )
    return answer_from(problem, potentials[f"{problem.name} g"], potentials[f"{problem.name} h"])
