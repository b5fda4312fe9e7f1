"""nbs/sidebar.yml from the folders: a chapter for each, its sections in the order of their numbers.

python tools/sidebar.py
"""

from pathlib import Path

import yaml

NBS = Path(__file__).resolve().parent.parent / "nbs"
CHAPTERS = {
    "1_data": "Data",
    "2_transport": "Transport",
    "3_solver": "Solver",
    "4_particles": "Particles",
    "5_learning": "Learning",
    "6_matching": "Matching",
    "7_family": "Family",
    "8_evaluation": "Evaluation",
    "9_workshop": "Workshop",
    "tutorials": "Tutorials",
}
# the pages above the chapters: to begin with, then to look things up
FIRST = (
    *("index", "install", "start", "howto", "gallery"),
    *("api", "messages", "glossary", "bibliography"),
)
HEAD = "# written by tools/sidebar.py (`make export`)\n"


def sections(folder):
    return [p.relative_to(NBS).as_posix() for p in sorted((NBS / folder).glob("*.ipynb"))]


def sidebar():
    "The text of nbs/sidebar.yml"
    unknown = {p.parent.name for p in NBS.glob("*/*.ipynb") if p.parent.name[0] not in "._"}
    unknown -= set(CHAPTERS)
    if unknown:
        raise ValueError(f"{', '.join(sorted(unknown))}: expected a title in CHAPTERS")
    contents = [f"{name}.ipynb" for name in FIRST]
    for folder, title in CHAPTERS.items():
        number = f"{folder[0]} " if folder[0].isdigit() else ""
        contents.append({"section": number + title, "contents": sections(folder)})
    return HEAD + yaml.safe_dump({"website": {"sidebar": {"contents": contents}}}, sort_keys=False)


if __name__ == "__main__":
    (NBS / "sidebar.yml").write_text(sidebar(), encoding="utf-8")
