"The gate on imports: each kind of complaint, on a small package"

import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TOOL = runpy.run_path(str(ROOT / "tools/layers.py"))

MODULES = {
    "core": ("9_workshop/01_core", "rms = 1\n_hidden = 2\n"),
    "distances": ("8_evaluation/01_distances", "from .core import rms\nw2 = 1\n"),
    "solver.dual": ("3_solver/02_dual", "from ..core import rms\nstart = 1\n"),
    "straight": ("6_matching/03_straight", "from .solver.dual import start\n"),
}


@pytest.fixture
def write(tmp_path):
    "Write a project of the modules above, some of them with other code"

    def project(**other):
        for folder in ("tests", "bench", "tools"):
            (tmp_path / folder).mkdir(exist_ok=True)
        for name, (lesson, code) in MODULES.items():
            path = tmp_path / "nsgf_nb" / f"{name.replace('.', '/')}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            (path.parent / "__init__.py").touch()
            (tmp_path / "nbs" / lesson).parent.mkdir(parents=True, exist_ok=True)
            code = other.get(name.rpartition(".")[2], code)
            path.write_text(f"# %% ../nbs/{lesson}.ipynb #cell\n{code}")
        (tmp_path / "nsgf_nb/__init__.py").write_text('PUBLIC = {"straight": ("StraightFlow",)}\n')
        return tmp_path

    return project


def test_what_is_right(write):
    complaints, lines = TOOL["report"](write())
    assert not complaints
    assert lines[:2] == ["layer 0: core", "layer 1: distances solver.dual"]
    assert lines[2] == "layer 2: straight"
    assert lines[3].endswith("loads 3 modules: core solver.dual straight")


@pytest.mark.parametrize(
    "code",
    [
        "from ..straight import StraightFlow",
        "from .. import straight",
        "import nsgf_nb.straight",
        "from nsgf_nb import StraightFlow",
        "def late():\n    from ..straight import StraightFlow",
    ],
)
def test_an_import_goes_up(write, code):
    complaints, _ = TOOL["report"](write(dual=code + "\n", straight="StraightFlow = 1\n"))
    assert len(complaints) == 1
    assert "solver.dual of chapter 3 imports from straight of chapter 6" in complaints[0]


def test_distances_are_for_chapter_4_and_above(write):
    assert not TOOL["report"](write(straight="from .distances import w2\n"))[0]
    complaints, _ = TOOL["report"](write(dual="from ..distances import w2\nstart = w2\n"))
    assert "solver.dual of chapter 3 imports from distances of chapter 4" in complaints[0]


def test_a_circle(write):
    dual, straight = "import nsgf_nb.straight\n", "import nsgf_nb.solver.dual\n"
    complaints, _ = TOOL["report"](write(dual=dual, straight=straight))
    assert "a circle of imports: solver.dual, straight" in complaints


@pytest.mark.parametrize(
    "code",
    [
        "from nsgf_nb.core import _hidden",
        "from nsgf_nb import core\ncore._hidden",
        "import nsgf_nb.core as base\nbase._hidden",
        "import nsgf_nb.core\nnsgf_nb.core._hidden",
    ],
)
def test_a_private_name_of_another_module(write, code):
    root = write(straight=code + "\n")
    (root / "tests/test_it.py").write_text(code + "\n")
    complaints, _ = TOOL["report"](root)
    assert len(complaints) == 2
    assert all("_hidden is private to nsgf_nb.core" in c for c in complaints)


def test_a_module_that_cannot_be_imported(write):
    complaints, _ = TOOL["report"](write(straight="1 / 0\n"))
    assert complaints == ["import nsgf_nb.straight: ZeroDivisionError: division by zero"]


def test_lessons_of_two_chapters_write_one_module(write):
    root = write()
    with (root / "nsgf_nb/solver/dual.py").open("a") as file:
        file.write("# %% ../../nbs/6_matching/04_more.ipynb #cell\n")
    complaints, _ = TOOL["report"](root)
    assert any("solver.dual is written in 3_solver, 6_matching" in c for c in complaints)


def test_a_name_that_two_cells_define(write):
    methods = "patch = lambda f: f\n" + 2 * "@patch\ndef start(self): ...\n"
    assert not TOOL["report"](write(dual=methods))[0]
    complaints, _ = TOOL["report"](write(dual="def start(): ...\ndef start(): ...\n"))
    assert complaints == ["dual.py: solver.dual defines start twice"]


def test_layers_have_a_limit(write, monkeypatch):
    monkeypatch.setitem(TOOL["DEEPEST"], "straight", 1)
    monkeypatch.setitem(TOOL["WIDEST"], "straight", 2)
    complaints, _ = TOOL["report"](write())
    assert complaints == [
        "straight: expected at most layer 1, got 2",
        "straight: expected to load at most 2 modules, got 3",
    ]
