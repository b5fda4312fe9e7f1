"The pages that are no lessons: the way in, and what is looked up"

import configparser
import json
import re
import runpy
import sys
from pathlib import Path

import pytest
import yaml

import nsgf_nb
from nsgf_nb.family.members import MEMBERS, member_class

ROOT = Path(__file__).resolve().parent.parent
NBS = ROOT / "nbs"
sys.path.insert(0, str(ROOT / "tools"))
NUMBER = re.compile(r"(?<![\d.])\d{4}\.\d{5}(?!\d)")


def cells(name):
    return json.loads((NBS / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]


def text(name):
    return "\n".join("".join(c["source"]) for c in cells(name))


def version():
    ini = configparser.ConfigParser(delimiters=["="])
    ini.read(ROOT / "settings.ini", encoding="utf-8")
    return ini["DEFAULT"]["version"]


def test_from_the_landing_page_to_rows_of_ones_own_table_in_five_minutes():
    read = runpy.run_path(str(ROOT / "tools/nbread.py"))["read"]
    assert "(start.ipynb)" in text("index")
    assert sum(read(NBS / f"{name}.ipynb")["minutes"] for name in ("index", "start")) <= 5


def test_quickstart_reads_a_table_and_writes_one():
    "In cells that are shown"
    shown = [
        "".join(c["source"])
        for c in cells("start")
        if c["cell_type"] == "code" and "#| hide" not in "".join(c["source"])
    ]
    code = "\n".join(shown)
    assert 'loadtxt("mine.csv"' in code and 'savetxt("new.csv"' in code and ".sample(" in code


def index_of_names():
    "Name → (its link, its line), from the table of names"
    table = text("api").split("## From A to Z")[1]
    rows = re.findall(r"^\| \[([\w.]+)\]\(([^)]+)\) \| `[\w.]+` \| (.*) \|$", table, re.M)
    return {name: (link, line) for name, link, line in rows}


def test_the_index_has_every_name_with_a_line_and_a_page():
    names = index_of_names()
    doors = json.loads((ROOT / "tests/doors.json").read_text(encoding="utf-8"))
    offered = {n for all_ in doors.values() for n in all_ if "." not in n} | set(nsgf_nb.__all__)
    assert offered <= set(names)
    assert not [n for n, (link, line) in names.items() if not line.strip()]
    assert not [n for n, (link, _) in names.items() if not (NBS / link.split("#")[0]).exists()]


def test_every_name_has_a_task():
    "A new public name goes to a row of TASKS in tools/api.py"
    import api

    by_task = {n for names in api.TASKS.values() for n in names.split()}
    assert not {n for n in index_of_names() if "." not in n} - by_task


def test_the_index_is_what_the_package_offers():
    import api

    assert api.page() == (NBS / "api.ipynb").read_text(encoding="utf-8"), "run `make export`"


def test_every_method_has_a_picture():
    import gallery

    cards = [card for group in gallery.WALL.values() for card in group]
    recorded = gallery.recorded()
    assert not [c.cell for c in cards if c.cell not in recorded]
    assert not [c.cell for c in cards if not recorded[c.cell][1]]
    assert set(MEMBERS) == {m for c in cards for m in c.methods}
    assert len({c.cell for c in cards}) == len(cards)


def test_the_gallery_shows_every_group():
    import gallery

    assert set(re.findall(r'^wall\("(\w+)"\)', text("gallery"), re.M)) == set(gallery.WALL)
    markdown = gallery.wall("more").data
    assert markdown.count("](data:image/png;base64,") == len(gallery.WALL["more"])


def test_every_paper_that_is_named_stands_in_the_bibliography():
    "And no other does"
    named = set()
    for path in NBS.rglob("*.ipynb"):
        name = path.relative_to(NBS)
        if not any(part[0] in "._" for part in name.parts) and name.stem != "bibliography":
            named |= set(NUMBER.findall(text(name.with_suffix("").as_posix())))
    listed = re.findall(r"\(https://arxiv\.org/abs/(\d{4}\.\d{5})\)", text("bibliography"))
    assert listed == sorted(listed) and set(listed) == named and len(listed) > 30


@pytest.mark.parametrize("page", ["_quarto.yml", "bibliography.ipynb"])
def test_pages_name_this_version(page):
    read = (NBS / page).read_text(encoding="utf-8")
    assert re.search(rf"(?<![\d.]){re.escape(version())}(?![\d.])", read)


def test_the_footer_stands_on_every_page():
    site = yaml.safe_load((NBS / "_quarto.yml").read_text(encoding="utf-8"))["website"]
    assert version() in site["page-footer"]["left"]


def test_what_every_model_does_stands_on_its_page():
    "fit, sample, velocity, save and load beside the options of each class"
    import showdoc

    for name in MEMBERS:
        shown = showdoc.verbs(member_class(name))
        for verb in ("fit(target", "sample(n, x0", "velocity(x, t)", "save(path)", "load(path"):
            assert f"`.{verb}" in shown, (name, verb)
    assert ".from_pretrained(name" in showdoc.verbs(member_class("nsgf++"))
    assert showdoc.verbs(nsgf_nb.get_sampler) == showdoc.verbs(nsgf_nb.Flow) == ""
