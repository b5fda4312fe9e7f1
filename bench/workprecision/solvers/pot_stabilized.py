"POT, in float64: sweeps with an absorbed kernel."

import ot
import torch

NAME = "POT stabilized"
EFFORTS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7)  # stopThr: of the marginals


def entropic_map(x, y, a, b, blur, stop):
    plan = ot.sinkhorn(
        a, b, ot.dist(x, y), 2 * blur**2, "sinkhorn_stabilized", 10**6, stop, warn=False
    )
    return plan @ y / plan.sum(1, keepdims=True)


def velocity(x, y, a, b, blur, effort):
    x, y, a, b = (z.double().cpu().numpy() for z in (x, y, a, b))
    a, b = a / a.sum(), b / b.sum()
    attraction = entropic_map(x, y, a, b, blur, effort)
    return torch.from_numpy(attraction - entropic_map(x, x, a, a, blur, effort))
