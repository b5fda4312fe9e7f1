"""Neural Sinkhorn Gradient Flows, and the family of Wasserstein gradient flows around them.

The main names stand here, and each is imported when it is first asked for: `import nsgf_nb` loads no torch.
"""
from importlib import import_module

__version__ = "0.1.0"

# module: the names that the package lends from it. A new member of the family adds a row.
PUBLIC = {
    "core": ("ConvergenceWarning", "RegimeWarning"),
    "data": ("Sampler", "get_sampler"),
    "sets.images": ("to_images",),
    "plot": ("image_grid", "panels"),
    "sinkhorn": ("SinkhornLoss", "sinkhorn_divergence", "sinkhorn_potentials", "transport_plan"),
    "velocity": ("entropic_map", "sinkhorn_velocity"),
    "estimator": ("SinkhornVelocity", "VelocityInfo"),
    "particles": ("particle_flow",),
    "learning.model": ("Chain", "Fit", "Flow", "Model", "integrate"),
    "learning.nets": ("MLP",),
    "learning.training": ("Task", "TrainingOptions"),
    "learning.unet": ("UNet",),
    "flow": ("NSGF",),
    "straight": ("PairFlow", "StraightFlow", "couple", "sample_lines"),
    "plusplus": ("NSGFPlusPlus", "SampleInfo", "list_pretrained"),
    "matching.few_steps": ("fitted_times",),
    "matching.interpolants": ("OneStep", "Interpolant", "DDIM", "DDPM"),
    "family.plan": ("EntropicPlan", "self_score"),
    "family.generator": ("SinkhornGenerator",),
    "family.bridge": ("SchrodingerBridge",),
    "family.dsbm": ("DSBM",),
    "family.semidiscrete": ("SemidiscretePlan",),
    "family.growth": ("UnbalancedPlan", "growth", "unbalanced_plan", "unbalanced_velocity"),
    "family.neural_plan": ("NeuralPlan", "langevin"),
    "sets.snapshots": ("snapshots",),
    "family.trajectory": ("Trajectory", "leave_one_out"),
    "family.energies": ("Energy", "Entropy", "HalfMMD", "KL", "PorousMedium", "Potential", "SinkhornEnergy"),
    "family.implicit": ("implicit", "proximal"),
    "family.kale": ("KALE",),
    "family.lipschitz": ("LipschitzDivergence",),
    "family.energy_flow": ("EnergyFlow",),
    "family.jko": ("Composition", "Residual", "gaussian_jko", "jko"),
    "family.mcmc": ("FlexProposal", "NormalMixture", "isir", "mala"),
    "family.stochastic": ("Coupling", "LangevinLayer", "MetropolisLayer"),
    "family.dominance": ("Dominance",),
    "family.gebm": ("GEBM",),
    "family.indm": ("INDM", "diffusion_bound"),
    "family.symmetry": ("orbit", "symmetrised"),
    "family.jko_maps": ("Convex", "DualKL", "ODEBlock", "folded"),
    "family.jko_flow": ("JKOFlow",),
    "scikit": ("FlowEstimator",),
    "distances": ("energy_distance", "gate", "mmd", "w2", "w2_floor"),
    "evaluation.advice": ("Advice", "advise"),
}
_MODULE_OF = {name: module for module, names in PUBLIC.items() for name in names}
_DOORS = ("cli", "data", "distances", "estimator", "fid", "flow", "particles", "plot", "plusplus", "sinkhorn", "straight", "velocity")
__all__ = sorted(_MODULE_OF)


def __getattr__(name):
    if name in _DOORS:
        return import_module(f"nsgf_nb.{name}")
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'nsgf_nb' has no attribute {name!r}")
    return getattr(import_module(f"nsgf_nb.{_MODULE_OF[name]}"), name)


def __dir__():
    return sorted({*globals(), *__all__, *_DOORS})
