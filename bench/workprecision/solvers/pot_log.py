"POT, in float64: sweeps in the log domain."

import ot
import torch

NAME = "POT log"
EFFORTS = (1e-1, 1e-2, 1e-4, 1e-6)  # stopThr: of the marginals


def entropic_map(x, y, a, b, blur, stop):
    plan = ot.sinkhorn(a, b, ot.dist(x, y), 2 * blur**2, "sinkhorn_log", 10**6, stop, warn=False)
    return plan @ y / plan.sum(1, keepdims=True)


def velocity(x, y, a, b, blur, effort):
    x, y, a, b = (z.double().cpu().numpy() for z in (x, y, a, b))
    a, b = a / a.sum(), b / b.sum()
    attraction = entropic_map(x, y, a, b, blur, effort)
    return torch.from_numpy(attraction - entropic_map(x, x, a, a, blur, effort))
