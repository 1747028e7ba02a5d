"""Every error says what was given, what is allowed and what to try."""

from __future__ import annotations

import ast
import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest

import basinscope
from basinscope.errors import BasinscopeError, nearest

SOURCE = Path(basinscope.__file__).parent
ERRORS = {"BasinscopeError", "DivergedError", "LaterVersionError"}


def calls(tree: ast.AST) -> Iterator[ast.Call]:
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id in ERRORS
        ):
            yield node


def literals(node: ast.expr) -> Iterator[str]:
    """What a text begins with, where the source says it."""
    if isinstance(node, ast.Constant):
        yield node.value
    elif isinstance(node, ast.JoinedStr):
        yield ast.unparse(node.values[0]) if node.values else ""
    elif isinstance(node, ast.IfExp):
        yield from (text for branch in (node.body, node.orelse) for text in literals(branch))


def faults(source: str) -> list[str]:
    wrong = []
    for call in calls(ast.parse(source)):
        texts = [text.strip("'\" ") for part in call.args for text in literals(part)]
        whole = len(call.args) == 3 and not call.keywords
        passed_on = len(call.args) == 1 and isinstance(call.args[0], ast.Starred)
        if not (whole or passed_on) or any(
            not text or text.startswith(("allowed", "try")) for text in texts
        ):
            wrong.append(f"line {call.lineno}: {ast.unparse(call)}")
    return wrong


def test_every_error_of_the_package_has_three_texts_without_labels():
    sources = {path: path.read_text() for path in SOURCE.rglob("*.py")}
    assert sum(len(list(calls(ast.parse(text)))) for text in sources.values()) > 300
    assert {path: wrong for path, text in sources.items() if (wrong := faults(text))} == {}


@pytest.mark.parametrize(
    "texts",
    ["'x'", "'x', 'at least 1'", "'x', '', '1'", "'x', 'allowed: 1', '1'", "'x', '1', f'try {x}'",
     "'x', '1', '' if x else '2'", "'x', '1', try_='2'"],
)  # fmt: skip
def test_what_lacks_a_text_or_says_a_label_is_seen(texts):
    assert faults(f"BasinscopeError({texts})")


def test_all_errors_are_looked_at():
    subclasses = {
        node.name
        for path in SOURCE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef)
        and any(getattr(base, "id", "") in ERRORS for base in node.bases)
    }
    assert subclasses == ERRORS - {"BasinscopeError"}


def test_the_line_has_both_labels_and_survives_pickling():
    error = BasinscopeError("draws=0", "at least 1", "20")
    assert str(error) == "draws=0; allowed: at least 1; try: 20"
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_the_nearest_of_several_are_joined():
    assert nearest("frontie", ["frontier", "front", "x"], 2) == "frontier or front"
    assert nearest("code", ["codes", "coded0", "cod"], 3).count(", ") == 1
