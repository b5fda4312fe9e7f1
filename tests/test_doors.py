"""What users import keeps its place and its signature.

doors.json lists, for each door, its public names with their parameters: `=` behind one that has a
default, `!` behind one that is taken by name only, and null for what cannot be called.
A name that is new may be added. One that is listed keeps its parameters and their order; a new
parameter comes behind them and has a default.
"""

import importlib
import inspect
import json
import subprocess
import sys
from pathlib import Path

import pytest

import nsgf_nb

ROOT = Path(__file__).resolve().parent.parent
DOORS = json.loads((ROOT / "tests/doors.json").read_text(encoding="utf-8"))
LISTED = [(door, name) for door, names in DOORS.items() for name in names]
STARS = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}


def parameter(p):
    "A parameter as doors.json writes it"
    default = "" if p.default is p.empty else "="
    return STARS.get(p.kind, "") + p.name + default + (" !" if p.kind == p.KEYWORD_ONLY else "")


def signature(thing):
    "The parameters of a function or class; None of anything else"
    if not callable(thing):
        return None
    return f"({', '.join(parameter(p) for p in inspect.signature(thing).parameters.values())})"


@pytest.mark.parametrize("door, name", LISTED, ids=lambda x: x)
def test_name_and_signature(door, name):
    "`NSGF.fit` is a method: found in the class or in one that it inherits from"
    thing = importlib.import_module(f"nsgf_nb.{door}")
    for part in name.split("."):
        thing = getattr(thing, part)
    assert signature(thing) == DOORS[door][name]


def test_the_package_lends_its_names_without_torch():
    "`import nsgf_nb` loads no torch; each name is there when it is asked for"
    code = """
import sys, nsgf_nb
assert "torch" not in sys.modules and "numpy" not in sys.modules
listed = set(dir(nsgf_nb))
assert "torch" not in sys.modules
print(*sorted(set(nsgf_nb.__all__) - listed))
from nsgf_nb import *
"""
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0 and not run.stdout.strip(), run.stdout + run.stderr


@pytest.mark.parametrize("name", nsgf_nb.__all__)
def test_a_name_of_the_package_is_that_of_its_module(name):
    thing = getattr(nsgf_nb, name)
    assert thing is getattr(importlib.import_module(thing.__module__), name)


def test_the_package_lists_its_doors_and_no_name_twice():
    assert set(DOORS) | set(nsgf_nb.__all__) <= set(dir(nsgf_nb))
    assert not set(DOORS) & set(nsgf_nb.__all__)  # a name that equals a module would hide it
    for door in DOORS:
        assert inspect.ismodule(getattr(nsgf_nb, door))


def test_an_unknown_name_of_the_package():
    with pytest.raises(AttributeError, match="module 'nsgf_nb' has no attribute 'nsgff'"):
        _ = nsgf_nb.nsgff
