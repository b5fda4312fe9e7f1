"""nbs/api.ipynb from the package: its names by task and by name, each with its line and its page.

What a user imports is listed: the table PUBLIC, the names of the doors (tests/doors.json), and the
methods of public classes.
Usage, in the root of the project: python tools/api.py
"""

import importlib
import inspect
import json
import re
import runpy
from pathlib import Path

import nsgf_nb

ROOT = Path(__file__).resolve().parent.parent
NBS = ROOT / "nbs"
PAGE = NBS / "api.ipynb"
# What a class answers by contract: it is listed where the contract stands
HOOKS = """
adapt add_rows begin check checked contents extra_repr finish fit_ends forward grid iterations
line link make_flow of parts rate restore score_of_target settings starts step_size task times
value velocity velocity_at walk
"""
CONTRACTS = {"Flow", "Chain", "PairFlow", "Energy"}
CONSTANTS = {
    "DOWNLOADED": "names of the image sets that are fetched when they are asked for",
    "INCEPTION": "the file of weights of the standard FID",
    "PHASES": "the options of the two phases of NSGF++",
}

# What somebody wants to do, and the names for it. A new public name is added to a row.
TASKS = {
    "Get data": (
        "get_sampler Sampler snapshots affine open_named points_and_labels LazySource DOWNLOADED"
    ),
    "Learn a flow": (
        "NSGF NSGFPlusPlus StraightFlow EnergyFlow JKOFlow OneStep SchrodingerBridge DSBM"
    ),
    "Learn a generator or a plan": "SinkhornGenerator GEBM NeuralPlan langevin self_score",
    "Follow a population in time": "Trajectory leave_one_out snapshots",
    "Fit, sample, save and load": (
        "Model.preset Model.fit Flow.sample integrate Model.transform Model.save Model.load"
        " Model.to fitted_times NSGFPlusPlus.from_pretrained list_pretrained SampleInfo"
        " PairFlow.log_prob JKOFlow.log_prob"
    ),
    "Compare with other methods": "Interpolant DDIM DDPM INDM diffusion_bound",
    "Transport without learning": (
        "EntropicPlan SemidiscretePlan particle_flow step_sizes natural_time per_step"
        " UnbalancedPlan unbalanced_plan unbalanced_velocity growth"
    ),
    "Sinkhorn velocity and loss in a model of your own": (
        "SinkhornVelocity VelocityInfo SinkhornLoss sinkhorn_divergence sinkhorn_velocity"
        " entropic_map"
    ),
    "Solve entropic transport, step by step": (
        "sinkhorn_potentials self_potentials transport_plan cost_matrix softmin Potentials"
    ),
    "Check against closed forms": (
        "gaussian_cost gaussian_divergence gaussian_map gaussian_velocity gaussian_straight"
        " gaussian_jko"
    ),
    "Follow other energies": (
        "Dominance Energy Entropy HalfMMD KALE KL LipschitzDivergence PorousMedium Potential"
        " SinkhornEnergy implicit proximal jko Composition Residual Convex ODEBlock folded DualKL"
    ),
    "Sample from a log-density": (
        "mala isir FlexProposal NormalMixture langevin jko Coupling LangevinLayer MetropolisLayer"
    ),
    "Use a known symmetry": "orbit symmetrised",
    "Pair points, in a loop of your own": (
        "couple sample_lines assign assign_within simulated pushed WAY BANK"
    ),
    "Judge samples": (
        "Model.score gate distribution_gate component_gate verdict GateResult w2 w2_floor mmd"
        " energy_distance distances"
    ),
    "Judge images": (
        "image_scores fid score_name classify class_shares to_bytes to_images inception_weights"
        " INCEPTION"
    ),
    "Choose settings": "advise Advice TrainingOptions FlowEstimator",
    "Hear of trouble": "ConvergenceWarning RegimeWarning VelocityInfo",
    "Draw": (
        "panels scatter trails quiver image_grid save_gif save_figure figure figure_style lines"
        " loss_curve plan_heatmap"
    ),
    "Choose a network": "MLP UNet",
    "Add a method": "Flow Chain Model Fit Task PairFlow PHASES",
    "From a shell": "main FILES",
}


def pages():
    "Page of the site → notebook: nbdev drops the number"
    found = (p.relative_to(NBS) for p in NBS.rglob("*.ipynb"))
    return {
        p.with_name(re.sub(r"^\d+[a-z]?_", "", p.stem) + ".html").as_posix(): p.as_posix()
        for p in found
    }


def symbols():
    "Symbol with its module → its place, as a link between notebooks"
    index = runpy.run_path(str(ROOT / "nsgf_nb/_modidx.py"))["d"]["syms"]
    of_page = pages()
    places = {}
    for module in index.values():
        for symbol, (url, _) in module.items():
            page, _, anchor = url.partition("#")
            if page in of_page:
                places[symbol] = f"{of_page[page]}#{anchor}"
    return places


