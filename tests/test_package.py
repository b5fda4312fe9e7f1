"The package as it is installed and imported: what is no lesson for a notebook"

import ast
import configparser
import email
import importlib
import inspect
import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "nsgf_nb"
sys.path.insert(0, str(ROOT / "tools"))
MODULES = sorted(
    ".".join(p.relative_to(PACKAGE).with_suffix("").parts)
    for p in PACKAGE.rglob("*.py")
    if p.stem[0] != "_"
)
MODULES.sort(key=lambda name: name == "scikit")  # last: what it loads helps no other
SETTINGS = configparser.ConfigParser(delimiters=["="])
SETTINGS.read(ROOT / "settings.ini", encoding="utf-8")
SETTINGS = SETTINGS["DEFAULT"]


IMPORT = """
import importlib, json, random, socket, sys, time, numpy, torch

def refuse(*args, **kwargs):
    raise AssertionError(f"network: {args}")

def state():
    generators = random.getstate(), str(numpy.random.get_state()), torch.get_rng_state().tolist()
    return *generators, torch.get_default_dtype(), torch.is_grad_enabled()

socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refuse
before, loaded, seconds = state(), set(sys.modules), {}
for m in sys.argv[1:]:
    start = time.process_time()
    importlib.import_module("nsgf_nb." + m)
    seconds[m] = time.process_time() - start
said = {"seconds": seconds, "loaded": sorted(set(sys.modules) - loaded)}
said |= {"cuda": torch.cuda.is_initialized(), "same": before == state()}
print(json.dumps(said))
"""


def import_all():
    "What the import of all modules did, in a fresh interpreter with torch and without a network"
    p = subprocess.run(
        [sys.executable, "-c", IMPORT, *MODULES], cwd=ROOT, text=True, capture_output=True
    )
    assert p.returncode == 0, p.stderr
    return json.loads(p.stdout)


@pytest.fixture(scope="module")
def imported():
    return import_all()


def ours(imported):
    "CPU seconds of all modules but the one that is there for scikit-learn and imports it"
    return sum(seconds for m, seconds in imported["seconds"].items() if m != "scikit")


def test_import_takes_less_than_two_seconds_beyond_torch(imported):
    "A busy machine only adds, so the best of three counts"
    assert ours(imported) < 2 or min(ours(import_all()) for _ in range(2)) < 2


def test_import_loads_no_plotting_and_no_optional_library(imported):
    heavy = {
        "matplotlib.pyplot",
        "torchvision",
        "torch_fidelity",
        "accelerate",
        "geomloss",
        "torchdiffeq",
        "flash_sinkhorn",
        "fastcore",
        "nbdev",
        "IPython",
    }
    assert not heavy & set(imported["loaded"])


def test_import_leaves_gpu_random_state_and_defaults_alone(imported):
    assert imported["same"] and not imported["cuda"]


@pytest.mark.parametrize("module", MODULES)
def test_module_loads_no_code_and_no_fastcore(module):
    "Loading never executes code: no pickle, no torch.load, no eval; nothing of nbdev at run time"
    tree = ast.parse((PACKAGE / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8"))
    imported = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    imported |= {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and not n.level}
    assert not {m.split(".")[0] for m in imported} & {
        "pickle",
        "dill",
        "cloudpickle",
        "joblib",
        "shelve",
        "marshal",
        "fastcore",
        "nbdev",
        "execnb",
        "IPython",
    }
    calls = {ast.unparse(n.func) for n in ast.walk(tree) if isinstance(n, ast.Call)}
    assert not calls & {
        "torch.load",
        "torch.save",
        "eval",
        "exec",
        "compile",
        "numpy.load",
        "np.load",
        "np.save",
        "numpy.save",
    }


@pytest.mark.parametrize(
    "path",
    sorted(
        p.relative_to(ROOT)
        for d in (PACKAGE, ROOT / "tests", ROOT / "tools", ROOT / "bench")
        for p in d.rglob("*.py")
    ),
    ids=str,
)
def test_syntax_of_the_oldest_python(path):
    oldest = tuple(map(int, SETTINGS["min_python"].split(".")))
    ast.parse((ROOT / path).read_text(encoding="utf-8"), feature_version=oldest)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    "A wheel built from a copy of the project, so that nothing is left in it"
    pytest.importorskip("setuptools")
    from dist import copy_sources  # tools/dist.py

    src, out = tmp_path_factory.mktemp("src") / "nsgf_nb", tmp_path_factory.mktemp("wheel")
    copy_sources(src)
    p = subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, src],
        text=True,
        capture_output=True,
    )
    assert p.returncode == 0, p.stdout + p.stderr
    return zipfile.ZipFile(next(out.glob("*.whl")))


