"""How the reference shows a definition: its signature, one line, and a table of its parameters.

Formulas in the table are drawn. settings.ini names the class (`renderer`), so this folder must be
on Python's path when the docs are built.
"""

import inspect
import re
import textwrap

import gallery
from docstrings import SECTION
from fastcore.docments import docments
from nbdev.config import get_config
from nbdev.process import Processor
from nbdev.showdoc import BasicMarkdownRenderer

GREEK = {
    "α": "alpha",
    "β": "beta",
    "δ": "delta",
    "ε": "varepsilon",
    "η": "eta",
    "θ": "theta",
    "λ": "lambda",
    "μ": "mu",
    "ρ": "rho",
    "σ": "sigma",
    "τ": "tau",
    "ω": "omega",
    "Σ": "Sigma",
    "Π": "prod",
}
DIM = r"(?:\*shape|[A-Za-z]'?(?:[+·][\w]+)?|\d+)"
FORMULA = re.compile(
    rf"""(?P<literal>"[^"]*"|`[^`]*`|'[^']*')
    |(?P<shape>\({DIM}(?:,\ {DIM})*,?\)(?<!\([A-Za-z0-9]\)))  # (n, *shape), (n,); not (k)
    |(?P<ratio>\b[1-9a-zA-Z]/\([^()\s]+\))                  # 1/(T-k)
    |(?P<power>\b[A-Za-z]+[²])                               # blur²
    |(?P<symbol>(?<![\w])[{"".join(GREEK)}](?:_\w)?(?!\w)    # η_k
        |[ΠΣ]_\{{[^}}]*\}}                                    # Π_{{j<k}}
        |\b[A-Za-z]_(?:[a-z]{{1,2}}|[0-9T])\b)                # T_xy
    """,
    re.X,
)


def tex(text):
    "What is mathematics in a comment, as TeX"

    def draw(m):
        s = m[0]
        if m["literal"]:
            return s
        if m["power"]:
            return rf"${s[:-1]}^2$" if len(s) == 2 else rf"$\mathrm{{{s[:-1]}}}^2$"
        s = s.replace("*shape", r"{\ast}\mathrm{shape}").replace("·", r"\cdot ")
        if "{" not in s:
            s = re.sub(r"_(\w+)", r"_{\1}", s)
        return (
            "$"
            + re.sub(f"[{''.join(GREEK)}]", lambda g: f"\\{GREEK[g[0]]} ", s)
            .replace(" }", "}")
            .replace(" _", "_")
            .rstrip()
            + "$"
        )

    return FORMULA.sub(draw, text)


def cell(text):
    return " ".join(str(text).split()).replace("|", r"\|")


def kind(annotation):
    "A type without the modules it comes from"
    if annotation is inspect.Parameter.empty:
        return ""
    text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    return "`" + re.sub(r"\b(?:\w+\.)+(?=\w)", "", text).replace(" | ", " or ") + "`"


class Signature:
    "The call, without types: the table has them"

    def __init__(self, name, sig):
        self.name, self.sig = name, sig

    def __str__(self):
        bare = [
            p.replace(annotation=p.empty) for p in self.sig.parameters.values() if p.name != "self"
        ]
        text = re.sub(
            r"<(?:function|class) '?([\w.]+)[^>]*>",
            r"\1",
            str(self.sig.replace(parameters=bare, return_annotation=self.sig.empty)),
        )
        return textwrap.fill(
            self.name + text, 88, subsequent_indent=" " * 4, break_long_words=False
        )


SOURCE = re.compile(r"^\[source\]\(.*\n+", re.M)
TITLE = re.compile(r"^#+ .*__.*$", re.M)


def default(parameter):
    "The default of a parameter, as a cell of the table shows it"
    value = parameter["default"]
    if value is inspect.Parameter.empty:
        return ""
    return f" = `{value.__name__ if hasattr(value, '__name__') else repr(value)}`"


def said(text):
    "A comment with its formulas; a cell of a table may not begin with a formula in brackets"
    return re.sub(r"^(?=\$\()", "shape ", tex(text or ""))


