#!/usr/bin/env python3
"""Docstrings of the exported modules tell of every parameter, as numpydoc has it.

Usage, after nbdev_export: python tools/docstrings.py [PACKAGE]

The notebooks say what a parameter is in a comment beside it. `help`, IPython and editors read
docstrings only, so the comments are copied there. What is done already is left alone.
"""

import ast
import io
import re
import sys
import tokenize
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SECTION = re.compile(r"\n\n *Parameters\n *-+\n.*", re.S)


def comments_of(source):
    "line: the comment at its end, without the hash"
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {t.start[0]: t.string[1:].strip() for t in tokens if t.type == tokenize.COMMENT}


def decorated(node, name):
    "Is a class or function decorated by this name?"
    found = (d.func if isinstance(d, ast.Call) else d for d in node.decorator_list)
    return any(isinstance(d, ast.Name) and d.id == name for d in found)


def arguments_of(node):
    "Arguments of a function with their defaults, self apart"
    args = node.args
    plain = args.posonlyargs + args.args
    defaults = [None] * (len(plain) - len(args.defaults)) + args.defaults
    pairs = list(zip(plain, defaults)) + list(zip(args.kwonlyargs, args.kw_defaults))
    for stars, arg in (("*", args.vararg), ("**", args.kwarg)):
        if arg:
            pairs.append((ast.arg(stars + arg.arg, arg.annotation, lineno=arg.lineno), None))
    return [(arg, default) for arg, default in pairs if arg.arg not in ("self", "cls")]


def made_by(factory):
    "What the factory of a field makes, as it is written"
    return factory.body if isinstance(factory, ast.Lambda) else ast.Call(factory, [], [])


def usual_value(default):
    "A default as it is written; of a field with a factory what that makes"
    if isinstance(default, ast.Call) and ast.unparse(default.func) == "field":
        made = [made_by(k.value) for k in default.keywords if k.arg == "default_factory"]
        default = made[0] if made else default
    return ast.unparse(default).replace("lambda :", "lambda:")  # Python 3.10 writes the blank


def described(name, annotation, default, text):
    "One parameter as two lines, like numpydoc's"
    kind = ast.unparse(annotation) if annotation else "object"
    usual = f", default {usual_value(default)}" if default is not None else ""
    return [f"{name} : {kind}{usual}", f"    {text}"]


def parameters_of(function, comments):
    "Lines about the arguments that have a comment"
    lines = []
    for arg, default in arguments_of(function):
        line = default.end_lineno if default is not None else arg.lineno
        text = comments.get(line) or comments.get(arg.lineno)
        if text:
            lines += described(arg.arg, arg.annotation, default, text)
    return lines


def own_fields(node, comments):
    "Fields of a data class that have a comment, by their names: two lines each"
    fields = {}
    for item in node.body:
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
            name, text = item.target.id, comments.get(item.end_lineno)
            if text:
                fields[name] = described(name, item.annotation, item.value, text)
    return fields


def fields_of(node, comments, known):
    "Lines about the fields of a data class, and of those that it comes from"
    fields = {}
    for base in reversed(node.bases):
        if isinstance(base, ast.Name) and base.id in known:
            fields |= fields_of(*known[base.id], known)
    return fields | own_fields(node, comments)


def returns_of(function, comments, last):
    "Lines about the value, which the comment behind the head tells; last: line of the head"
    if function.returns is None or ast.unparse(function.returns) == "None":
        return []
    text = comments.get(last)
    return [ast.unparse(function.returns), *([f"    {text}"] if text else [])]


def head_ends(function):
    "The last line of `def …:`"
    return function.returns.end_lineno if function.returns else function.lineno


def sections(node, comments, known):
    "What a docstring has to tell beyond its summary"
    back = []
    if isinstance(node, ast.ClassDef):
        inits = [f for f in node.body if isinstance(f, ast.FunctionDef) and f.name == "__init__"]
        if inits:
            told = parameters_of(inits[0], comments)
        else:
            told = [line for field in fields_of(node, comments, known).values() for line in field]
    else:
        told = parameters_of(node, comments)
        back = returns_of(node, comments, head_ends(node))
    if not told:
        return []
    lines = ["Parameters", "----------", *told]
    return lines + (["", "Returns", "-------", *back] if back else [])


def whole_docstring(node, comments, known):
    "The whole docstring of a class or function, as lines of source; None: it stays as it is"
    first = node.body[0]
    text = ast.get_docstring(node)
    if not text or node.name.startswith("_"):
        return None
    more = sections(node, comments, known)
    if not more:
        return None
    summary = SECTION.sub("", text).rstrip()
    indent = " " * first.col_offset
    raw = 'r"""' if "\\" in summary + "".join(more) else '"""'
    lines = [raw + summary.splitlines()[0], *summary.splitlines()[1:], "", *more, '"""']
    return [(indent + line).rstrip() for line in lines]


def classes_of(sources):
    "Each class of some modules by its name: its node, and the comments of its module"
    known = {}
    for source in sources:
        comments = comments_of(source)
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.ClassDef):
                known[node.name] = node, comments
    return known


def rewritten(source, known):
    "A module whose docstrings tell of the parameters; known: the classes of all modules"
    comments, lines = comments_of(source), source.splitlines()
    nodes = [
        n for n in ast.walk(ast.parse(source)) if isinstance(n, (ast.ClassDef, ast.FunctionDef))
    ]
    for node in sorted(nodes, key=lambda n: -n.lineno):
        new = whole_docstring(node, comments, known)
        if new:
            first = node.body[0]
            lines[first.lineno - 1 : first.end_lineno] = new
    return "\n".join(lines) + "\n"


def generated(package):
    "Modules that notebooks have written, and their text"
    for path in sorted(package.rglob("*.py")):
        source = path.read_text(encoding="utf-8")
        if "AUTOGENERATED" in source and path.name != "_modidx.py":
            yield path, source


def main():
    package = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "nsgf_nb"
    sources = dict(generated(package))
    known = classes_of(sources.values())
    for path, source in sources.items():
        new = rewritten(source, known)
        if new != source:
            path.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    main()
