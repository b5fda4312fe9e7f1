"""The docs site, built offline: nbdev's processed notebooks, which smalldocs renders like Quarto.

Formulas are drawn by a local KaTeX.
Usage, in the root of the project: python tools/docs.py SITE [KATEX]
KATEX: the dist folder of npm's katex

python tools/docs.py --notebooks SITE: only puts the notebooks, a link to each, and the anchors of
the API index into a site that Quarto has built
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import yaml
from nbdev.config import get_config

HERE = Path(__file__).parent
KATEX = HERE / "site/node_modules/katex/dist"
NBS = HERE.parent / "nbs"
EQUATION = re.compile(r"\$\$(?P<tex>.+?)\$\$[ \t]*\{#(?P<id>eq-[\w-]+)\}", re.S)
REFERENCE = re.compile(r"(?<![\w`\[])@(?P<id>(?P<kind>eq|fig|sec|tbl)-[\w-]+)")
LATEX = re.compile(r"^\\begin\{(equation|align|gather)\*?\}.*?^\\end\{\1\*?\}", re.S | re.M)
LABEL = re.compile(r"^#\| *label: *((?:fig|tbl)-[\w-]+)", re.M)
PAGE_LINK = re.compile(r"\]\((?P<page>[^)#\s]+\.ipynb)(?P<anchor>#[^)\s]*)?")
WORD = {"eq": "Equation", "fig": "Figure", "tbl": "Table", "sec": "Section"}


def process():
    "The folder _proc of `nbdev_docs`, without its search for Quarto"
    from nbdev.quarto import nbdev_sidebar, refresh_quarto_yml
    from nbdev.serve import proc_nbs

    sys.path.insert(0, str(HERE))  # settings.ini names a class of showdoc.py
    refresh_quarto_yml()
    nbdev_sidebar.__wrapped__()
    return Path(proc_nbs(n_workers=0, force=True))


class Adapter:
    "What only Quarto reads in one processed notebook → what smalldocs reads"

    def __init__(self, page, pages, base):
        self.page = page
        self.pages = pages  # processed name → name on the site
        self.base = base  # where nbdev's links to the reference begin
        self.numbers = {}

    def number(self, label):
        "Labels of one kind are numbered in the order in which they are met"
        kind = label.split("-")[0]
        return self.numbers.setdefault(
            label, 1 + sum(o.split("-")[0] == kind for o in self.numbers)
        )

    def equation(self, m):
        return f"::: {{#{m['id']}}}\n$${m['tex'].rstrip()} \\tag{{{self.number(m['id'])}}}\n$$\n:::"

    def reference(self, m):
        return f"[{WORD[m['kind']]} {self.numbers.get(m['id'], '?')}](#{m['id']})"

    def link(self, m):
        target = os.path.normpath(self.page.parent / m["page"])
        if target not in self.pages:
            return m[0]
        return f"]({os.path.relpath(self.pages[target], self.page.parent)}{m['anchor'] or ''}"

    def links(self, text):
        "Links to notebooks and to the published site stay inside this site"
        home = os.path.relpath(".", self.page.parent)
        return PAGE_LINK.sub(self.link, text).replace(f"]({self.base}/", f"]({home}/")

    def markdown(self, text):
        bare = lambda m: "$$\n" + re.sub(r"\{(equation|align|gather)\}", r"{\1*}", m[0]) + "\n$$"
        return self.links(REFERENCE.sub(self.reference, LATEX.sub(bare, text)))

    def caption(self, source):
        "Figure captions get their number"
        if not (label := LABEL.search(source)):
            return source
        number = f"{WORD[label[1].split('-')[0]]} {self.number(label[1])}"
        return re.sub(
            r"^#\| *(fig|tbl)-cap: *(.*)$",
            lambda m: f'#| {m[1]}-cap: "{number}: ' + m[2].strip("\"'") + '"',
            source,
            flags=re.M,
        )

    def __call__(self, nb):
        cells = nb["cells"]
        # first all labels get their numbers: a reference may come before what it names
        for c in cells:
            c["source"] = "".join(c["source"])
            if c["cell_type"] == "raw":
                c["source"] = re.sub(r"^output-file:.*\n", "", c["source"], flags=re.M)
            if c["cell_type"] == "code":
                c["source"] = self.caption(c["source"])
            if c["cell_type"] == "markdown":
                c["source"] = EQUATION.sub(self.equation, c["source"])
        for c in cells:
            if c["cell_type"] == "markdown":
                c["source"] = self.markdown(c["source"])
            for data in (o.get("data", {}) for o in c.get("outputs", [])):
                if "text/markdown" in data:
                    data["text/markdown"] = self.links("".join(data["text/markdown"]))
        return nb


def site_name(path):
    "The name of a processed notebook's page: nbdev gives it without its number"
    first = "".join(json.loads(path.read_text())["cells"][0]["source"])
    m = re.search(r"^output-file: *(\S+)\.html", first, re.M)
    return path.with_name(m[1] + ".ipynb") if m else path


def site_names(src):
    "Processed notebook → its name on the site, both from the root of the pages"
    return {
        p.relative_to(src).as_posix(): site_name(p).relative_to(src).as_posix()
        for p in sorted(src.rglob("*.ipynb"))
    }


def stage(src, dst, pages):
    "A copy of the processed folder that smalldocs can render"
    cfg = get_config()
    base = cfg.doc_host.rstrip("/") + cfg.doc_baseurl.rstrip("/")
    shutil.rmtree(dst, ignore_errors=True)
    shutil.copytree(
        src, dst, ignore=shutil.ignore_patterns(cfg.doc_path.name, ".quarto", "*.ipynb")
    )
    for old, new in pages.items():
        out = dst / new
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(
            json.dumps(Adapter(Path(old), pages, base)(json.loads((src / old).read_text())))
        )
    sidebar = (dst / "sidebar.yml").read_text()
    for old, new in pages.items():
        sidebar = re.sub(rf"(?<![\w/]){re.escape(old)}\b", new, sidebar)
    (dst / "sidebar.yml").write_text(sidebar)
    quarto = yaml.safe_load((dst / "_quarto.yml").read_text())
    quarto["format"].pop("commonmark", None)
    for key in ("keep-md", "html-math-method", "grid"):
        quarto["format"]["html"].pop(key, None)
    (dst / "_quarto.yml").write_text(yaml.safe_dump(quarto, sort_keys=False))
    if not cfg.doc_host:  # a site without an address has no map of addresses either
        nbdev = yaml.safe_load((dst / "nbdev.yml").read_text())
        del nbdev["website"]["site-url"]
        (dst / "nbdev.yml").write_text(yaml.safe_dump(nbdev, sort_keys=False))


def localise(site, katex):
    "Nothing is asked of the network: KaTeX from `katex`, no web fonts"
    home = site / "site_libs/katex"
    for f in ("katex.min.css", "katex.min.js", "contrib/auto-render.min.js"):
        (home / f).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(katex / f, home / f)
    shutil.copytree(
        katex / "fonts", home / "fonts", ignore=shutil.ignore_patterns("*.ttf", "*.woff")
    )
    for p in site.rglob("*.html"):
        p.write_text(
            re.sub(
                r"https://cdn\.jsdelivr\.net/npm/katex@[\d.]+/dist",
                os.path.relpath(home, p.parent),
                p.read_text(),
            )
        )
    for p in site.rglob("*.css"):
        p.write_text(
            re.sub(r"@import url\([\"']?https://fonts\.googleapis[^)]*\);?", "", p.read_text())
        )


def offer_notebooks(site, pages):
    "Below the title of each page stands the notebook that it is, to be downloaded or opened"
    cfg = get_config()
    for old, new in pages.items():
        page = site / Path(new).with_suffix(".html")
        copy = site / "notebooks" / old
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(NBS / old, copy)
        links = [f'<a href="{os.path.relpath(copy, page.parent)}" download>Download</a>']
        if cfg.git_url:
            home = f"{cfg.git_url}/blob/{cfg.branch}/{NBS.name}/{old}"
            links.append(f'<a href="{home}">Open on GitHub</a>')
        said = f'<p class="notebook-links">{" · ".join(links)} <code>{NBS.name}/{old}</code></p>'
        head, title, rest = page.read_text().partition('id="title-block-header"')
        page.write_text(head + title + rest.replace("</header>", f"</header>{said}", 1))


def mend_anchors(site, name="api.html"):
    """The index of the API leads to the entry of each method.

    nbdev heads some entries `NSGF.rate`, others `simulate`, and some methods have none.
    """
    page = site / name

    def mended(m):
        text = (site / m["page"]).read_text()
        if f'id="{m["symbol"]}"' in text:
            return m[0]
        for head in (m["name"], m["name"].split(".")[-1]):
            heading = rf'data-anchor-id="([^"]+)"[^>]*>{re.escape(head)}<'
            if found := re.search(heading, text):
                return m[0].replace("#" + m["symbol"], "#" + found[1])
        return m[0].replace("#" + m["symbol"], "")

    link = r'href="(?P<page>\d_[^"#]+\.html)#(?P<symbol>[^"]+)">(?P<name>[\w.]+)</a>'
    page.write_text(re.sub(link, mended, page.read_text()))


def rank_search(site):
    "The search box ranks names and titles before text: smalldocs.js asks for a class Fuse"
    shutil.copy(HERE / "site/search.js", site / "site_libs/search.js")
    for p in site.rglob("*.html"):
        p.write_text(
            re.sub(
                r'(<script src="([^"]*)fuse/fuse\.min\.js"></script>)',
                r'\1<script src="\2search.js"></script>',
                p.read_text(),
            )
        )


def main(site, katex=KATEX):
    smalldocs = shutil.which(
        "smalldocs", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    )
    if smalldocs is None:
        sys.exit("no smalldocs, which builds the site: it needs Python 3.11 or newer")
    if not (katex / "katex.min.js").exists():
        sys.exit(f"no KaTeX in {katex}: run `npm ci --ignore-scripts` in tools/site")
    src = process()
    dst = src.with_name("_local")
    pages = site_names(src)
    stage(src, dst, pages)
    subprocess.run([smalldocs, "render", str(dst), "--strict"], check=True)
    shutil.rmtree(site, ignore_errors=True)
    shutil.move(dst / get_config().doc_path.name, site)
    shutil.rmtree(dst)
    localise(site, katex)
    offer_notebooks(site, pages)
    mend_anchors(site)
    rank_search(site)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    if sys.argv[1] == "--notebooks":
        offer_notebooks(Path(sys.argv[2]), site_names(Path("_proc")))
        mend_anchors(Path(sys.argv[2]))
    else:
        main(*map(Path, sys.argv[1:]))
