"OTT-JAX in the log domain, to a threshold, compiled before: momentum; self term as its divergence."

import torch
from jax import enable_x64, jit, numpy
from ott.geometry import geometry, pointcloud
from ott.problems.linear.linear_problem import LinearProblem
from ott.solvers.linear import acceleration, sinkhorn

NAME, EFFORTS = "OTT momentum", (0.5, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)  # < 1e-4: float64
CROSS = dict(momentum=acceleration.Momentum(start=40))
SELF = dict(momentum=acceleration.Momentum(value=0.5), parallel_dual_updates=True)


def entropic_map(x, y, a, b, blur, threshold, options):
    costs = geometry.Geometry(pointcloud.PointCloud(x, y).cost_matrix, epsilon=2 * blur**2)
    solver = sinkhorn.Sinkhorn(threshold=threshold, max_iterations=10_000, **options)
    plan = solver(LinearProblem(costs, a, b)).matrix
    return plan @ y / plan.sum(1, keepdims=True)


@jit
def difference(x, y, a, b, blur, threshold):
    own = entropic_map(x, x, a, a, blur, threshold, SELF)
    return entropic_map(x, y, a, b, blur, threshold, CROSS) - own


def in_digits(double, x, y, a, b, blur, effort):
    with enable_x64(double):
        given = [numpy.asarray(z.numpy(), "f8" if double else "f4") for z in (x, y, a, b)]
        return torch.from_dlpack(difference(*given, blur, effort).block_until_ready())


def warm(*problem):
    return [in_digits(double, *problem, 10.0) for double in (False, True)]


def velocity(x, y, a, b, blur, effort):
    return in_digits(effort < 1e-4, x, y, a, b, blur, effort)
