"Every notebook keeps to the form that the site, the tests and the readers count on"

import ast
import json
import re
import runpy
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
NBS = ROOT / "nbs"
NOTEBOOKS = sorted(
    p for p in NBS.rglob("*.ipynb") if not any(part[0] in "._" for part in p.relative_to(NBS).parts)
)
every_notebook = pytest.mark.parametrize(
    "path", NOTEBOOKS, ids=lambda p: p.relative_to(NBS).as_posix()
)


def cells(path, kind=None):
    all_ = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [{**c, "source": "".join(c["source"])} for c in all_ if kind in (None, c["cell_type"])]


@every_notebook
def test_title_cell(path):
    "`# title`, `> subtitle`, and nothing else: nbdev drops all other text of this cell"
    first = cells(path)[0]
    assert first["cell_type"] == "markdown"
    lines = [line for line in first["source"].splitlines() if line.strip()]
    assert lines[0].startswith("# ") and lines[1].startswith("> ")
    assert not [line for line in lines[2:] if not re.match(r"- \w+: ", line)]


@every_notebook
def test_first_sentence_is_on_the_first_screen(path):
    "Prose follows the title, before `default_exp` and the imports"
    second = cells(path)[1]
    assert second["cell_type"] == "markdown" and not second["source"].startswith("#")


@every_notebook
def test_last_cell_exports(path):
    last = cells(path)[-1]
    assert (
        last["cell_type"] == "code"
        and re.search(r"^#\| *hide\b", last["source"], re.M)
        and "nbdev_export()" in last["source"]
    )


@every_notebook
def test_figures_are_described(path):
    drawn = [
        c["source"]
        for c in cells(path, "code")
        if any(k.startswith("image/") for o in c["outputs"] for k in o.get("data", {}))
    ]
    # YAML: a colon in the text needs quotes around it
    alt = lambda s: (
        yaml.safe_load("alt: " + m[1])
        if (m := re.search(r"^#\| *fig-alt: *(.+)$", s, re.M))
        else {}
    )
    silent = [s for s in drawn if not isinstance(alt(s).get("alt"), str)]
    text = "\n".join(c["source"] for c in cells(path, "markdown"))
    bare = re.findall(r"!\[\]\([^)]*\)", text) + [
        tag for tag in re.findall(r"<img[^>]*>", text) if not re.search(r'alt="[^"]', tag)
    ]
    assert not silent + bare


@every_notebook
def test_pictures_in_text_are_there(path):
    "And those that move have one that stands still, for readers who asked for that, and are small"
    text = "\n".join(c["source"] for c in cells(path, "markdown"))
    for name in re.findall(r'(?:src|srcset)="([^":]+)"', text) + re.findall(
        r"!\[[^]]*\]\(([^):]+)\)", text
    ):
        assert (path.parent / name).exists() and (path.parent / name).stat().st_size <= 500_000, (
            name
        )
    for name in re.findall(r'src="([^"]+\.gif)"', text):
        assert f'<source media="(prefers-reduced-motion: reduce)" srcset="{name[:-4]}.png">' in text


@every_notebook
def test_recorded_outputs_are_quiet(path):
    "No error, no warning, no progress bar in what is recorded"
    outputs = [o for c in cells(path, "code") for o in c["outputs"]]
    assert not [o for o in outputs if o["output_type"] == "error" or o.get("name") == "stderr"]
    # a widget that is stored is a hole in the page
    assert not [o for o in outputs if any("widget" in k for k in o.get("data", {}))]


@every_notebook
def test_text_depends_on_no_machine(path):
    texts = [c["source"] for c in cells(path)]
    texts += [
        "".join(o.get("text", "")) + "".join(o.get("data", {}).get("text/plain", ""))
        for c in cells(path, "code")
        for o in c["outputs"]
    ]
    assert not re.findall(
        r"(?<![\w.\]])/(?:work|root|home|Users|opt|tmp)/\w+|\.\./shared\b", "\n".join(texts)
    )


@every_notebook
def test_links_to_notebooks(path):
    links = re.findall(
        r"\]\(([^)#\s]+\.ipynb)", "\n".join(c["source"] for c in cells(path, "markdown"))
    )
    assert not [link for link in links if not (path.parent / link).exists()]


@every_notebook
def test_links_have_no_code_in_them(path):
    "nbdev makes a link of each name in code font, and a link in a link is none"
    text = "\n".join(c["source"] for c in cells(path, "markdown"))
    assert not re.findall(r"\[`[^`\n]+`\]\([^)\s]+\.ipynb", text)


