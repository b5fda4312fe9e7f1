"GeomLoss: one pass over its temperatures, then a gradient; kernels are stored."

import torch
from geomloss import SamplesLoss

NAME = "GeomLoss"
EFFORTS = (0.5, 0.8, 0.9, 0.95, 0.99)  # scaling: ratio of two blurs


def velocity(x, y, a, b, blur, effort):
    loss = SamplesLoss("sinkhorn", p=2, blur=blur, scaling=effort, backend="tensorized")
    z = x.clone().requires_grad_(True)
    return -torch.autograd.grad(loss(a, z, b, y), z)[0] / a[:, None]
