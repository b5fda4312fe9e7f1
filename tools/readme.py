"""README.md from nbs/index.ipynb, as `nbdev_readme` would write it, with pandoc in Quarto's place.
Usage, in the root of the project: python tools/readme.py"""

import base64
import re
from pathlib import Path

import pypandoc
import yaml
from execnb.nbio import read_nb
from nbdev.config import get_config
from nbdev.processors import FilterDefaults

FIGURES = Path("index_files")


def title(front_matter):
    "The first cell, which nbdev has turned into front matter, as a heading and a quotation"
    meta = yaml.safe_load(front_matter.strip().strip("-"))
    return f"# {meta['title']}\n" + (
        f"\n> {meta['description']}\n" if meta.get("description") else ""
    )


def reference_links(text):
    "nbdev links a name in code font to its page on the site; without an address it stays a name"
    cfg = get_config()
    if cfg.doc_host:
        return text
    return re.sub(rf"\[(`[^`]+`)\]\({re.escape(cfg.doc_baseurl)}/[^)]*\)", r"\1", text)


def local_links(text):
    "Links between notebooks, to pictures and to the files of the root, seen from the root"
    text = reference_links(text)
    text = re.sub(r'((?:src|srcset)=")(?!https?:|/)', r"\1nbs/", text)
    text = re.sub(r"\]\((?!https?:|mailto:|[#/])", "](nbs/", text)
    return re.sub(r"`((?:CONTRIBUTING|CHANGELOG)\.md|LICENSE)`", r"[\1](\1)", text)


def output(out, figures):
    "One output of a cell as markdown; a picture is kept for `index_files/`"
    data = out.get("data", {})
    if "image/png" in data:
        figures.append(base64.b64decode("".join(data["image/png"])))
        alt = data.get("alt", "")
        return f"![{alt}]({FIGURES}/figure-{len(figures)}.png)"
    if "text/markdown" in data:
        return local_links("".join(data["text/markdown"]))
    text = "".join(out.get("text", "") or data.get("text/plain", ""))
    return f"``` text\n{text.rstrip()}\n```" if text.strip() else ""


def readme(path="nbs/index.ipynb"):
    "The text of the README and its pictures"
    nb, parts, figures = read_nb(path), [], []
    FilterDefaults()(nb)
    for cell in nb.cells:
        if cell.cell_type == "raw":
            parts.append(title(cell.source))
        elif cell.cell_type == "markdown":
            parts.append(local_links(cell.source))
        else:
            alt = re.search(r"^#\| *fig-alt: *(.+)$", cell.source, re.M)
            code = re.sub(r"^#\|.*\n?", "", cell.source, flags=re.M).strip()
            if code and not re.search(r"^#\| *echo: *false", cell.source, re.M):
                parts.append(f"``` python\n{code}\n```")
            for out in cell.get("outputs", []):
                if alt and "data" in out:
                    out["data"]["alt"] = alt[1].strip("\"' ")
                parts.append(output(out, figures))
    return pypandoc.convert_text(
        "\n\n".join(parts), "gfm", format="markdown", extra_args=["--wrap=preserve"]
    ), figures


if __name__ == "__main__":
    text, figures = readme()
    Path("README.md").write_text(text, encoding="utf-8")
    for old in FIGURES.glob("figure-*.png"):
        old.unlink()
    for n, png in enumerate(figures, 1):
        FIGURES.mkdir(exist_ok=True)
        (FIGURES / f"figure-{n}.png").write_bytes(png)
