"The baselines are no straw men: OT-CFM's pairs, points and velocities are those of torchcfm"

import pytest
import torch

from nsgf_nb.core import make_generator
from nsgf_nb.data import get_sampler
from nsgf_nb.straight import StraightFlow


def rows(coupling, batch_size=128):
    "A batch of StraightFlow, and the clouds and times that it was made from"
    from nsgf_nb.learning.model import Fit
    from nsgf_nb.sets.ends import ends, group_clouds

    both = ends("moons", "8gaussians", 0)
    flow = StraightFlow(coupling, batch_size=batch_size, device="cpu")
    z, t, u, _ = flow.task(both, Fit(seed=0)).rows(3, (0, 1), None)
    x0, y, _ = group_clouds(both.source, both.target, batch_size, 0, 3)
    return z * both.sigma + both.mean, t, u * both.sigma, x0, y


def test_ot_cfm_is_that_of_torchcfm():
    cfm = pytest.importorskip("torchcfm.conditional_flow_matching")
    from torchcfm.optimal_transport import OTPlanSampler

    xt, t, ut, x0, y = rows("ot")
    # theirs: mass 1/n on each pair
    plan = torch.as_tensor(OTPlanSampler(method="exact").get_map(x0, y))
    assert torch.equal((plan * len(y)).round().sum(0), torch.ones(len(y), dtype=plan.dtype))
    y = y[plan.argmax(1)]
    matcher = cfm.ConditionalFlowMatcher(sigma=0.0)
    assert (
        matcher.sample_xt(x0, y, t, torch.zeros_like(x0)) - xt
    ).abs().max() < 1e-6 * xt.abs().max()
    assert (matcher.compute_conditional_flow(x0, y, t, xt) - ut).abs().max() < 1e-6 * ut.abs().max()


def test_flow_matching_is_that_of_torchcfm():
    cfm = pytest.importorskip("torchcfm.conditional_flow_matching")
    xt, t, ut, x0, y = rows("independent")
    theirs = cfm.ConditionalFlowMatcher(sigma=0.0)
    _, x, u = theirs.sample_location_and_conditional_flow(x0, y, t=t)
    assert (x - xt).abs().max() < 1e-6 * xt.abs().max() and (
        u - ut
    ).abs().max() < 1e-6 * ut.abs().max()


def test_the_interpolant_is_that_of_torchcfm():
    cfm = pytest.importorskip("torchcfm.conditional_flow_matching")
    from nsgf_nb.matching.interpolants import Interpolant

    x0, y = (
        get_sampler("8gaussians")(64, make_generator(0, "x0")),
        get_sampler("8gaussians")(64, make_generator(0, "y")),
    )
    t = torch.rand(64, generator=make_generator(0, "t"))
    theirs = cfm.VariancePreservingConditionalFlowMatcher(sigma=0.0)
    xt, ut = Interpolant().line(x0, y, t[:, None], 0.0)
    assert (theirs.compute_mu_t(x0, y, t) - xt).abs().max() < 1e-5 and (
        theirs.compute_conditional_flow(x0, y, t, xt) - ut
    ).abs().max() < 1e-5
