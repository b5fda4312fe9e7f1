"""Will Quarto, whose reader is pandoc, read the notebooks as the offline site shows them?

Formulas, list items, tables and headings of each processed notebook are counted in pandoc's tree
and on the built page. The last line is `N passed, M failed`.
Usage, in the root of the project: python tools/parity.py SITE
"""

import json
import re
import sys
from pathlib import Path

import pypandoc
import yaml
from bs4 import BeautifulSoup

PROC = Path("_proc")


def nodes(tree):
    "Every node of pandoc's tree"
    if isinstance(tree, dict):
        if "t" in tree:
            yield tree
        for v in tree.values():
            yield from nodes(v)
    elif isinstance(tree, list):
        for v in tree:
            yield from nodes(v)


def by_pandoc(nb):
    "What pandoc finds in the text of a notebook and in its markdown outputs"
    front = yaml.safe_load("".join(nb["cells"][0]["source"]).strip().strip("-"))
    texts = [front.get("description") or ""]  # the subtitle
    texts += ["".join(c["source"]) for c in nb["cells"] if c["cell_type"] == "markdown"]
    texts += [
        "".join(d["text/markdown"])
        for c in nb["cells"]
        for o in c.get("outputs", [])
        if "text/markdown" in (d := o.get("data", {}))
    ]
    # an output in HTML goes to the page as it is: its tables are counted, not read
    outputs = [o.get("data", {}) for c in nb["cells"] for o in c.get("outputs", [])]
    html = "".join("".join(d["text/html"]) for d in outputs if "text/html" in d)
    tree = json.loads(pypandoc.convert_text("\n\n".join(texts), "json", format="markdown"))
    found = {"formulas": 0, "list items": 0, "tables": html.count("<table"), "headings": set()}
    for x in nodes(tree["blocks"]):
        tex = (
            x["t"] in ("RawBlock", "RawInline")
            and x["c"][0] in ("tex", "latex")
            and x["c"][1].startswith("\\begin")
        )
        found["formulas"] += x["t"] == "Math" or tex
        found["tables"] += x["t"] == "Table"
        if x["t"] == "BulletList":
            found["list items"] += len(x["c"])
        if x["t"] == "OrderedList":
            found["list items"] += len(x["c"][1])
        if x["t"] == "Header":
            found["headings"].add(x["c"][1][0])
    return found


def on_page(html):
    "What the built page shows"
    main = BeautifulSoup(html, "lxml").find("main")
    for tag in main.select("#toc-title, nav"):
        tag.decompose()
    count = lambda css: len(main.select(css))
    return {
        "formulas": count("span.math"),
        "list items": count("li"),
        "tables": count("table"),
        "headings": {t["id"] for t in main.find_all(id=True)},
    }


def compare(path, site):
    "Page and differences of one processed notebook"
    nb = json.loads(path.read_text())
    name = re.search(r"^output-file: *(\S+)", "".join(nb["cells"][0]["source"]), re.M)[1]
    page = path.relative_to(PROC).with_name(name)
    a, b = by_pandoc(nb), on_page((site / page).read_text())
    differ = [
        f"{k}: pandoc {a[k]}, page {b[k]}"
        for k in ("formulas", "list items", "tables")
        if a[k] != b[k]
    ]
    return page, differ + [f"heading {h} is missing" for h in sorted(a["headings"] - b["headings"])]


def main(site):
    results = [compare(p, site) for p in sorted(PROC.rglob("*.ipynb"))]
    for page, differ in results:
        print("FAIL" if differ else "ok  ", page, *differ, sep="\n       " if differ else " ")
    failed = sum(bool(differ) for _, differ in results)
    print(f"{len(results) - failed} passed, {failed} failed")
    return failed or not results


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    sys.exit(bool(main(Path(sys.argv[1]))))