@every_notebook
def test_imports_have_cells_of_their_own(path):
    "nbdev runs cells with imports when it builds the docs, however deep, and no other code"
    for source in (c["source"] for c in cells(path, "code")):
        if (
            re.search(r"^#\| *(?:exports?|eval: *false)\b", source, re.M)
            or "nbdev_export()" in source
            or re.search(r"^[%!]", source, re.M)
        ):
            continue
        tree = ast.parse(source)
        if any(isinstance(n, (ast.Import, ast.ImportFrom)) for n in ast.walk(tree)):
            assert all(isinstance(n, (ast.Import, ast.ImportFrom, ast.Try)) for n in tree.body), (
                source
            )


@every_notebook
def test_no_markup_of_quarto_alone(path):
    "JupyterLab and GitHub show `::: {.callout-note}` as it stands: a quotation with a bold word"
    assert not re.findall(r"^:::", "\n".join(c["source"] for c in cells(path, "markdown")), re.M)


@every_notebook
def test_formulas_use_dollars(path):
    assert not re.findall(
        r"\\\(|\\\[|^\s*\\begin\{(?:equation|align)",
        "\n".join(c["source"] for c in cells(path, "markdown")),
        re.M,
    )


def drawn_or_long_table(path):
    "In the order of the page: True for a recorded picture, False for a table of more than 8 rows"
    for c in cells(path):
        shown = [c["source"]] if c["cell_type"] == "markdown" else []
        for o in c.get("outputs", []):
            if any(k.startswith("image/") for k in o.get("data", {})):
                yield True
            shown.append("".join(o.get("data", {}).get("text/markdown", "")))
        # a table has a line for its head, and one below it
        if any(len(re.findall(r"^\|", text, re.M)) > 10 for text in shown):
            yield False


@pytest.mark.parametrize("path", sorted(NBS.glob("tutorials/*.ipynb")), ids=lambda p: p.name)
def test_tutorials_begin_with_pictures(path):
    assert next(drawn_or_long_table(path))


def test_ids_of_modules_are_unique():
    "Two notebooks that export one module need `#| export module` in the second, not `default_exp`"
    exps = [
        m[1]
        for p in NOTEBOOKS
        for c in cells(p, "code")
        if (m := re.search(r"^#\| *default_exp +(\S+)", c["source"], re.M))
    ]
    assert len(exps) == len(set(exps))


def test_sidebar_lists_every_notebook():
    contents = yaml.safe_load((NBS / "sidebar.yml").read_text())["website"]["sidebar"]["contents"]
    listed = [x for x in contents if isinstance(x, str)] + [
        x for group in contents if isinstance(group, dict) for x in group["contents"]
    ]
    assert sorted(listed) == sorted(p.relative_to(NBS).as_posix() for p in NOTEBOOKS)


# pages that are looked up, or lead on to others
PAGES = ("index", "install", "start", "gallery", "api", "messages", "bibliography")
EXERCISED = [p for p in NOTEBOOKS if p.stem not in PAGES]


@pytest.mark.parametrize("path", EXERCISED, ids=lambda p: p.relative_to(NBS).as_posix())
def test_two_exercises_with_folded_answers(path):
    last = [c["source"] for c in cells(path, "markdown")][-1]
    assert (
        last.startswith("## Try this")
        and last.count("<details><summary>Answer</summary>") == last.count("</details>") == 2
    )


def test_way_through_is_short():
    "With optimal transport in hand: from the landing page to the learned flow in 45 minutes"
    read = runpy.run_path(str(ROOT / "tools/nbread.py"))["read"]
    assert (
        sum(
            read(NBS / f"{name}.ipynb")["minutes"]
            for name in (
                "index",
                "2_transport/01_sinkhorn",
                "2_transport/04_velocity",
                "4_particles/01_particles",
                "6_matching/01_flow",
            )
        )
        < 45
    )


def test_chapters_and_sections_are_numbered():
    "Nine chapters; sections count from 01 without a gap"
    chapters = sorted(p.name for p in NBS.iterdir() if p.is_dir() and re.match(r"\d_", p.name))
    assert [c[0] for c in chapters] == list("123456789")
    for chapter in chapters:
        numbers = [p.name[:2] for p in sorted((NBS / chapter).glob("*.ipynb"))]
        assert numbers == [f"{k:02}" for k in range(1, len(numbers) + 1)], chapter