VERBS = (
    "fit",
    "sample",
    "transform",
    "score",
    "log_prob",
    "save",
    "load",
    "preset",
    "from_pretrained",
)
ABSTRACT = ("Model", "Flow", "Chain", "PairFlow")


def verbs(cls):
    "A table of what every model does, for the page of a model; nothing for other symbols"
    from nsgf_nb.learning.model import Model

    if not (isinstance(cls, type) and issubclass(cls, Model)) or cls.__name__ in ABSTRACT:
        return ""
    rows = [("method", "what it does"), (":--", ":--")]
    for name in VERBS:
        if method := getattr(cls, name, None):
            names = [n for n in inspect.signature(method).parameters if n not in ("self", "cls")]
            line = (method.__doc__ or "").strip().partition("\n")[0]
            rows.append((f"`.{name}({', '.join(names)})`", said(line)))
        if name == "sample":
            rows.append(("`.velocity(x, t)`", "The field at points and times, once it is fitted."))
    table = "\n".join("| " + " | ".join(map(cell, row)) + " |" for row in rows)
    return f"\nOnce it is made, or fitted:\n\n{table}\n"


class ParameterTable(BasicMarkdownRenderer):
    "nbdev's `show_doc`, with a table of parameters, and a link to the source if it has an address"

    def __init__(self, *args, **kw):
        super().__init__(*args, **kw)
        if self.sig:
            self.dm = Signature(self.nm, self.sig)
        self.docs = tex(SECTION.sub("", self.docs))  # the table tells of the parameters

    def heading(self):
        "What nbdev shows: a link to the source, the name, the signature and the docstring"
        text = super()._repr_markdown_()
        if not get_config().git_url:
            text = SOURCE.sub("", text, count=1)
        # readers of markdown differ in whether __init__ is bold
        return TITLE.sub(lambda m: m[0].replace("_", r"\_"), text, count=1)

    def _repr_markdown_(self):
        known = docments(self.sym, full=True) if self.sig else {}
        rows = [
            (k, v) for k, v in known.items() if k not in ("self", "return") and v.get("docment")
        ]
        if not rows:
            return self.heading() + verbs(self.sym)
        lines = [(f"`{k}`{default(v)}", said(v["docment"]), kind(v["anno"])) for k, v in rows]
        back = known.get("return", {})
        if back.get("docment") or back.get("anno") not in (None, inspect.Parameter.empty):
            lines.append(("*returns*", said(back.get("docment")), kind(back["anno"])))
        table = [("parameter", "what it is", "type"), (":--",) * 3, *lines]
        text = "\n".join("| " + " | ".join(map(cell, row)) + " |" for row in table)
        return f"{self.heading()}\n\n{text}\n{verbs(self.sym)}"


WALL = re.compile(r"^wall\(\"(\w+)\"\)\s*$", re.M)


class PictureWall(Processor):
    "The pictures of the gallery are kept by the lessons only: a cell `wall(group)` gets them here"

    def __call__(self, cell):
        m = cell.cell_type == "code" and WALL.search(cell.source or "")
        if m:
            data = {"text/markdown": gallery.wall(m[1]).data}
            cell["outputs"] = [{"output_type": "display_data", "metadata": {}, "data": data}]


class HeadingLevels(Processor):
    "A definition's heading is one level below the one it stands under, and not deeper than 3"

    def begin(self):
        self.level = 1

    def __call__(self, cell):
        if cell.cell_type == "markdown":
            text = re.sub(r"^```.*?^```", "", cell.source, flags=re.M | re.S)
            self.level = ([len(m) for m in re.findall(r"^(#+) ", text, re.M)] or [self.level])[-1]
        for out in cell.get("outputs", []) if self.level == 1 else []:
            text = out.get("data", {}).get("text/markdown")
            if text and "".join(text).startswith("---\n"):
                out["data"]["text/markdown"] = re.sub(
                    r"^### ", "## ", "".join(text), count=1, flags=re.M
                )