def comment_of(name, source):
    "The comment behind a constant, which has no docstring"
    m = re.search(rf"^{name} *=.*?#\s*(.+)$", source, re.M)
    return m[1] if m else CONSTANTS[name]


def lesson_of(name, source):
    "The notebook of a constant: a module says before each cell where it is from"
    before = source[: re.search(rf"^{name} *=", source, re.M).start()]
    return re.findall(r"^# %% \.\./nbs/(\S+\.ipynb)", before, re.M)[-1]


def first_line(found):
    "Of the docstring"
    return (inspect.getdoc(found) or "").split("\n")[0].strip()


def offered():
    "Name → module, for what doors and package lend"
    doors = json.loads((ROOT / "tests/doors.json").read_text(encoding="utf-8"))
    names = {n: f"nsgf_nb.{door}" for door, all_ in doors.items() for n in all_ if "." not in n}
    return names | {n: "nsgf_nb" for n in nsgf_nb.__all__}


def methods(cls, places):
    "Method → (its place, its line), for those that stand in a class itself"
    own = f"{cls.__module__}.{cls.__qualname__}"
    for key, value in vars(cls).items():
        value = getattr(value, "__func__", value)  # of a class method
        hook = key in HOOKS.split() and cls.__name__ not in CONTRACTS
        method = inspect.isfunction(value) or isinstance(value, property)
        default = key in getattr(cls, "__dataclass_fields__", ())  # of a field, may be a function
        if key[0] == "_" or hook or default or not method:
            continue
        yield f"{cls.__name__}.{key}", places.get(f"{own}.{key}", places[own]), first_line(value)


def listed():
    "Name → (where it is imported from, its place, its line), for all that users import"
    places, rows = symbols(), {}
    for name, source in offered().items():
        found = getattr(importlib.import_module(source), name)
        if not callable(found):
            text = Path(importlib.import_module(source).__file__).read_text(encoding="utf-8")
            rows[name] = (source, lesson_of(name, text), comment_of(name, text))
            continue
        rows[name] = (source, places[f"{found.__module__}.{name}"], first_line(found))
        if inspect.isclass(found):
            for method, place, said in methods(found, places):
                rows[method] = (source, place, said)
    return rows


def said(row):
    "The line of a name, as a cell of a table"
    return row[2].rstrip(".").replace("|", r"\|").replace("*", r"\*")


def by_task(rows):
    # nbdev makes a link of each name in code font, and a link in a link is none
    lines = []
    for task, names in TASKS.items():
        lines += [f"### {task}", "", "| name | what it is |", "|:--|:--|"]
        lines += [f"| [{n}]({rows[n][1]}) | {said(rows[n])} |" for n in names.split()]
        lines += [""]
    return "\n".join(lines).rstrip()


def by_name(rows):
    lines = ["| name | import it from | what it is |", "|:--|:--|:--|"]
    for name in sorted(rows, key=lambda n: (n.lower(), n)):
        source, place, _ = rows[name]
        lines.append(f"| [{name}]({place}) | `{source}` | {said(rows[name])} |")
    return "\n".join(lines)


TITLE = """# API index

> Every name that a user imports, by what you want to do and from A to Z."""
INTRO = (
    "Each name leads to the lesson that derives it, where its parameters stand in a table;"
    " `help(name)` says the same in a terminal. Everything is imported from `nsgf_nb` itself,"
    " unless the second table names another module. This page is written by `make export`.\n\n"
    "What all flows share stands once: [Model.fit]({fit}), [Flow.sample]({sample}),"
    " [Model.save]({save}) and [Model.load]({load})."
)
EXPORT = """#| hide
#| eval: false
"""


def markdown(name, text):
    return {
        "cell_type": "markdown",
        "id": f"api-{name}",
        "metadata": {},
        "source": text.splitlines(keepends=True),
    }


def hidden(name, text):
    return {
        "cell_type": "code",
        "execution_count": None,
        "id": f"api-{name}",
        "metadata": {},
        "outputs": [],
        "source": (EXPORT + text).splitlines(keepends=True),
    }


def page():
    "The text of nbs/api.ipynb"
    rows = listed()
    verbs = {n.split(".")[1]: rows[n][1] for n in ("Model.fit", "Flow.sample", "Model.save")}
    cells = [
        markdown("title", TITLE),
        markdown("intro", INTRO.format(**verbs, load=rows["Model.load"][1])),
        markdown("task", "## By task\n\n" + by_task(rows)),
        markdown("name", "## From A to Z\n\n" + by_name(rows)),
        hidden("exp1", "from nbdev import nbdev_export"),
        hidden("exp2", "nbdev_export()"),
    ]
    kernel = {"display_name": "python3", "language": "python", "name": "python3"}
    nb = {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(nb, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
