"GeomLoss's newer solver: a number of temperatures, so of iterations; kernels are stored."

import geomloss._backends as backends
from geomloss import ot

NAME = "GeomLoss solve"
EFFORTS = (10, 30, 100, 300)  # max_iter
backends.keops_available = False  # with KeOps it makes kernels anew: four to thirty times slower


def entropic_map(x, y, a, b, blur, count):
    plan = ot.solve_sample(x, y, a=a, b=b, blur=blur, max_iter=count).plan
    return plan @ y / plan.sum(1, keepdim=True)


def velocity(x, y, a, b, blur, effort):
    return entropic_map(x, y, a, b, blur, effort) - entropic_map(x, x, a, a, blur, effort)