def test_wheel_holds_the_package_and_nothing_else(wheel):
    names = wheel.namelist()
    assert {n.split("/")[0] for n in names} == {
        "nsgf_nb",
        f"nsgf_nb-{SETTINGS['version']}.dist-info",
    }
    inside = {
        n.removeprefix("nsgf_nb/").removesuffix(".py").replace("/", ".")
        for n in names
        if n.startswith("nsgf_nb/") and n.endswith(".py")
    }
    assert {m for m in inside if m.rpartition(".")[2][0] != "_"} == set(MODULES)
    assert "nsgf_nb/py.typed" in names and any(n.endswith("LICENSE") for n in names)
    assert not [n for n in names if n.endswith((".ipynb", ".pyc", ".png"))]
    weights = {n: wheel.getinfo(n).file_size for n in names if n.startswith("nsgf_nb/weights/")}
    assert (
        {
            "nsgf_nb/weights/lenet-mnist.safetensors",
            "nsgf_nb/weights/lenet-fashionmnist.safetensors",
        }
        <= set(weights)
        == {f"nsgf_nb/weights/{p.name}" for p in (PACKAGE / "weights").iterdir()}
    )
    assert all(size < 1e6 for n, size in weights.items() if "lenet" in n)


def test_wheel_says_what_settings_say(wheel):
    info = f"nsgf_nb-{SETTINGS['version']}.dist-info"
    meta = email.message_from_bytes(wheel.read(f"{info}/METADATA"))
    # older versions of setuptools write the one, newer ones the other
    name = meta["Name"].replace("-", "_")
    assert (name, meta["Version"], meta["Requires-Python"]) == (
        "nsgf_nb",
        SETTINGS["version"],
        f">={SETTINGS['min_python']}",
    )
    assert meta["License-Expression"] == "Apache-2.0" or meta["License"] == "Apache-2.0"
    assert meta["Summary"] == SETTINGS["description"] and meta.get_payload().startswith("# nsgf_nb")
    need, extras = set(), {}
    for line in meta.get_all("Requires-Dist"):
        extra = re.search(r"extra == [\"'](\w+)", line)
        (extras.setdefault(extra[1], set()) if extra else need).add(line.partition(";")[0].strip())
    assert need == set(SETTINGS["requirements"].split())
    assert set(extras) == {
        "train",
        "images",
        "ode",
        "compare",
        "fast",
        "tables",
        "flows",
        "gpu",
        "all",
        "dev",
    }
    assert (
        extras["all"] == extras["train"] | extras["images"] | extras["ode"] | extras["compare"]
        and extras["all"] < extras["dev"]
    )
    assert not [r for r in extras["dev"] | need if r.startswith("torch==")]
    assert "nsgf = nsgf_nb.cli:main" in wheel.read(f"{info}/entry_points.txt").decode()


def callables():
    "All public functions, classes and methods of the package, by name"
    for module in MODULES:
        if module == "solver.programs":  # its functions are programs of Triton
            continue
        room = importlib.import_module(f"nsgf_nb.{module}")
        for name in room.__all__:
            thing = getattr(room, name)
            if not callable(thing) or getattr(thing, "__module__", "") != room.__name__:
                continue
            yield f"{module}.{name}", thing
            if inspect.isclass(thing):
                for key, method in vars(thing).items():
                    if key[0] != "_" and inspect.isfunction(method):
                        yield f"{module}.{name}.{key}", method


def test_docstrings_tell_of_every_parameter():
    "`help`, IPython and editors show what the notebooks say beside a parameter"
    silent, seen = {}, 0
    for name, thing in callables():
        init = getattr(thing, "__init__", None)
        python = inspect.isfunction(init) and not init.__module__.startswith("torch.")
        if inspect.isclass(thing) and not python:
            continue  # its parameters are not ours
        doc, known = inspect.getdoc(thing) or "", inspect.signature(thing).parameters
        names = [p for p in known if p not in ("self", "cls")]
        seen += len(names)
        missing = [p for p in names if not re.search(rf"^\s*\**{p} : ", doc, re.M)]
        if missing:
            silent[name] = missing
    assert seen > 800 and silent == {}


def test_docstrings_are_written_once():
    import docstrings

    sources = dict(docstrings.generated(PACKAGE))
    known = docstrings.classes_of(sources.values())
    assert len(sources) > 60
    for path, source in sources.items():
        assert docstrings.rewritten(source, known) == source, path


def test_every_symbol_can_be_shown():
    "The site needs the signature of each, with its annotations"
    from showdoc import ParameterTable

    shown = {name: ParameterTable(thing)._repr_markdown_() for name, thing in callables()}
    assert len(shown) > 500 and all(shown.values())
