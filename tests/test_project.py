"The files around the package agree with each other"

import ast
import configparser
import re
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
SETTINGS = configparser.ConfigParser(delimiters=["="])
SETTINGS.read(ROOT / "settings.ini", encoding="utf-8")
SETTINGS = SETTINGS["DEFAULT"]
MACHINE = re.compile(r"(?<![\w.\]])/(?:work|root|home|Users|opt)/\w|\.\./shared\b")
TEXT = {".py", ".ini", ".toml", ".md", ".yaml", ".yml", ".json", ".txt", ".css", ".cfg", ""}


def read(name):
    return (ROOT / name).read_text(encoding="utf-8")


def files():
    "Text files of the project, notebooks apart (tests/test_notebooks.py)"
    anywhere = {"node_modules", "__pycache__"}
    at_the_top = {"demo", "runs", "data", "build", "dist", "_site", "_proc", "_docs", "_local"}
    for p in sorted(ROOT.rglob("*")):
        parts = p.relative_to(ROOT).parts
        hidden = any(x[0] == "." or x.endswith(".egg-info") for x in parts[:-1])
        if (
            p.is_file()
            and p.name != ".git"  # a file in a linked worktree
            and p.suffix in TEXT
            and not hidden
            and not anywhere & set(parts)
            and parts[0] not in at_the_top
        ):
            yield p


def test_license():
    assert (
        "Apache License" in read("LICENSE")
        and "Version 2.0" in read("LICENSE")
        and len(read("LICENSE").split()) > 1500
    )


def test_changelog_tells_of_this_version():
    assert re.search(rf"^## \[{re.escape(SETTINGS['version'])}\]", read("CHANGELOG.md"), re.M)


def test_version_of_the_package():
    assert f'__version__ = "{SETTINGS["version"]}"' in read("nsgf_nb/__init__.py").replace("'", '"')


def test_nothing_depends_on_one_machine():
    found = [
        f"{p.relative_to(ROOT)}: {m[0]}"
        for p in files()
        for m in MACHINE.finditer(p.read_text(encoding="utf-8", errors="ignore"))
    ]
    assert not found


def test_no_mirror_in_the_lock_files():
    assert set(re.findall(r"https?://([^/\"\s]+)", read("tools/site/package-lock.json"))) <= {
        "registry.npmjs.org",
        "opencollective.com",
        "github.com",
    }
    assert not re.search(r"@ (?:file|https?):|^--|^-e", read("requirements-lock.txt"), re.M)


@pytest.mark.parametrize("name", ["test.yaml", "deploy.yaml"])
def test_workflow_is_yaml(name):
    flow = yaml.safe_load(read(f".github/workflows/{name}"))
    assert flow["jobs"] and True in flow  # YAML reads the key `on` as true
    for job in flow["jobs"].values():
        assert (
            job["runs-on"] and job["steps"] and all({"run", "uses"} & set(s) for s in job["steps"])
        )


def test_workflow_covers_the_supported_pythons():
    versions = yaml.safe_load(read(".github/workflows/test.yaml"))["jobs"]["test"]["strategy"][
        "matrix"
    ]["python"]
    assert versions == ["3.10", "3.11", "3.12", "3.13"] and versions[0] == SETTINGS["min_python"]


def test_quarto_is_pinned():
    assert "1.8.27" in read(".github/workflows/deploy.yaml")


def test_every_target_of_the_makefile_is_explained():
    make = read("Makefile")
    targets = re.search(r"^\.PHONY: (.+)$", make, re.M)[1].split()
    assert {
        "install",
        "demo",
        "test",
        "test-slow",
        "test-gpu",
        "dist",
        "docs",
        "docs-check",
        "readme",
        "format",
        "hooks",
    } <= set(targets)
    assert not [t for t in targets if not re.search(rf"^{t}:.*## \S", make, re.M)]


def test_hooks_need_no_network():
    "They are commands of this environment, the ones that the gates run"
    repos = yaml.safe_load(read(".pre-commit-config.yaml"))["repos"]
    assert [r["repo"] for r in repos] == ["local"]
    assert all(h["language"] == "system" for h in repos[0]["hooks"])
    entries = " ".join(h["entry"] for h in repos[0]["hooks"])
    assert all(tool in entries for tool in ("nbdev_clean", "ruff format", "ruff check"))


def test_shell_script_parses():
    subprocess.run(["bash", "-n", ROOT / ".ci/run"], check=True)


def test_documented_files_exist():
    "Every path that CONTRIBUTING.md names in code font is there"
    path = r"`((?:nbs|tools|tests|bench|nsgf_nb|\.ci|\.github)/[\w./-]*)`"
    named = set(re.findall(path, read("CONTRIBUTING.md")))
    assert named and not [n for n in named if not (ROOT / n).exists()]


def test_the_address_of_the_repository_stands_in_one_place():
    "While settings.ini has none, nobody shows one; once it has one, README shows how to install it"
    home = SETTINGS["git_url"]
    assert home in read("README.md") if home else "git clone" not in read("README.md")
    assert bool(home) == bool(SETTINGS["doc_host"]) == bool(SETTINGS["user"])
    own = re.compile(r"github\.com/[\w.-]+/nsgf_nb|[\w-]+\.github\.io/nsgf_nb")
    found = [
        f"{p.relative_to(ROOT)}: {m[0]}"
        for p in files()
        for m in own.finditer(p.read_text(encoding="utf-8", errors="ignore"))
        if home.removeprefix("https://") not in m[0] or not home
    ]
    assert not [f for f in found if not f.startswith("settings.ini")]


def test_the_citation_names_this_version_and_the_paper():
    cited = yaml.safe_load(read("CITATION.cff"))
    assert cited["version"] == SETTINGS["version"] and cited["license"] == "Apache-2.0"
    paper = cited["references"][0]
    assert paper["url"].endswith("2401.14069")
    assert all(a["family-names"] in read("README.md") for a in paper["authors"])


def constant_parts(node):
    "The text of a message apart from its numbers: constants of strings and of f-strings"
    return [
        n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and isinstance(n.value, str)
    ]


def warned(source):
    "The arguments of each call of warnings.warn in a module"
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "warnings.warn":
            yield node.args


def spoken(source):
    "The message of each warning in a module, also if it has a name or a function makes it"
    known = {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            known[node.targets[0].id] = node.value
        if isinstance(node, ast.FunctionDef) and isinstance(node.body[-1], ast.Return):
            known[node.name] = node.body[-1].value
    for message, *_ in warned(source):
        name = ast.unparse(message.func if isinstance(message, ast.Call) else message)
        yield known.get(name, message)


def test_the_page_of_messages_knows_every_warning():
    "The words with which it begins stand there"
    page = read("nbs/messages.ipynb").replace('\\"', '"')
    missing = []
    for path in sorted((ROOT / "nsgf_nb").rglob("*.py")):
        for message in spoken(path.read_text(encoding="utf-8")):
            words = constant_parts(message)[0]
            if not words.strip(" :,(") or words.strip(" :,(") not in page:
                missing.append((path.name, words))
    assert not missing


def test_warnings_have_a_class():
    "The second argument of warnings.warn is one, everywhere"
    for path in sorted((ROOT / "nsgf_nb").rglob("*.py")):
        for _, kind, *_ in warned(path.read_text(encoding="utf-8")):
            assert ast.unparse(kind).endswith("Warning"), path
