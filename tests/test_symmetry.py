"What a group does to points, velocities and fields, in any number of dimensions"

import itertools

import pytest
import torch

from nsgf_nb import (
    KALE,
    HalfMMD,
    SinkhornEnergy,
    SinkhornVelocity,
    orbit,
    particle_flow,
    symmetrised,
)
from nsgf_nb.core import make_generator


def signed_permutations(d):
    "All 2^d d! of them"
    eye = torch.eye(d, dtype=torch.float64)
    signs = [torch.tensor(s, dtype=torch.float64) for s in itertools.product((1, -1), repeat=d)]
    return torch.stack(
        [s[:, None] * eye[list(p)] for p in itertools.permutations(range(d)) for s in signs]
    )


CUBE = signed_permutations(3)  # the first is the identity


def points(n, shape=(3,), seed=0):
    return torch.randn(n, *shape, generator=make_generator(seed, "test_symmetry")).double()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("shape", [(3,), (1, 3, 1)], ids=str)
def test_an_orbit_is_unchanged_as_a_set(dtype, shape):
    y = points(4, shape).to(dtype)
    whole = orbit(y, CUBE)
    assert whole.shape == (48 * 4, *shape) and whole.dtype == dtype
    assert torch.equal(whole[:4], y)
    for g in CUBE[[5, 17, 40]].to(dtype):
        turned = (whole.flatten(1) @ g.T).unique(dim=0)
        assert torch.allclose(turned, whole.flatten(1).unique(dim=0), atol=1e-5)


VELOCITIES = {
    "sinkhorn": SinkhornEnergy(0.8, tol=1e-9).velocity,
    "mmd": HalfMMD(0.8).velocity,
    "kale": KALE(1.0, 0.1).velocity,
}


@pytest.mark.parametrize("name", VELOCITIES)
def test_velocities_to_an_orbit_turn_with_the_particles(name):
    x, y, velocity = points(7) + 1, points(2, seed=1), VELOCITIES[name]
    v = velocity(x, orbit(y, CUBE))
    for g in CUBE[[5, 17, 40]]:
        assert torch.allclose(velocity(x @ g.T, orbit(y, CUBE)), v @ g.T, atol=1e-6)
    assert not torch.allclose(velocity(x @ g.T, y), velocity(x, y) @ g.T, atol=1e-2)


def test_an_orbit_of_particles_stays_one():
    start = orbit(points(3), CUBE)
    end = particle_flow(start, orbit(points(2, seed=1), CUBE), SinkhornVelocity(0.8, tol=1e-9), 3)
    assert torch.allclose(end, orbit(end[:3], CUBE), atol=1e-5)
    assert (end - start).norm() > 1


@pytest.mark.parametrize("shape", [(3,), (1, 3, 1)], ids=str)
def test_a_field_is_made_symmetric_and_stays_so(shape):
    matrix = points(3, seed=2)
    field = lambda x, t, scale=1.0: (scale * torch.tanh(x.flatten(1) @ matrix) + t).view_as(x)
    mean, x = symmetrised(field, CUBE), points(7, shape)
    for g in CUBE[[5, 17, 40]]:
        turn = lambda z: (z.flatten(1) @ g.T).view_as(z)
        assert torch.allclose(mean(turn(x), 0.3, 2.0), turn(mean(x, 0.3, 2.0)), atol=1e-12)
    assert torch.allclose(symmetrised(mean, CUBE)(x, 0.3), mean(x, 0.3), atol=1e-12)


def test_groups_that_are_none_are_refused():
    y, one = points(4), torch.eye(3)
    turn = one[[1, 2, 0]]
    for matrices, said in (
        (
            turn[None],
            "expected a group, each product of two among them, got that of 0 and 0 0 times",
        ),
        (torch.stack([one, one]), "got that of 0 and 0 2 times"),
        (2 * one[None], "expected isometries, g gᵀ = 1, got an error of 3"),
        (one, r"expected shape \(G, 3, 3\), got \(3, 3\)"),
        (float("nan") * one[None], "expected isometries, g gᵀ = 1, got an error of nan"),
        ([one], r"expected shape \(G, 3, 3\), got list"),
    ):
        for call in (lambda m: orbit(y, m), lambda m: symmetrised(lambda x: x, m)(y)):
            with pytest.raises(ValueError, match=f"^matrices: .*{said}"):
                call(matrices)
