"""What MkDocs makes of the docstrings: a page for the package, and one for each of its rooms.

A page has the names of its room's ``__all__``, each where it is defined, and a table of the room's
files. A name that the package exports itself stands on the page of the package alone.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from griffe import Extension
from latex2mathml.converter import convert
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

import basinscope

FOLDER = "reference/api"
DOCTEST = re.compile(r"^( *)>>> .*(?:\n\1\S.*)*", re.MULTILINE)
EQUATION = re.compile(r"^( *)\.\. math::((?:.*)(?:\n\1 +\S.*)*)", re.MULTILINE)
FORMULA = re.compile(r":math:`([^`]*)`")
ELSEWHERE = re.compile(
    r"""<(?:script|link|img|iframe)[^>]* (?:src|href)=["']?(?:https?:)?//[^>]*>"""
)
ROLE = re.compile(r":(?:func|meth|class|mod):(`[^`]*`)")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages to those that lie in the folder (a hook of MkDocs)."""
    rooms = {m.name for m in pkgutil.iter_modules(basinscope.__path__) if m.ispkg}
    files.append(File.generated(config, f"{FOLDER}/basinscope.md", content=_page(basinscope)))
    security = (Path(__file__).parents[1] / "SECURITY.md").read_text(encoding="utf-8")
    files.append(File.generated(config, "security.md", content=security))
    for name in rooms - {"cli"}:  # its names are commands
        room = importlib.import_module(f"basinscope.{name}")
        files.append(File.generated(config, f"{FOLDER}/{name}.md", content=_page(room)))
    return files


def on_post_page(output: str, *, page: Page, **_: Any) -> str:
    """Refuse a page that would load something from another host (a hook of MkDocs)."""
    if loads := ELSEWHERE.search(output):
        raise PluginError(f"{page.file.src_uri} loads from another host: {loads[0]}")
    return output


def _page(room: ModuleType) -> str:
    """Text of a page: the room's docstring, its files, its names."""
    names = [n for n in getattr(room, "__all__", ()) if hasattr(getattr(room, n), "__qualname__")]
    shared = [n for n in names if room is not basinscope and n in basinscope.__all__]
    text = [f"# {room.__name__}", markdown(inspect.getdoc(room) or "")]
    if shared:
        links = ", ".join(f"[`{n}`](basinscope.md#{_path(room, n)})" for n in shared)
        text.append(f"Exported by `basinscope` itself: {links}.")
    text += [_entry(room, name) for name in names if name not in shared]
    if room is not basinscope:
        text += ["## Files", "| file | what is in it |\n|---|---|\n" + "\n".join(_files(room))]
    return "\n\n".join(text) + "\n"


def _entry(room: ModuleType, name: str) -> str:
    """Where mkdocstrings puts the signature and the docstring of a name."""
    return f"::: {_path(room, name)}\n    options: {{heading: {name}, toc_label: {name}}}"


def _path(room: ModuleType, name: str) -> str:
    """Full name of what a room exports, where it is defined."""
    thing = getattr(room, name)
    return f"{thing.__module__}.{thing.__qualname__}"


def _files(room: ModuleType) -> list[str]:
    """Rows of a table: a file, and the first line of its docstring."""
    rows = []
    for file in sorted(Path(p) for folder in room.__path__ for p in Path(folder).glob("*.py")):
        docstring = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
        if not file.name.startswith("__"):
            rows.append(f"| `{file.name}` | {docstring.splitlines()[0]} |")
    return rows


def markdown(docstring: str) -> str:
    """A docstring with its examples as blocks of code and its formulas as MathML.

    Browsers draw MathML by themselves: nothing is loaded from anywhere.
    """
    text = DOCTEST.sub(lambda m: f"{m[1]}```pycon\n{m[0]}\n{m[1]}```", docstring)
    text = EQUATION.sub(lambda m: m[1] + _formula(m[2], "block"), text)
    text = FORMULA.sub(lambda m: _formula(m[1], "inline"), text)
    return ROLE.sub(r"\1", text)


def _formula(latex: str, display: Literal["block", "inline"]) -> str:
    latex = " ".join(latex.split())
    return convert(
        rf"\begin{{aligned}}{latex}\end{{aligned}}" if "&" in latex else latex, display=display
    )


class Markdown(Extension):
    """Docstrings as `markdown` has them, for griffe, which reads them for mkdocstrings."""

    def on_object(self, *, obj: Any, **_: Any) -> None:
        """Called with every function, class, module and attribute."""
        if obj.docstring:
            obj.docstring.value = markdown(obj.docstring.value)
