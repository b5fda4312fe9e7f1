"""The picture wall: figures that the lessons have recorded, one for each method.

nbs/gallery.ipynb and the site show it; no picture is kept twice.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path

NBS = Path(__file__).resolve().parent.parent / "nbs"


@dataclass(frozen=True)
class Card:
    "A picture with its words; its lesson is the one that has the cell."

    title: str
    cell: str  # id of the cell that draws it
    text: str
    methods: tuple = ()  # keys of MEMBERS


WALL = {
    "learn": [
        Card(
            "NSGF",
            "flw-use",
            "learns the velocity of particles that descend the Sinkhorn divergence.",
            ("nsgf",),
        ),
        Card(
            "NSGF++",
            "npp-plane",
            "takes a few Sinkhorn steps, then straight lines. It is for images.",
            ("nsgf++",),
        ),
        Card(
            "Flow matching and OT-CFM",
            "lin-samples",
            "learn straight lines, of independent pairs and of matched ones.",
            ("fm", "ot-cfm"),
        ),
        Card(
            "Semidiscrete pairs",
            "sds-bias",
            "come from a plan with the whole target, without the bias of batches.",
            ("sd-cfm",),
        ),
        Card(
            "Interpolant, DDIM and DDPM",
            "bsl-file",
            "are there to compare with.",
            ("si", "ddim", "ddpm"),
        ),
        Card(
            "Reflow and one step", "bsl-one-check", "make a fitted flow straight, and then short."
        ),
        Card(
            "Sinkhorn generator",
            "gen-fit-figure",
            "makes a sample in a single call.",
            ("generator",),
        ),
        Card(
            "Neural plan",
            "lgv-mix-figure",
            "draws ends for a given start, in many dimensions.",
            ("neural-plan",),
        ),
        Card(
            "Schrödinger bridge",
            "bmt-moons-fig",
            "leads each start to many ends.",
            ("bridge",),
        ),
        Card(
            "DSBM",
            "dsb-oracle-slow",
            "learns a bridge from what its other direction makes, round by round.",
            ("dsbm",),
        ),
        Card(
            "Energy flow",
            "efl-figure",
            "learns the particle flow of any energy.",
            ("energy",),
        ),
        Card("Weighed generator", "gbm-figure", "has the shares of the data, by learned weights."),
        Card(
            "JKO flow",
            "jkf-figure",
            "carries data to noise, map by map, and knows the density of what comes back.",
            ("jko",),
        ),
        Card("Trajectory", "trj-branch-plot", "follows a population through several times."),
    ],
    "move": [
        Card("Particle flow", "prt-trails", "moves a cloud along the Sinkhorn velocity."),
        Card("Discrepancies", "dsc-flow", "can be descended in other ways as well."),
        Card(
            "Energies",
            "eng-figure",
            "add up, as a distance to the target and a hill in the way do.",
        ),
        Card("KALE", "kal-flow-figure", "stands between Kullback–Leibler and MMD."),
        Card("Implicit steps", "imp-figure-clouds", "may be of any length."),
        Card("Bounded speed", "lip-figure", "keeps every particle as slow as the critic is steep."),
        Card("Dominance", "dom-figure", "pushes particles outwards until they are spread enough."),
        Card(
            "Maps for each step", "jko-figure", "follow a law with its density, not particles only."
        ),
        Card(
            "Local and global moves",
            "mcm-figure",
            "bring chains to the right shares of far modes, once the proposal has learned.",
        ),
        Card(
            "Mean-field inference",
            "mfv-figure",
            "brings each factor of a product to the best product, by any step.",
        ),
        Card(
            "Stochastic flow",
            "snf-figure",
            "chains maps and draws, and knows the weight of each path.",
        ),
        Card("A fold", "map2-four-figure", "is what a map of an implicit step should not have."),
        Card("Entropic plan", "pln-fig", "gives map, samples and bridge between two clouds."),
        Card("Bridges of a plan", "brg-fig", "wander the more, the higher the temperature."),
        Card("Growth", "gro-figure", "lets masses change: a cluster grows, and none is torn."),
        Card("Sinkhorn loss", "slo-ellipse-figure", "trains a generator of your own."),
    ],
    "more": [
        Card("MNIST", "mni-look2", "in ten calls: a hundred samples of NSGF++, none chosen."),
        Card(
            "Classes",
            "cls-grid2",
            "are asked for by a label, one a row, and made clearer by guidance.",
        ),
        Card("Likelihood", "lik-moons", "is the density that a straight flow has learned."),
        Card("Fine-tuning", "agn-tune", "teaches a fitted flow another target in 100 steps."),
        Card("Colours", "col-learn", "go from a flower to a temple and to a portrait."),
        Card("Blood", "bld-plot", "cells of three days, and the way between."),
    ],
}


def drawn(cell):
    "The first picture that is recorded with a cell, as base64; None: there is none"
    for out in cell.get("outputs", []):
        if png := out.get("data", {}).get("image/png"):
            return "".join("".join(png).split())
    return None


def recorded():
    "Id of a cell that draws → (its notebook, its alternative text, its picture)"
    found = {}
    for path in sorted(NBS.rglob("*.ipynb")):
        name = path.relative_to(NBS)
        if any(part[0] in "._" for part in name.parts):
            continue
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            if cell["cell_type"] == "code" and (png := drawn(cell)):
                alt = re.search(r"^#\| *fig-alt: *(.+)$", "".join(cell["source"]), re.M)
                found[cell["id"]] = (name.as_posix(), alt[1].strip("\"'") if alt else "", png)
    return found


def wall(
    group,  # a key of WALL
):  # Markdown: a paragraph for each card
    "Pictures, each a link to its lesson."
    from IPython.display import Markdown

    pictures = recorded()
    cards = []
    for card in WALL[group]:
        lesson, alt, png = pictures[card.cell]
        alt = re.sub(r"[\[\]]", "", alt)
        image = f"![{alt}](data:image/png;base64,{png})"
        cards.append(f"[{image}]({lesson}) [**{card.title}**]({lesson}) {card.text}")
    return Markdown("\n\n".join(cards))
