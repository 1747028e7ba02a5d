"""The package as a whole: what importing it loads, and its names."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import resource
import subprocess
import sys
from pathlib import Path

import pytest

import basinscope as bs

ROOMS = sorted(m.name for m in pkgutil.iter_modules(bs.__path__) if m.ispkg and m.name != "cli")


def run(code: str) -> str:
    """What a new process prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_importing_loads_none_of_the_rooms():
    code = (
        "import sys, basinscope; basinscope.__all__; "
        "print([m for m in ('torch', 'numpy', 'transformers', 'basinscope.errors') "
        "if m in sys.modules])"
    )
    assert run(code) == "[]"


def test_a_measuring_function_loads_neither_transformers_nor_the_compiler():
    code = (
        "import sys, basinscope; basinscope.landscape; basinscope.load; "
        "print([m for m in ('transformers', 'torch._dynamo', 'datasets', 'matplotlib') "
        "if m in sys.modules])"
    )
    assert run(code) == "[]"


@pytest.mark.parametrize("name", ["attack", "certify", "check", "landscape", "tasks"])
@pytest.mark.parametrize("order", ["room first", "name first"])
def test_functions_keep_their_names_beside_rooms_of_the_same_name(name, order):
    lines = [f"from basinscope.{name} import *", f"f = basinscope.{name}"]
    code = "; ".join(["import basinscope", *(lines if order == "room first" else lines[::-1])])
    print_it = f"from basinscope import {name}; print(callable(f), f is {name}, f.__name__)"
    assert run(f"{code}; {print_it}") == f"True True {name}"


def test_there_are_at_most_thirty_names_and_every_one_is_there():
    assert len(bs.__all__) <= 30
    assert all(hasattr(bs, name) for name in bs.__all__)
    assert set(bs.__all__) <= set(dir(bs))
    with pytest.raises(AttributeError, match="module 'basinscope' has no attribute 'Choices'"):
        bs.Choices  # noqa: B018
    assert bs.__version__[0].isdigit()


def test_type_checkers_see_the_names_that_there_are():
    tree = ast.parse(Path(bs.__file__).read_text(encoding="utf-8"))
    imports = [
        node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level == 0
    ]
    seen = {
        alias.asname: getattr(importlib.import_module(node.module), alias.name)
        for node in imports
        for alias in node.names
        if node.module.startswith("basinscope.")
    }
    assert seen == {name: getattr(bs, name) for name in bs.__all__}


@pytest.mark.parametrize("room", ROOMS)
def test_every_name_of_a_room_is_there(room):
    module = importlib.import_module(f"basinscope.{room}")
    names = getattr(module, "__all__", [])
    assert [name for name in names if not hasattr(module, name)] == []
    assert module.__doc__


def test_the_help_takes_less_than_a_second_of_the_processor():
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-m", "basinscope.cli", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert "landscape" in done.stdout
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.0
